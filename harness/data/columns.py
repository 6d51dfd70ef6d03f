"""Roles of a table's columns: by common names, or as requested."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SEQUENCE = ("sequence", "seq", "dna", "dna_sequence", "dna_seq", "text", "sequences")
PAIR = tuple(
    tuple(f"{stem}{mark}{end}" for stem in ("sequence", "seq") for mark in ("_", "") for end in ends)
    for ends in ("a1", "b2")
)
"""Names of the two sequences of a pair: `sequence_a` and `sequence_b`, `seq1` and `seq2`, …"""

LABEL = ("label", "labels", "class")
TARGET = ("target", "targets")
ID = ("id", "name", "seq_id", "sequence_id", "seqname")
SPLIT = ("split", "set", "partition")
TASK = ("task",)
CHROMOSOME = ("chrom", "chr", "chromosome")
PLACES = (*CHROMOSOME, "start", "end", "stop", "strand", "pos", "position")
INDEX = ("", "index", "idx", "level_0")
ROLES = {
    "sequence": SEQUENCE,
    "sequence_a": PAIR[0],
    "sequence_b": PAIR[1],
    "label": LABEL,
    "target": TARGET,
    "id": ID,
    "split": SPLIT,
    "task": TASK,
}
"""Column names of each role, in order of preference."""

KNOWN = frozenset(name for names in ROLES.values() for name in names) | {
    "label_0",
    "label_1",
    "target_0",
    "target_1",
}
EXPECTED = "`sequence` and `label`, or `label_0`, `label_1`, …, or `target`"
CURE = "`--columns sequence=NAME,label=NAME` (or `target=NAME`) says which are which"
WIDTH = 60
"""Maximum number of characters of a file's content in a message."""


def shown(text: str, width: int = WIDTH) -> str:
    """The first characters of a text."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def listed(names: Sequence[str]) -> str:
    """Names of columns, the first ones of many, for a message."""
    some = [shown(name, 30) or "(no name)" for name in names[:8]]
    return ", ".join(some) + (f" and {len(names) - 8} more" if len(names) > 8 else "") or "none"


def plain(name: str) -> str:
    """A column's name, normalised for comparison."""
    text = name.strip().lstrip("#").casefold()
    return "" if re.fullmatch(r"unnamed: \d+", text) else text


@dataclass(frozen=True)
class Roles:
    """Column numbers by role.

    Attributes:
        sequence: The sequence; of a pair the first one.
        second: The second sequence of a pair; `None` for single sequences.
        labels: The labels or targets in order; empty if they are in another file.
        names: Their names.
        say: Their meaning by name: `label`, `target`, or `unknown` if the values must decide.
        id, split, task: These columns, if present.
        aside: Names of the ignored columns.
        found: Notes for the user on names that differ from the standard ones.
    """

    sequence: int
    labels: tuple[int, ...] = ()
    names: tuple[str, ...] = ()
    say: str = "label"
    id: int | None = None
    split: int | None = None
    task: int | None = None
    second: int | None = None
    aside: tuple[str, ...] = ()
    found: str = ""

    @property
    def layout(self) -> tuple[object, ...]:
        """What must be the same in all files of a task: labels, their names, and whether sequences are pairs."""
        return self.say, self.names, self.second is None


def find_columns(
    names: Sequence[str],
    asked: Mapping[str, str],
    *,
    labels: bool = True,
    sequence: bool = True,
    guess: bool = True,
) -> Roles | str:
    """Assign roles to columns, or return the reason why that is impossible.

    Args:
        names: Column names as in the file.
        asked: Requested column of each role: `sequence` (or `sequence_a` and `sequence_b`), `label`, `target`,
            `id`, `split`, `task`; several label columns are joined by `+`.
        labels: Whether labels or targets are required.
        guess: Whether columns without a known name may be labels.
        sequence: Whether a sequence is required; otherwise a column `id` identifies the row (`sequence` is -1 then).
    """
    known = [plain(name) for name in names]
    places: dict[str, tuple[int, ...]] = {}
    for role, wanted in asked.items():
        found = [_asked(known, name) for name in ([wanted] if wanted in names else wanted.split("+"))]
        lacking = next((one for one in found if isinstance(one, str)), None)
        if lacking is not None:
            return f"`--columns {role}={shown(wanted)}` must name a column, but {lacking}; there are {listed(names)}."
        places[role] = tuple(one for one in found if isinstance(one, int))
    taken = {i for found in places.values() for i in found}
    pair = _pair(known, places, taken) if sequence else {}
    if isinstance(pair, str):
        return f"{pair}; there are {listed(names)}."
    places = places | pair
    taken |= {i for found in pair.values() for i in found}
    for role in ("sequence", "id", "split", "task") if sequence else ("id",):
        if role not in places:
            here = _by_name(known, ROLES[role], taken)
            if role == "sequence" and len(here) > 1:
                return (
                    f"must have one column of sequences, but has {listed([names[i] for i in here])}; {CURE}."
                )
            if here:
                places[role] = here[:1]
                taken.add(here[0])
    if not sequence and "id" not in places:
        return f"the columns must be `id` and `label` or `target`, but are {listed(names)}; {CURE}."
    if sequence and "sequence" not in places:
        what = EXPECTED if labels else "`sequence`, or one of seq, dna and text"
        return f"the columns must be {what}, but are {listed(names)}; {CURE}."
    id_, split, task = (places[role][0] if role in places else None for role in ("id", "split", "task"))
    at = places["sequence"][0] if sequence else -1
    second = pair["sequence_b"][0] if pair else None
    if not labels:
        return Roles(
            at, id=id_, split=split, task=task, second=second, found=_found(names, known, at, second, ())
        )
    picked = _label_columns(names, known, places, taken)
    if isinstance(picked, str):
        return picked
    if picked[0] == "unknown" and not guess:
        return f"the columns must be `sequence` and `label`, but are {listed(names)}."
    say, columns = picked
    used = {at, *columns, *(i for i in (id_, split, task, second) if i is not None)}
    aside = tuple(name.strip() or "(no name)" for i, name in enumerate(names) if i not in used)
    named = tuple(names[i].strip() for i in columns)
    story = _found(names, known, at, second, columns)
    return Roles(
        at, columns, named, say, id=id_, split=split, task=task, second=second, aside=aside, found=story
    )


def _pair(
    known: Sequence[str], places: Mapping[str, tuple[int, ...]], taken: set[int]
) -> dict[str, tuple[int, ...]] | str:
    """Columns of the sequences of a pair, the first one also as `sequence`; empty for single sequences."""
    asked = [role for role in ("sequence_a", "sequence_b") if role in places]
    if asked and (len(asked) == 1 or "sequence" in places):
        return (
            "`--columns` must name both `sequence_a=` and `sequence_b=` of a pair, and no other `sequence=`"
        )
    found = {
        role: places.get(role) or _by_name(known, ROLES[role], taken) for role in ("sequence_a", "sequence_b")
    }
    single = "sequence" in places or "sequence" in known
    if not asked and (single or any(len(here) != 1 for here in found.values())):
        return {}
    return {**found, "sequence": found["sequence_a"]}


def _found(
    names: Sequence[str], known: Sequence[str], sequence: int, second: int | None, columns: Sequence[int]
) -> str:
    parts = []
    if second is not None:
        parts.append(
            f"pairs of sequences are in `{shown(names[sequence], 30)}` and `{shown(names[second], 30)}`"
        )
    elif sequence >= 0 and known[sequence] != "sequence":
        parts.append(f"sequences are in `{shown(names[sequence], 30)}`")
    usual = {"label", "target", *(f"label_{i}" for i in range(len(columns)))}
    if any(known[i] not in usual for i in columns):
        what = "labels" if len(columns) == 1 else f"{len(columns)} outputs"
        parts.append(f"{what} in {listed([names[i].strip() for i in columns])}")
    return " and ".join(parts)


def _asked(known: Sequence[str], name: str) -> int | str:
    if known.count(plain(name)) == 1:
        return known.index(plain(name))
    return f"{shown(name)!r} is {'there more than once' if plain(name) in known else 'not there'}"


def _by_name(known: Sequence[str], names: Sequence[str], taken: set[int]) -> tuple[int, ...]:
    """Columns of the first known name that is present; for sequences, those of all further names too."""
    free = [i for i in range(len(known)) if i not in taken]
    exact = tuple(i for i in free if known[i] == names[0])
    return exact or tuple(i for i in free if known[i] in names)


def _label_columns(
    names: Sequence[str], known: Sequence[str], places: Mapping[str, tuple[int, ...]], taken: set[int]
) -> tuple[str, tuple[int, ...]] | str:
    """The meaning of the label columns by their names, and their numbers."""
    if "label" in places and "target" in places:
        return f"`--columns` must name labels or targets, but names both; there are {listed(names)}."
    for role in ("label", "target"):
        if role in places:
            return role, places[role]
    free = [i for i in range(len(known)) if i not in taken]
    single = {role: tuple(i for i in free if known[i] in ROLES[role]) for role in ("label", "target")}
    numbered = {role: _numbered(known, free, role) for role in ("label", "target")}
    found = [(role, held[role]) for held in (single, numbered) for role in held if held[role]]
    if len(found) == 1 and (found[0][1] == numbered[found[0][0]] or len(found[0][1]) == 1):
        return found[0]
    if found:
        return f"the columns must be {EXPECTED}, but are {listed(names)}; {CURE}."
    other = [
        i
        for i in free
        if known[i] not in (*INDEX, *PLACES, *ID, *SPLIT, *TASK, *SEQUENCE, *PAIR[0], *PAIR[1])
    ]
    if not other or any(re.fullmatch(r"(label|target)s?_?\d+", known[i]) for i in other):
        return f"the columns must be {EXPECTED}, but are {listed(names)}; {CURE}."
    return "unknown", tuple(other)


def _numbered(known: Sequence[str], free: Sequence[int], stem: str) -> tuple[int, ...]:
    """Columns `label_0`, `label_1`, … (or from 1) in numerical order; empty if one is missing."""
    found = {int(m[1]): i for i in free if (m := re.fullmatch(rf"{stem}s?_?(\d+)", known[i]))}
    numbers = sorted(found)
    whole = numbers and numbers[0] in (0, 1) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    return tuple(found[n] for n in numbers) if whole else ()
