"""Controls: studies that differ from their pretrained study only in the backbone's weights, which are random."""

RANDOM_INIT = "random-init"
"""Caveat of their records, and suffix of the backbone's name."""

SUFFIX = f"@{RANDOM_INIT}"


def control_name(backbone: str) -> str:
    """The backbone's name in the results of its control."""
    return backbone + SUFFIX


def is_control(backbone: str) -> bool:
    """Whether a backbone's name is that of a control."""
    return backbone.endswith(SUFFIX)


def pretrained_of(backbone: str) -> str:
    """The pretrained backbone of a control."""
    return backbone.removesuffix(SUFFIX)
