"""Progress of a run as files of its folder: a page that reloads itself, and the same as JSON for `status`."""

import html
import json
import math
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict

from harness.core.atomic_files import write_whole
from harness.progress.board import Board
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder
from harness.runs.record import Record

EVERY_S = 5.0
"""Seconds between two versions of the page, which it also waits before it reloads itself."""

WIDTH, HEIGHT, EDGE = 220, 48, 3
"""Size of a curve."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d5dae0; --blue: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --soft: #a9b2bb; --paper: #14171a; --line: #353c44; --blue: #4aa8e8; } }
body { margin: 0 auto; padding: 1.5rem 1rem; max-width: 75rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
progress { width: 100%; height: 1.1rem; accent-color: var(--blue); }
div { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th, .soft { color: var(--soft); font-weight: 400; }
svg { display: block; } polyline { fill: none; stroke: var(--blue); stroke-width: 2; }
"""

AGE = """
const written = %d;
const age = () => {
  const s = Math.round(Date.now() / 1000 - written);
  const old = s > 120 ? " The run may have ended: lingo-bench status tells." : "";
  document.getElementById("age").textContent = "Written " + s + " s ago." + old;
};
age();
setInterval(age, 1000);
"""


class ProgressPage:
    """Keeps `progress.html` and `progress.json` of an output folder up to date. Use as a context manager.

    A folder that cannot be written is passed over: the run itself notices.

    Args:
        folder: The output folder.
        board: Gives the current state.
        records: Records from before, whose curves are shown as well.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        folder: RunFolder,
        board: Callable[[], Board],
        records: Iterable[Record] = (),
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._board, self._clock = folder, board, clock
        self._best: dict[str, list[float]] = {}
        self._lock, self._over = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, name="progress page", daemon=True)
        for record in records:
            if record.stage == "search":
                for entry in record.history:
                    self._add(record.study, record.metric, entry.get("dev", {}).get(record.metric, math.nan))

    def __enter__(self) -> "ProgressPage":
        self.write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        with suppress(OSError):
            self._folder.progress.unlink(missing_ok=True)
            write_whole(self._folder.page, _ended(self._folder))

    def update(self, job: Job, report: Report, _status: str) -> None:
        """Take the scores of an evaluation."""
        if job.stage == "search":
            for name, value in report.dev.items():
                self._add(job.study, name, value)

    def _add(self, study: str, metric: str, value: float) -> None:
        with self._lock:
            values = self._best.setdefault(f"{study}|{metric}", [])
            if value == value:
                values.append(value)

    def write(self) -> None:
        """Write both files."""
        with self._lock:
            scores = {key: list(values) for key, values in self._best.items()}
        board = self._board()
        with suppress(OSError):
            write_whole(self._folder.progress, json.dumps(asdict(board)) + "\n")
            write_whole(
                self._folder.page, page(board, scores, self._folder.out.resolve().name, self._clock())
            )

    def _keep_writing(self) -> None:
        while not self._over.wait(EVERY_S):
            self.write()


def page(board: Board, scores: dict[str, list[float]], name: str, now: float) -> str:
    """The page of a run under way.

    Args:
        board: Its state.
        scores: Dev scores of each `task|backbone|method|metric` in the order in which they arrived.
        name: Name of the run.
        now: Seconds since 1970.
    """
    title = f"{name}: {board.stage or 'starting'}, {board.done:.0%}"
    curves = {}
    for key, values in scores.items():
        task, backbone, method, metric = key.rsplit("|", 3)
        for title_ in (f"{task} {backbone} {method}", f"{task} {method}"):
            curves[title_, metric] = values
    rows = []
    for row in board.rows.values():
        best = "·" if row.best is None else f"{row.metric} {row.best:.3f}"
        cells = [
            row.title, f"{row.ended}/{row.trials}", row.running or "·", row.stopped or "·", row.failed or "·", best,
        ]  # fmt: skip
        text = "".join(
            f"<td>{html.escape(str(cell))}</td>" for cell in [*cells, f"{row.tested}/{row.finals}"]
        )
        rows.append(f"<tr>{text}<td>{_curve(curves.get((row.title, row.metric), []), row.title)}</td></tr>")
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "study",
            "trials",
            "running",
            "stopped",
            "failed",
            "best dev",
            "final runs",
            "dev scores so far",
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="refresh" content="{EVERY_S:.0f}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}{html.escape(board.eta())}</h1>\n"
        f'<progress max="1" value="{board.done:.4f}"></progress>\n'
        f'<p class="soft">{html.escape(board.line())}. <span id="age"></span> This page reloads itself, and leads to '
        f"the report at the end.</p>\n<div><table><thead><tr>{head}</tr></thead><tbody>\n{chr(10).join(rows)}\n"
        f"</tbody></table></div>\n<script>{AGE % now}</script>\n</body>\n</html>\n"
    )


def _curve(values: list[float], title: str) -> str:
    """The best score so far, over the evaluations."""
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = max(1, len(values) // WIDTH)
    kept = values[::step]
    across = (WIDTH - 2 * EDGE) / max(1, len(kept) - 1)
    points = " ".join(
        f"{EDGE + i * across:.1f},{HEIGHT - EDGE - (value - low) / span * (HEIGHT - 2 * EDGE):.1f}"
        for i, value in enumerate(kept)
    )
    label = html.escape(f"{title}: dev scores from {low:.3f} to {high:.3f}", quote=True)
    size = f'width="{WIDTH}" height="{HEIGHT}"'
    return f'<svg role="img" {size}><title>{label}</title><polyline points="{points}"/></svg>'


def _ended(folder: RunFolder) -> str:
    """What stands at the page's address after the run: the way to its report."""
    target = folder.report.relative_to(folder.out).as_posix()
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<style>{STYLE}</style>\n'
        f'<meta http-equiv="refresh" content="3; url={target}">\n<title>The run has ended</title>\n</head>\n<body>\n'
        f'<h1>The run has ended</h1>\n<p><a href="{target}">Its report</a> is written at the end of a run; '
        "<code>lingo-bench report RUN</code> writes it again.</p>\n</body>\n</html>\n"
    )
