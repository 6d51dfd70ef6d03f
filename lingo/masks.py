"""transformers' attention masks without reading tensor values.

It reads tensors back to find out whether a mask masks anything (one that does not allows a faster kernel) and whether a
row holds several sequences. On a GPU each look is a wait in the middle of a step. Both answers are known here without
looking: rows hold one sequence each, and `Backbone.states` passes a mask only where the host knows of padding.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel, masking_utils

PACKED = "find_packed_sequence_indices"
IGNORED = ("_ignore_bidirectional_mask_sdpa", "_ignore_causal_mask_sdpa")
WARNS = "warn_if_padding_and_no_attention_mask"
"""The functions of transformers (5.17 to 5.23) that read values; the last one is a method of every model."""


@contextmanager
def unread(*, causal: bool) -> Iterator[None]:
    """Within the block a given mask is kept, and each row counts as one sequence.

    Args:
        causal: Whether a token attends to preceding tokens only: padding on the right is then never read, and a mask of
            padding is left out.
    """

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def without_padding(look: Any) -> Any:
        def ignored(padding_mask: Any, *args: Any, **kwargs: Any) -> bool:
            return (padding_mask is None or causal) and bool(look(None, *args, **kwargs))

        return ignored

    found = [
        (owner, name, getattr(owner, name))
        for owner, name in (*((masking_utils, name) for name in (PACKED, *IGNORED)), (PreTrainedModel, WARNS))
        if hasattr(owner, name)
    ]
    try:
        for owner, name, look in found:
            setattr(owner, name, without_padding(look) if name in IGNORED else nothing)
        yield
    finally:
        for owner, name, look in found:
            setattr(owner, name, look)
