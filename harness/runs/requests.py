"""What users ask of a run while it goes on, one file each: asked by a command, decided by the run's driver.

A decided request stays where it is, with its decision: all of them, in order of their numbers, are the journal from
which a resumed run knows what was asked for.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from harness.core.atomic_files import write_whole
from harness.runs.layout import RunFolder
from harness.runs.record import now
from lingo.text_files import read_json

Kind = Literal["stop", "add", "more", "pause", "unpause"]


@dataclass(frozen=True, kw_only=True)
class Request:
    """One request.

    Attributes:
        number: 1, 2, … in the run.
        kind: What is asked for.
        study: Key of the study, `task|backbone|method`.
        trial: Number of the trial to stop, or of the one to fork from; `None` without.
        values: Searched settings of a trial to add.
        num_samples: Trials that the study's search is to have.
        asked_by, asked: Who, and when (ISO 8601, UTC).
        state: `asked`, until the driver decides.
        reason: Why it was refused, or what was done, in one line.
        decided: When.
        added: Number of the trial that was added.
        after_test: Whether a final run of the search group had a test score when this was decided.
    """

    number: int = 0
    kind: Kind
    study: str
    trial: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    num_samples: int | None = None
    asked_by: str = "user"
    asked: str = ""
    state: Literal["asked", "done", "refused"] = "asked"
    reason: str = ""
    decided: str = ""
    added: int | None = None
    after_test: bool = False


@dataclass(frozen=True)
class Added:
    """A trial that a user added to a search.

    Attributes:
        number: Its number in the search group.
        values: The searched settings.
        parent: Number of the trial whose state it may start from; `None` for none.
    """

    number: int
    values: Mapping[str, Any]
    parent: int | None = None


class Requests:
    """The folder `<out>/requests`."""

    def __init__(self, out: Path | str) -> None:
        self._folder = RunFolder(out).requests

    def ask(self, request: Request) -> Request:
        """Write a request down under the next free number.

        Raises:
            OSError: when the disk refuses.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        number = max((one.number for one in self.load()), default=0)
        while True:
            number += 1
            made = replace(request, number=number, asked=now())
            if self._place(made):
                return made

    def decide(self, request: Request) -> None:
        """Keep a decision in the request's file.

        Raises:
            OSError: when the disk refuses.
        """
        write_whole(self._path(request.number), _text(replace(request, decided=now())))

    def load(self) -> list[Request]:
        """All requests by their numbers. A file that is none is passed over."""
        known = {one.name for one in fields(Request)}
        found = []
        for path in self._folder.glob("[!.]*.json"):
            with suppress(OSError, ValueError, TypeError, AttributeError):
                content = read_json(path)
                made = Request(**{name: value for name, value in content.items() if name in known})
                if path == self._path(made.number):
                    found.append(made)
        return sorted(found, key=lambda one: one.number)

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.json"

    def _place(self, request: Request) -> bool:
        """Write a new file whole; False where another command has taken the number."""
        handle, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=self._folder)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(_text(request))
            os.link(name, self._path(request.number))
            return True
        except FileExistsError:
            return False
        finally:
            Path(name).unlink(missing_ok=True)


def samples_of(requests: Iterable[Request], studies: Iterable[str]) -> int | None:
    """Trials that users asked for in the search of these studies last; `None` where they did not."""
    keys = set(studies)
    asked = [one.num_samples for one in requests if _holds(one, keys, "more") and one.num_samples]
    return asked[-1] if asked else None


def added_to(requests: Iterable[Request], studies: Iterable[str]) -> tuple[Added, ...]:
    """Trials that users added to the search of these studies."""
    keys = set(studies)
    return tuple(
        Added(one.added, one.values, one.trial)
        for one in requests
        if _holds(one, keys, "add") and one.added is not None
    )


def stopped_in(requests: Iterable[Request], studies: Iterable[str]) -> frozenset[int]:
    """Numbers of the trials of these studies' search that users stopped."""
    keys = set(studies)
    return frozenset(one.trial for one in requests if _holds(one, keys, "stop") and one.trial is not None)


def is_paused(requests: Iterable[Request], studies: Iterable[str]) -> bool:
    """Whether the search of these studies is paused."""
    keys = set(studies)
    asked = [one.kind for one in requests if _holds(one, keys, "pause", "unpause")]
    return bool(asked) and asked[-1] == "pause"


def _holds(request: Request, studies: set[str], *kinds: Kind) -> bool:
    return request.state == "done" and request.kind in kinds and request.study in studies


def _text(request: Request) -> str:
    return json.dumps(asdict(request), indent=1) + "\n"
