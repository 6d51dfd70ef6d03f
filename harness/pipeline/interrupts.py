"""Ctrl-C, polite kills, closed terminals: once to stop in order, twice to leave at once; a run goes on after each."""

import os
import signal
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.markup import escape

TAKEN = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruptible(Protocol):
    """A pool, as far as an interrupt needs it."""

    def interrupt(self) -> None:
        """End every open job."""


class Pressed:
    """What Ctrl-C, or a polite kill, does: the first ends the open jobs and lets the stages return, the second ends
    all at once, as a kill would: what matters is on the disk, and Ray notices by itself.

    The exception that Python would raise instead could strike inside a call to Ray.
    """

    def __init__(self, console: Console, out: Path) -> None:
        self._console, self._out = console, out
        self._pool: Interruptible | None = None
        self.once = False

    def take(self) -> None:
        """Take the signals; once more when Ray has started, which takes SIGTERM for itself and dies of it."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in TAKEN:
            # Under nohup a closed terminal is to be of no effect, and stays so.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self)

    def ends(self, pool: Interruptible) -> None:
        """From now on the first one ends this pool's jobs."""
        self._pool = pool

    def __call__(self, number: int = signal.SIGINT, *_: object) -> None:
        from harness.core.exit_codes import INTERRUPTED, resume_command

        if number == signal.SIGHUP:
            _leave_terminal()
        if self.once:
            self._console.show_cursor(True)
            self._console.print(
                f"Stopped immediately. To continue: {escape(resume_command(self._out))}", soft_wrap=True
            )
            os._exit(INTERRUPTED)
        self.once = True
        if self._pool is None:
            raise KeyboardInterrupt
        threading.Thread(target=self._pool.interrupt, name="interrupt", daemon=True).start()
        self._console.print(
            "Stopping: no new trial starts, open trials keep their state. Press Ctrl-C again to stop immediately."
        )


@contextmanager
def ctrl_c(console: Console, out: Path) -> Iterator[Pressed]:
    """Take the signals until Ray is gone; a thread that is not the main one cannot, and leaves them alone."""
    pressed = Pressed(console, out)
    if threading.current_thread() is not threading.main_thread():
        yield pressed
        return
    before = {number: signal.getsignal(number) for number in TAKEN}
    pressed.take()
    try:
        yield pressed
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Process(Protocol):
    """A process of this one's, as `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Its exit code; `None` while it lives."""

    def kill(self) -> None:
        """End it."""


VITAL = ("raylet", "gcs_server")
"""Processes of Ray without which nothing goes on; minutes later Ray would end this process without a word."""

FULL_LOOKS = 3
"""Looks in a row at which a disk must be full: what fills it may be a moment's file."""


@contextmanager
def outlived(
    processes: Mapping[str, Process],
    console: Console,
    out: Path,
    *,
    full: Callable[[], str] = str,
    tell: Callable[[str], None] = lambda why: None,
    every: float = 1.0,
) -> Iterator[None]:
    """Leave at once, as a second Ctrl-C does, when one of Ray's vital processes has ended, or a disk that it needs is
    full and stays so, and say how to go on.

    Args:
        processes: Those of Ray on this machine, by name; all are ended then.
        full: A line for a disk that is full, empty if there is none.
        tell: Takes the reason, last of all.
        every: Seconds between two looks.
    """
    done = threading.Event()

    def watch() -> None:
        looks = 0
        while not done.wait(every):
            gone = [name for name in VITAL if name in processes and processes[name].poll() is not None]
            line = full()
            looks = looks + 1 if line else 0
            if (gone or looks >= FULL_LOOKS) and not done.is_set():
                why = f"Ray's process {gone[0]} has ended unexpectedly" if gone else line
                if gone:
                    why += f": {line}" if line else " (out of memory, or killed)."
                _left_by(why, processes, console, out, tell)
                return

    thread = threading.Thread(target=watch, name="vital", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()


def _left_by(
    why: str, processes: Mapping[str, Process], console: Console, out: Path, tell: Callable[[str], None]
) -> None:
    from harness.core.exit_codes import INCOMPLETE, resume_command

    for process in processes.values():
        process.kill()
    console.show_cursor(True)
    console.print(
        f"[red]Stopped[/]: {escape(why)} Finished trials are kept, and open trials keep their last checkpoint. "
        f"Continue with: {escape(resume_command(out))}",
        soft_wrap=True,
    )
    tell(why)
    os._exit(INCOMPLETE)


def _leave_terminal() -> None:
    """Let what is still written to a terminal that was closed go nowhere, where it would be an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # a closed terminal is no tty any more
            os.dup2(nowhere, stream)
    os.close(nowhere)
