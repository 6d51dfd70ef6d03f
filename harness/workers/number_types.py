"""Whether a worker's device supports bfloat16 natively."""

from typing import Any

from harness.core.errors import RunStopped
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
    return (torch.cuda.get_device_name(), native_bf16("cuda")) if gpus else ("CPU", False)


def asked(cpus: float, gpus: float) -> tuple[str, bool]:
    """`look` on a node where a worker would run."""
    import ray

    task: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=3)(look)
    running = task.remote(gpus)
    try:
        found: tuple[str, bool] = ray.get(running, timeout=float(NODE_START_S))
    except ray.exceptions.GetTimeoutError:
        ray.cancel(running, force=True)
        raise RunStopped(
            f"no worker with {cpus:g} CPUs and {gpus:g} GPUs was available within {float(NODE_START_S):.0f} s."
        ) from None
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None) or error
        raise RunStopped(" ".join(str(cause).split())[:300]) from error
    return found
