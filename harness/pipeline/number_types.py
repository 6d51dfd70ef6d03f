"""The number type of frozen weights: chosen once for an output folder, on a worker, and the same from then on.

The driver's own device says nothing: on a cluster its machine has often no GPU, or another one. Machines that differ
all use the type that was chosen, as results of two types do not compare.
"""

from collections.abc import Callable

from harness.config.studies import Plan
from harness.pool.resources import NODE_START_S, WorkerLayout
from harness.runs.store import ResultStore, frozen_in
from harness.workers.number_types import asked, look
from lingo.methods import METHODS


def settle(
    checked: Plan,
    store: ResultStore,
    layout: WorkerLayout,
    say: Callable[[str], None],
    wait_s: float = NODE_START_S,
) -> Plan:
    """The plan with the number type of frozen weights: the one asked for, the folder's, or the one that suits the
    device of a worker, which then is the folder's. Ray must be up.

    Args:
        layout: Worker groups, for what a worker has.
        say: Takes a line for the user.
        wait_s: Seconds that the first machine of a cluster may take.

    Raises:
        RunStopped: When no worker answers, or its GPU cannot be used.
    """
    rows = [METHODS[study.method] for study in checked.studies]
    if not any(row.needs_backbone and not row.trains_all for row in rows):
        return checked.holding(checked.frozen)
    device, native = asked(layout.cpus, layout.gpus, wait_s) if layout.gpus else look()
    known = checked.frozen or frozen_in(checked.out)
    frozen = known or ("bf16" if native else "fp32")
    store.hold(frozen)
    why = "--frozen" if checked.benchmark.frozen else "as in this folder" if known else device
    say(f"Frozen weights are {frozen} ({why}), trained weights fp32.")
    if frozen == "bf16" and layout.gpus and not native:
        say(
            f"{device} does not support bf16 natively and emulates it: slower than --frozen fp32 (which needs a new "
            "--out)."
        )
    return checked.holding(frozen)
