"""Names of backbones with fresh weights, without torch."""

START = "random-init:"


def fresh_name(source: str, seed: int) -> str:
    """What stands for a backbone with weights drawn from `seed`, wherever one is loaded by its name."""
    return f"{START}{seed}:{source}"


def parts_of(name: str) -> tuple[int | None, str]:
    """(seed of fresh weights or `None` for the pretrained ones, source of the backbone)."""
    seed, colon, source = name.removeprefix(START).partition(":")
    return (int(seed), source) if name.startswith(START) and colon else (None, name)
