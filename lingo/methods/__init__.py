"""The registry of fine-tuning methods. A method is one module, one row here, one search space, one test."""

from lingo.methods import adalora, ars, fmft, lingo, lora
from lingo.methods.base import Method

METHODS: dict[str, Method] = {
    method.name: method for method in (fmft.METHOD, lora.METHOD, adalora.METHOD, ars.METHOD, lingo.METHOD)
}

__all__ = ["METHODS", "Method"]
