"""Whether a worker's device supports bfloat16 natively."""

from typing import Any

from harness.core.errors import RunStopped
from harness.pool.machines import too_late
from harness.pool.resources import NODE_START_S
from harness.workers.engines import refuse_unusable
from lingo.quantized import native_bf16


def look(gpus: float = 0) -> tuple[str, bool]:
    """Name of the device of a worker in this process, and whether it supports bfloat16 natively.

    Raises:
        ValueError: If the assigned GPU cannot be used.
    """
    import torch

    refuse_unusable(gpus)
    return (
        (torch.cuda.get_device_name(), native_bf16("cuda"))
        if gpus and torch.cuda.is_available()
        else ("CPU", False)
    )


def asked(cpus: float, gpus: float, wait_s: float = NODE_START_S) -> tuple[str, bool]:
    """`look` on a node where a worker would run.

    Args:
        wait_s: Seconds that the first machine of a cluster may take.

    Raises:
        RunStopped: If none has come by then, or its GPU cannot be used.
    """
    import ray

    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(look)
    running = task.remote(gpus)
    try:
        found: tuple[str, bool] = ray.get(running, timeout=wait_s)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(running, force=True)
        raise RunStopped(too_late(wait_s)) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise RunStopped(" ".join(str(cause).split())[:300]) from error
    return found
