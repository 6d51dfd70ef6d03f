"""Ctrl-C, SIGTERM, closed terminals: the first signal stops in order, the second exits at once; a run can be resumed
after each."""

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
    """The part of a pool that an interrupt needs."""

    def interrupt(self) -> None:
        """End every open job."""


class Pressed:
    """Handler of Ctrl-C and SIGTERM: the first signal ends the open jobs and lets the stages return, the second exits
    at once, like a kill: results are on disk, and Ray notices by itself.

    Python's exception for a signal could occur inside a call to Ray.
    """

    def __init__(self, console: Console, out: Path) -> None:
        self._console, self._out = console, out
        self._pool: Interruptible | None = None
        self.once = False

    def take(self) -> None:
        """Install the handlers; again after Ray has started, because it installs its own handler of SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in TAKEN:
            # Under nohup a closed terminal must have no effect.
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self)

    def ends(self, pool: Interruptible) -> None:
        """From now on the first signal ends this pool's jobs."""
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
    """Handle the signals within the block; only possible in the main thread, other threads do nothing."""
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
    """A child process, as `subprocess.Popen`."""

    def poll(self) -> int | None:
        """Its exit code; `None` while it is running."""

    def kill(self) -> None:
        """End it."""


VITAL = ("raylet", "gcs_server")
"""Processes that Ray cannot work without; minutes after their end, Ray would end this process without a message."""

FULL_LOOKS = 3
"""Number of consecutive checks in which a disk must be full, because temporary files may fill it briefly."""


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
    """Exit at once, like a second Ctrl-C, if one of Ray's vital processes has ended, or a disk that it needs stays
    full, and print how to resume.

    Args:
        processes: Ray's processes on this machine, by name; all are ended then.
        full: Returns a line for a full disk, empty if there is none.
        tell: Called with the reason before the exit.
        every: Seconds between two checks.
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
    """Discard further output to a closed terminal, which would raise an error."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        if stat.S_ISCHR(os.fstat(stream).st_mode):  # a closed terminal is no longer a tty
            os.dup2(nowhere, stream)
    os.close(nowhere)
