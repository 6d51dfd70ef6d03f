"""A pretend accelerator: a device without hardware, on which tensors have shapes and no numbers.

An operator on two devices raises there, and so does whatever needs a number on the host (`.item()`, `bool(tensor)`,
`nonzero`). `NoReading` also refuses copies to the host, for the time of a training step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

from lingo.backbones import Backbone
from lingo.ranks import draw
from lingo.slot import Slot

DEVICE = torch.device("privateuseone", 0)
_REGISTERED: list[str] = []


class _Module(_DummyBackendModule):
    """`torch.pretend`; of no devices, so that the rest of a process goes on without it."""

    def device_count(self) -> int:
        return 0


class NoReading(TorchDispatchMode):
    """Refuses copies from the device to the host."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        moved = isinstance(out, Tensor) and out.device.type == "cpu"
        if moved and any(isinstance(one, Tensor) and one.device.type == DEVICE.type for one in args):
            raise AssertionError(f"{func} copies from the device to the host.")
        return out


@contextmanager
def pretending() -> Iterator[None]:
    """Fake tensors, on the host and on `DEVICE`; the host's own draws, which become NumPy arrays, stay real."""
    if not _REGISTERED:
        _setup_privateuseone_for_python_backend("pretend", backend_module=_Module())
        _REGISTERED.append("pretend")

    def really(function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with unset_fake_temporarily():
                return function(*args, **kwargs)

        return call

    make = torch.tensor

    def tensor(data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        with unset_fake_temporarily():
            host = make(data, dtype=dtype)
        return torch.empty(host.shape, dtype=host.dtype, device=device)

    def numbers(tensor: Tensor) -> NDArray[Any]:
        assert tensor.device.type == "cpu"
        return np.zeros(tensor.shape)

    with (
        patch.object(torch, "tensor", tensor),
        patch.object(FakeTensor, "numpy", numbers, create=True),
        patch.object(Slot, "batch", really(Slot.batch)),
        patch("lingo.pack.draw", really(draw)),
        FakeTensorMode(allow_non_fake_inputs=True),
    ):
        yield


def move(backbone: Backbone) -> Backbone:
    """Put a backbone on the device: its parameters and buffers are replaced there, tied ones by the same."""
    seen: dict[int, Tensor] = {}

    def there(tensor: Tensor) -> Tensor:
        if id(tensor) not in seen:
            made = torch.empty(tensor.shape, dtype=tensor.dtype, device=DEVICE)
            seen[id(tensor)] = (
                nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made
            )
        return seen[id(tensor)]

    for module in backbone.model.modules():
        for held in (module._parameters, module._buffers):
            held.update({name: there(tensor) for name, tensor in held.items() if tensor is not None})
    return backbone
