"""4-bit weights of the library bitsandbytes, and their values."""

from math import prod

from torch import Tensor


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is stored in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def unpacked(weight: Tensor) -> Tensor:
    """The dequantised weight [d_out, d_in], computed at each call."""
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return found


def numbers_in(weight: Tensor) -> int:
    """Number of elements of a weight; a 4-bit one has two per byte."""
    return prod(weight.quant_state.shape) if is_packed(weight) else weight.numel()  # type: ignore[attr-defined]
