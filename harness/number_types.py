"""The number type of frozen weights: chosen once for an output folder, on a worker, and the same from then on.

The driver's own device says nothing: on a cluster its machine has often no GPU, or another one. Machines that differ
all use the type that was chosen, as results of two types do not compare.
"""

from collections.abc import Callable
from typing import Any

from harness.cluster import NODE_START_S
from harness.engines import refuse_unusable
from harness.errors import RunStopped
from harness.machine import Shape
from harness.plan import Plan
from harness.results import ResultStore, frozen_in
from lingo.methods import METHODS
from lingo.quantized import native_bf16


def settle(checked: Plan, store: ResultStore, shape: Shape, say: Callable[[str], None]) -> Plan:
    """The plan with the number type of frozen weights: the one asked for, the folder's, or the one that suits the
    device of a worker, which then is the folder's. Ray must be up.

    Args:
        shape: Worker groups, for what a worker has.
        say: Takes a line for the user.

    Raises:
        RunStopped: When no worker answers, or its GPU cannot be used.
    """
    rows = [METHODS[study.method] for study in checked.studies]
    if not any(row.needs_backbone and row.adapter != "none" for row in rows):
        return checked.holding(checked.frozen)
    device, native = _asked(shape.cpus, shape.gpus) if shape.gpus else look()
    known = checked.frozen or frozen_in(checked.out)
    frozen = known or ("bf16" if native else "fp32")
    store.hold(frozen)
    why = "as asked for" if checked.benchmark.frozen else "as this folder has them" if known else device
    say(f"Frozen weights are {frozen} ({why}), trained ones fp32.")
    if frozen == "bf16" and shape.gpus and not native:
        say(
            f"{device} has no bf16 of its own and emulates it: slower than --frozen fp32, in a folder of its own."
        )
    return checked.holding(frozen)


def look(gpus: float = 0) -> tuple[str, bool]:
    """Name of the device of a worker in this process, and whether it computes in bfloat16 itself.

    Raises:
        ValueError: If a GPU was given that cannot be used.
    """
    import torch

    refuse_unusable(gpus)
    return (torch.cuda.get_device_name(), native_bf16("cuda")) if gpus else ("CPU", False)


def _asked(cpus: float, gpus: float) -> tuple[str, bool]:
    """`look` where a worker would run."""
    import ray

    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(look)
    running = task.remote(gpus)
    try:
        found: tuple[str, bool] = ray.get(running, timeout=float(NODE_START_S))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(running, force=True)
        raise RunStopped(
            f"no worker with {cpus:g} CPUs and {gpus:g} GPUs came within {float(NODE_START_S):.0f} s."
        ) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise RunStopped(" ".join(str(cause).split())[:300]) from error
    return found
