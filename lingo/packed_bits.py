"""Weights that are held in 4 bits by the library bitsandbytes, and what they stand for."""

from math import prod

from torch import Tensor


def is_packed(weight: Tensor) -> bool:
    """Whether a weight is held in 4 bits."""
    return getattr(weight, "quant_state", None) is not None


def unpacked(weight: Tensor) -> Tensor:
    """The weight [d_out, d_in] that a 4-bit one stands for, made anew at each call."""
    from bitsandbytes.functional import dequantize_4bit

    found: Tensor = dequantize_4bit(weight.data, weight.quant_state)  # type: ignore[attr-defined]
    return found


def numbers_in(weight: Tensor) -> int:
    """How many numbers a weight has; a 4-bit one holds two in each of its bytes."""
    return prod(weight.quant_state.shape) if is_packed(weight) else weight.numel()  # type: ignore[attr-defined]
