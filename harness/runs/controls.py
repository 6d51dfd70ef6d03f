"""Controls: studies that differ from another one in the backbone's weights alone, which are drawn anew."""

RANDOM_INIT = "random-init"
"""Caveat of their records; behind the backbone's name it is theirs."""

SUFFIX = f"@{RANDOM_INIT}"


def control_name(backbone: str) -> str:
    """The backbone's name in the results of its control."""
    return backbone + SUFFIX


def is_control(backbone: str) -> bool:
    """Whether results of this name are those of a control."""
    return backbone.endswith(SUFFIX)


def pretrained_of(backbone: str) -> str:
    """The backbone that a control has fresh weights of."""
    return backbone.removesuffix(SUFFIX)
