"""Reading options of a custom dataset, as they are written in a task's name: columns, splits, task and letters."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.core.errors import InputError
from harness.core.home import exists, path_of
from harness.data.columns import shown
from harness.data.hub import PREFIX
from harness.data.table_files import ENDINGS, PACKED_ENDINGS
from lingo.sequences import CASES, Case

COLUMNS = ("sequence", "sequence_a", "sequence_b", "label", "target", "id", "split", "task")


@dataclass(frozen=True)
class Reading:
    """Reading options of a custom dataset.

    Attributes:
        columns: Requested column for names of `COLUMNS`.
        dev, test: Values of the column `split` for these splits; all other rows are train.
        only: The value of the column `task` whose rows are used.
        labels: A table of labels, joined by `id`; empty for none.
        genome: FASTA file of the genome for intervals; empty for none.
        case: Meaning of lower case.
        on_error: Whether invalid rows are refused, or skipped and counted.
        name: Name of the task; empty for that of the file or folder.
    """

    columns: tuple[tuple[str, str], ...] = ()
    dev: tuple[str, ...] = ()
    test: tuple[str, ...] = ()
    only: str | None = None
    labels: str = ""
    genome: str = ""
    case: Case = "upper"
    on_error: str = "refuse"
    name: str = ""

    @property
    def files(self) -> tuple[str, ...]:
        """Further files beside the table."""
        return tuple(file for file in (self.labels, self.genome) if file)

    @property
    def text(self) -> str:
        """The options as written in a task's name; empty if all have their default."""
        said = [*self.columns]
        said += [
            (name, "+".join(values)) for name, values in (("dev", self.dev), ("test", self.test)) if values
        ]
        said += [("only", self.only)] if self.only is not None else []
        said += [("labels", self.labels)] if self.labels else []
        said += [("genome", self.genome)] if self.genome else []
        said += [("case", self.case)] if self.case != "upper" else []
        said += [("on_error", self.on_error)] if self.on_error != "refuse" else []
        said += [("name", self.name)] if self.name else []
        return "&".join(f"{name}={value}" for name, value in said)

    def told_of(self, name: str) -> str:
        """A task's name with these options."""
        return f"{name}?{self.text}" if self.text else name

    @classmethod
    def of(cls, text: str) -> "Reading":
        """Parse `text`, which has the form of `Reading.text`.

        Raises:
            InputError: With every invalid option.
        """
        known = (*COLUMNS, "dev", "test", "only", "labels", "genome", "case", "on_error", "name")
        said: dict[str, str] = {}
        problems = []
        for word in filter(None, re.split("[&,]", text)):
            name, equals, value = word.partition("=")
            if name.strip() not in known or not equals or not value.strip():
                problems.append(
                    f"`--columns` must be NAME=VALUE with one of {', '.join(known)}, but got {shown(word)!r}."
                )
            said[name.strip()] = value.strip()
        if said.get("on_error", "refuse") not in ("refuse", "skip"):
            problems.append(f"`on_error` must be refuse or skip, but got {said['on_error']!r}.")
        if said.get("case", "upper") not in CASES:
            problems.append(f"`case` must be {', '.join(CASES)}, but got {said['case']!r}.")
        if said.get("name") and not re.fullmatch(r"[\w.-]+/[\w.-]+", said["name"]):
            problems.append(f"`name` must be FAMILY/TASK, but got {shown(said['name'])!r}.")
        files = {
            name: os.path.realpath(path_of(said[name])) for name in ("labels", "genome") if said.get(name)
        }
        problems += [
            f"`{name}` must be a file, but there is no {file}."
            for name, file in files.items()
            if not Path(file).is_file()
        ]
        if problems:
            raise InputError(problems)
        return cls(
            columns=tuple((name, said[name]) for name in COLUMNS if name in said),
            dev=tuple(filter(None, said.get("dev", "").split("+"))),
            test=tuple(filter(None, said.get("test", "").split("+"))),
            only=said.get("only"),
            **files,
            case=said.get("case", "upper"),  # type: ignore[arg-type]
            on_error=said.get("on_error", "refuse"),
            name=said.get("name", ""),
        )


def parted(name: str) -> tuple[Path, Reading]:
    """Split a task's name or source into its path and its reading options.

    Raises:
        InputError: If the options after `?` are invalid.
    """
    path, _, text = (name, "", "") if exists(path_of(name)) else name.partition("?")
    return path_of(path), Reading.of(text)


def is_own(name: str) -> bool:
    """Whether a task's name refers to a file, a folder or a dataset on the hub."""
    if name.startswith(PREFIX):
        return True
    name = name.partition("?")[0]
    path = path_of(name)
    return stem_of(path) != path.name or name.startswith((".", "/", "~")) or exists(path)


def stem_of(path: Path) -> str:
    """A file's name without the extension of a table; other names unchanged."""
    name = path.name
    for packed in sorted(PACKED_ENDINGS, key=len, reverse=True):
        for ending in ENDINGS:
            if name.casefold().endswith(ending + packed):
                return name[: -len(ending + packed)]
    return name


def told_how(names: Sequence[str], asked: str) -> tuple[str, ...]:
    """Names of tasks, with reading options added to those of custom datasets.

    Args:
        names: As `--tasks` has them.
        asked: As `Reading.of` takes it.

    Raises:
        InputError: If `asked` is invalid, or none of the tasks is a custom dataset.
    """
    reading = Reading.of(asked)
    if not any(is_own(name) for name in names):
        raise InputError(
            "`--columns`, `--case`, `--genome` and `--on-error` say how a file of your own is read, but none is in "
            "`--tasks`."
        )
    made = []
    for name in names:
        path, own = parted(name) if is_own(name) else (Path(name), Reading())
        both = Reading.of("&".join(filter(None, [reading.text, own.text])))
        made.append(both.told_of(str(path)) if is_own(name) else name)
    return tuple(made)
