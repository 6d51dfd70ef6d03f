"""Transfer of arrays to a device, and detection of out-of-memory errors of all libraries."""

import numpy as np
import torch
from torch import Tensor

WORDS = (
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # cuBLAS makes its workspace at the first product
    "CUDNN_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "can't allocate memory",
    "not enough memory",
)
"""Parts of messages of PyTorch (CUDA and CPU), cuBLAS and cuDNN."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means out of memory: PyTorch's own class, or a `RuntimeError` with such a message."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word.lower() in str(error).lower() for word in WORDS)


def sent(array: np.ndarray, device: torch.device) -> Tensor:
    """The array on a device. From pinned memory a GPU copies it asynchronously."""
    host = torch.from_numpy(array)
    if device.type == "cuda":
        host = host.pin_memory()
    return host.to(device, non_blocking=True)
