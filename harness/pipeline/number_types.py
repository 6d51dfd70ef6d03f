"""Number types of frozen weights and of full fine-tuning: chosen once per output folder, on a worker.

The driver's device does not matter: on a cluster its machine often has no GPU, or another one. Different machines all
use the chosen type, because results of different types are not comparable.
"""

from collections.abc import Callable

from harness.config.plan import Plan
from harness.pool.resources import NODE_START_S, WorkerLayout
from harness.runs.store import ResultStore, frozen_in, precision_in
from harness.workers.number_types import asked, look
from lingo.methods import METHODS


def settle(
    checked: Plan,
    store: ResultStore,
    layout: WorkerLayout,
    say: Callable[[str], None],
    wait_s: float = NODE_START_S,
) -> Plan:
    """The plan with the number types of frozen weights and of full fine-tuning: the requested ones, the folder's, or
    those that suit the device of a worker, which are then stored in the folder. Ray must be running.

    Args:
        layout: Worker groups, for the resources of a worker.
        say: Takes a line for the user.
        wait_s: Time limit in seconds for the first machine of a cluster.

    Raises:
        RunStopped: If no worker answers, or its GPU cannot be used.
    """
    rows = [METHODS[study.method] for study in checked.studies]
    if not any(row.needs_backbone for row in rows):
        return checked.holding(checked.frozen, checked.precision)
    freezing, training = (
        any(row.needs_backbone and row.trains_all == whole for row in rows) for whole in (False, True)
    )
    device, native = asked(layout.cpus, layout.gpus, wait_s) if layout.gpus else look()
    known = checked.frozen or frozen_in(checked.out)
    usual = "bf16" if native else "fp32"
    frozen, precision = known or usual, checked.precision or precision_in(checked.out) or usual
    store.hold(precision=precision, **({"frozen": frozen} if freezing else {}))
    if freezing:
        why = "--frozen" if checked.benchmark.frozen else "as in this folder" if known else device
        say(f"Frozen weights are {frozen} ({why}), trained weights fp32.")
        if frozen == "bf16" and layout.gpus and not native:
            say(
                f"{device} does not support bf16 natively and emulates it: slower than --frozen fp32 (which needs a "
                "new --out)."
            )
    if training and precision == "bf16":
        say("Full fine-tuning computes in bf16 (autocast), its weights are fp32.")
    return checked.holding(frozen if freezing else checked.frozen, precision)
