"""Frozen weights in fewer bits: bfloat16, or 4 bits (NF4, arXiv:2305.14314) through the library bitsandbytes."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from lingo.backbones import Backbone, load_backbone
from lingo.packed_bits import is_packed
from lingo.trial import Frozen

AUTOCAST = "fp32, bf16 autocast"
"""The type of weights in full fine-tuning that computes in bfloat16."""

NEEDS_BITSANDBYTES = "pip install 'lingo-bench[4bit]'"


def four_bit_problem() -> str | None:
    """Why 4-bit weights are not possible here, in one line; `None` if they are."""
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        return f"needs the library bitsandbytes, which is not installed here: {NEEDS_BITSANDBYTES}"
    except Exception as error:  # its native part raises various errors for unknown drivers
        return (
            f"needs the library bitsandbytes, which does not load here ({str(error).splitlines()[0][:120]})."
        )
    if not torch.cuda.is_available():
        return "needs a CUDA device, and this machine has none; use `--frozen fp32` or `--frozen bf16`."
    return None


def native_bf16(device: str | torch.device) -> bool:
    """Whether it is a GPU with native bfloat16. Older ones, like a T4, emulate it, which is slower than float32."""
    cuda = torch.device(device).type == "cuda"
    return cuda and torch.cuda.is_bf16_supported(including_emulation=False)


def usual_type(device: str | torch.device) -> Frozen:
    """bfloat16 if native on the device, else float32."""
    return "bf16" if native_bf16(device) else "fp32"


def type_name(dtype: torch.dtype) -> str:
    """`fp32`, `bf16`, `fp64` …"""
    name = str(dtype).removeprefix("torch.")
    return name.replace("bfloat", "bf").replace("float", "fp")


def backbone_type(backbone: Backbone) -> str:
    """Number type of a backbone's weights: `fp32`, `bf16`, `4bit`, or `fp64` in tests of exactness."""
    if any(is_packed(parameter) for parameter in backbone.model.parameters()):
        return "4bit"
    return type_name(next(backbone.model.parameters()).dtype)


def load_frozen(
    name_or_path: str | Path,
    frozen: Frozen | None = None,
    *,
    device: str | torch.device = "cpu",
    revision: str | None = None,
) -> Backbone:
    """Load a backbone with the number type of its frozen weights.

    The checkpoint is compared with the model tensor by tensor before precision is reduced.

    Args:
        name_or_path: As for `load_backbone`.
        frozen: Type of the weights; `None` is bfloat16 if native on the device, else float32.
        device, revision: As for `load_backbone`.

    Raises:
        BackboneError: As `load_backbone` does.
        ValueError: If the machine or the backbone's layers have no 4-bit form, with one line that says why.
    """
    frozen = frozen or usual_type(device)
    if frozen != "4bit":
        dtype = torch.bfloat16 if frozen == "bf16" else torch.float32
        return load_backbone(name_or_path, dtype=dtype, device=device, revision=revision)
    problem = four_bit_problem()
    if problem is not None:
        raise ValueError(f"`--frozen 4bit` {problem}")
    backbone = load_backbone(name_or_path, dtype=torch.bfloat16, revision=revision)
    quantize(backbone)
    backbone.model.to(device)
    return backbone


def quantize(backbone: Backbone) -> None:
    """Replace the backbone's adaptable matrices by 4-bit ones, in place. They are packed when the model moves to
    its device; embeddings, normalisations and biases keep their type.

    Raises:
        ValueError: If a matrix is not an `nn.Linear` (GPT-2 has its own class).
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    for path in dict.fromkeys(path for paths in backbone.matrices.values() for path in paths):
        old = backbone.model.get_submodule(path)
        if not isinstance(old, nn.Linear):
            raise ValueError(
                f"`--frozen 4bit` has no form for {path} of {backbone.name} ({type(old).__name__}); use "
                "`--frozen bf16`."
            )
        new: Any = Linear4bit(
            old.in_features,
            old.out_features,
            bias=old.bias is not None,
            compute_dtype=old.weight.dtype,
            quant_type="nf4",
            device="meta",
        )
        new.weight = Params4bit(old.weight.data, requires_grad=False, quant_type="nf4", module=new)
        new.bias = old.bias
        parent, _, name = path.rpartition(".")
        setattr(backbone.model.get_submodule(parent), name, new.eval())
