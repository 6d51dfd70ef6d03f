"""Names of backbones with random weights, without torch."""

START = "random-init:"


def fresh_name(source: str, seed: int) -> str:
    """The name by which a backbone with weights drawn from `seed` is loaded."""
    return f"{START}{seed}:{source}"


def parts_of(name: str) -> tuple[int | None, str]:
    """(seed of fresh weights or `None` for the pretrained ones, source of the backbone)."""
    seed, colon, source = name.removeprefix(START).partition(":")
    return (int(seed), source) if name.startswith(START) and colon else (None, name)
