"""Variants of a task (other splits, few training rows), named by a suffix as in `mouse/2@homology-0.9@10-shot`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from harness.core.home import exists, path_of

Way = Literal["published", "homology", "chromosome"]
"""How rows are divided into train, dev and test."""

IDENTITY = 0.9
"""Default identity from which on two sequences are similar."""

PART = re.compile(
    r"@(?:homology-(?P<identity>0\.\d{1,4}|1)|(?P<way>chromosome)|(?P<shots>[1-9]\d{0,6})-shot|seed-(?P<seed>\d{1,9}))"
)


@dataclass(frozen=True)
class Variant:
    """How the rows of a task differ from the published ones.

    Attributes:
        way: How they are divided.
        identity: For `homology`: identity, estimated from 21-mers, from which on two sequences must be in the same
            split.
        shots: Training rows of each class; `None` for all.
        seed: Seed of the division and of the drawn rows.
    """

    way: Way = "published"
    identity: float = IDENTITY
    shots: int | None = None
    seed: int = 0

    @property
    def text(self) -> str:
        """The suffix of the task's name; empty for the published rows."""
        if self.way == "published" and self.shots is None:
            return ""
        way = {"published": "", "homology": f"@homology-{self.identity:g}", "chromosome": "@chromosome"}[
            self.way
        ]
        shots = "" if self.shots is None else f"@{self.shots}-shot"
        return f"{way}{shots}{f'@seed-{self.seed}' if self.seed else ''}"


PUBLISHED = Variant()


def _variant_of(said: Mapping[str, str]) -> Variant:
    """The variant of the groups of `PART` in a name."""
    way: Way = "homology" if "identity" in said else "chromosome" if "way" in said else "published"
    return Variant(
        way,
        float(said.get("identity", IDENTITY)),
        int(said["shots"]) if "shots" in said else None,
        int(said.get("seed", 0)),
    )


def parted_variant(name: str) -> tuple[str, Variant]:
    """Split a task's name into its base and its variant; the whole name of an existing file or folder has none."""
    first = name.find("@")
    if first < 1 or exists(path_of(name)):
        return name, PUBLISHED
    for match in re.finditer("@", name):
        base, rest = name[: match.start()], name[match.start() :]
        parts = list(PART.finditer(rest))
        if base and "".join(part.group() for part in parts) == rest:
            said = {key: value for part in parts for key, value in part.groupdict().items() if value}
            variant = _variant_of(said)
            return (base, variant) if variant.text == rest else (name, PUBLISHED)
    return name, PUBLISHED


def variant_problem(name: str) -> str:
    """What is wrong with the variant in a task's name, where `parted_variant` finds none, and what it may be; empty for
    a name without one."""
    base, at, rest = name.partition("@")
    if not (base and at):
        return ""
    parts = list(PART.finditer(at + rest))
    said = {key: value for part in parts for key, value in part.groupdict().items() if value}
    usual = ""
    if "".join(part.group() for part in parts) == at + rest and len(said) == len(parts):
        usual = f"; write {base}{_variant_of(said).text}"
    return (
        f"`--tasks`: the variant of {base} must be @homology-0.9 or @chromosome, @10-shot, or both in this order, then "
        f"@seed-3 unless the seed is 0, but got {at}{rest}{usual}."
    )


def without_variants(names: Iterable[str]) -> tuple[str, ...]:
    """Names of tasks without their variants, each once."""
    return tuple(dict.fromkeys(parted_variant(name)[0] for name in names))
