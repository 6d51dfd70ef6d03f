"""Progress of a job as lines of its output, from which a follower shows the live table.

A line is `#progress` and a JSON object with the changes since the previous line; the first has the complete state. The
output thus contains the complete state at any time and stays small in a long run.
"""

import json
from dataclasses import asdict
from typing import Any

from harness.progress.board import Board, StudyRow

PREFIX = "#progress "
SETTING = "LINGO_PROGRESS_LINES"
"""Environment variable, 1 in jobs that may be followed from another machine."""


class Sender:
    """Creates the lines."""

    def __init__(self) -> None:
        self._rows: dict[int, StudyRow] = {}
        self._last: dict[str, Any] = {}

    def line(self, board: Board, say: str = "") -> str | None:
        """Changes; `None` if there are none. `say` is the log line."""
        rows = {place: row for place, row in board.rows.items() if self._rows.get(place) != row}
        news: dict[str, Any] = {"stage": board.stage, "done": round(board.done, 4), "over": board.over}
        if not rows and not say and news == self._last:
            return None
        self._rows, self._last = {**self._rows, **rows}, news
        if board.left_s is not None:
            news = news | {"left_s": round(board.left_s)}
        if rows:
            news = news | {"rows": {place: asdict(row) for place, row in rows.items()}}
        return PREFIX + json.dumps(news | ({"say": say} if say else {}), separators=(",", ":"))


def read(line: str) -> dict[str, Any] | None:
    """Progress in a line of a job's output; `None` for other lines."""
    if not line.startswith(PREFIX):
        return None
    try:
        news = json.loads(line.removeprefix(PREFIX))
    except ValueError:
        return None
    return news if isinstance(news, dict) else None
