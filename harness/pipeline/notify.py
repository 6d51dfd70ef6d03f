"""`--notify`: messages to a command or a web address about the end of a run and about trouble; docs/notify.md has the
format.

A thread of the driver sends them. It delays a run only at its end, by at most `END_S`, and no run fails because of it.
"""

import json
import logging
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.core.errors import InputError, RunStopped
from harness.core.exit_codes import COMPLETE, INCOMPLETE, INTERRUPTED, resume_command
from harness.core.notify_target import usable_target
from harness.core.wording import duration
from harness.core.wording import words as said_by
from harness.runs.jobs import Job, Report
from harness.runs.record import now

TOKEN = "LINGO_NOTIFY_TOKEN"
"""Variable with a secret required by the server of a web address, sent as `Authorization: Bearer`."""

VERSION = 1
"""Version of the message format."""

TRIES, PAUSE_S, ANSWER_S = 3, 1.0, 5.0
"""Attempts to reach a web address, seconds before the second (doubled after each), and time limit in seconds of one
step."""

COMMAND_S = 30.0
"""Seconds after which a command is killed."""

END_S = 30.0
"""Maximum seconds that the end of a run waits for unsent messages."""

SILENT_S = 1800.0
"""Seconds without a report that count as trouble, unless a silence of a third of that occurred before."""

AGAIN_S = 3600.0
"""Seconds before trouble of the same kind is reported again."""

DELAYED = (429, 500, 502, 503, 504)
"""Status codes after which another attempt may succeed."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirections are not followed: the user has not named their target."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Notifier:
    """Sends messages in the background; without a target it does nothing.

    Args:
        setting: `Benchmark.notify`.
        out: Output folder of the run.
        warn: Called with a line about messages that cannot be sent.
        clock: Seconds, monotonic.
    """

    def __init__(
        self,
        setting: str | None,
        out: Path,
        warn: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out, self._warn, self._clock = out.resolve(), warn, clock
        self._target = self._found(setting)
        self._messages: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._told: dict[str, float] = {}
        self._warned: set[str] = set()
        self._last, self._longest = clock(), SILENT_S / 3
        self._board: Callable[[], str] = str
        self._cut: Callable[[], dict[str, str]] = dict
        self.text, self.winners = "", list[str]()
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)
        if self._target:
            self._thread.start()

    def _found(self, setting: str | None) -> str | list[str] | None:
        """The address or command; `None` with a warning if it is not usable on this machine."""
        if setting is None:
            return None
        try:
            return usable_target(setting, os.environ)
        except ValueError as error:
            self._warn(f"`--notify` {error} The run goes on without messages.")
            return None

    # ---- during a run

    @contextmanager
    def watching(self, board: Callable[[], str], cut: Callable[[], dict[str, str]]) -> Iterator[None]:
        """Watch for trouble while trials train.

        Args:
            board: Returns a line about the run's progress.
            cut: Returns studies ended by a budget, with the reason; only called by `update`.
        """
        if not self._target:
            yield
            return
        self._board, self._cut, self._last = board, cut, self._clock()
        over, listener = threading.Event(), _Listener(self)

        def look() -> None:
            while not over.wait(5.0):
                self.look()

        looking = threading.Thread(target=look, name="notify: progress", daemon=True)
        looking.start()
        log = logging.getLogger("harness.pool.pool")  # forwards warnings of workers
        log.addHandler(listener)
        try:
            yield
        finally:
            log.removeHandler(listener)
            over.set()
            looking.join()

    def update(self, job: Job, report: Report, status: str) -> None:
        """Process an event of the pool; a watcher of the recorder."""
        if not self._target:
            return
        at = self._clock()
        self._longest, self._last = max(self._longest, at - self._last), at
        self._told.pop("no_progress", None)
        if status == "failed" and "out of memory" in (report.error or "").lower():
            self.trouble("out_of_memory", f"{job.id} has failed: {report.error}")
        for reason in set(self._cut().values()):
            self.trouble("budget", f"The search ends at a budget: {reason}.", key=reason)

    def look(self) -> None:
        """Report trouble if no trial has reported for long."""
        silent = self._clock() - self._last
        if silent > 3 * self._longest:
            self.trouble("no_progress", f"No trial has reported for {duration(silent)}.")

    def trouble(self, event: str, text: str, *, key: str | None = None) -> None:
        """Report trouble, unless the same (by `key`, or by event if `None`) was reported within an hour."""
        at, key = self._clock(), key or event
        if at - self._told.get(key, at - AGAIN_S) >= AGAIN_S:
            self._told[key] = at
            self._send(event, text)

    # ---- end of a run

    def ended(self, exit_code: int) -> None:
        """Report the end of a run; waits for unsent messages, at most `END_S`."""
        event = {COMPLETE: "finished", INTERRUPTED: "interrupted"}.get(exit_code, "incomplete")
        self._send(event, self.text, exit_code=exit_code)
        self.close()

    def failed(self, why: str, exit_code: int = INCOMPLETE) -> None:
        """Report a run that cannot continue; waits like `ended`."""
        self._send("failed", why, exit_code=exit_code)
        self.close()

    def close(self) -> None:
        """Wait for unsent messages, at most `END_S`."""
        if self._thread.is_alive():
            self._messages.put(None)
            self._thread.join(END_S)
            if self._thread.is_alive():
                self._say(f"the last message was not taken within {END_S:.0f} s")

    # ---- sending

    def _send(self, event: str, text: str, *, exit_code: int | None = None) -> None:
        message: dict[str, Any] = {
            "version": VERSION,
            "event": event,
            "text": text,
            "run": self._out.name,
            "folder": str(self._out),
            "host": socket.gethostname(),
            "time": now(),
            "progress": self._board(),
        }
        if exit_code is not None:
            message |= {"exit_code": exit_code, "winners": self.winners}
        if exit_code:
            message["resume"] = resume_command(self._out)
        self._messages.put(message)

    def _work(self) -> None:
        while (message := self._messages.get()) is not None:
            try:
                problem = self._deliver(json.dumps(message).encode())
            except Exception as error:  # other messages may contain the address
                problem = type(error).__name__
            if problem:
                self._say(problem)

    def _deliver(self, body: bytes) -> str | None:
        assert self._target
        return _post(self._target, body) if isinstance(self._target, str) else _run(self._target, body)

    def _say(self, problem: str) -> None:
        if problem not in self._warned:
            self._warned.add(problem)
            self._warn(f"`--notify`: a message was not delivered ({problem}); the run goes on.")


class _Listener(logging.Handler):
    """Detects a lack of memory in warnings of workers."""

    def __init__(self, notifier: Notifier) -> None:
        super().__init__(logging.WARNING)
        self._notifier = notifier

    def emit(self, record: logging.LogRecord) -> None:
        if "out of memory" in (line := record.getMessage()).lower():
            self._notifier.trouble("out_of_memory", f"Out of memory; a smaller size is tried: {line}")


def _post(address: str, body: bytes) -> str | None:
    """Send JSON; returns the error of the last attempt."""
    headers = {"Content-Type": "application/json", "User-Agent": "lingo-bench"}
    if os.environ.get(TOKEN):
        headers["Authorization"] = f"Bearer {os.environ[TOKEN]}"
    opener, problem = urllib.request.build_opener(_NoRedirect), None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S * 2 ** (attempt - 1))
        try:
            with opener.open(urllib.request.Request(address, body, headers), timeout=ANSWER_S):
                return None
        except urllib.error.HTTPError as error:
            problem = f"its server answers with status {error.code}"
            error.close()
            if error.code not in DELAYED:
                break
        except urllib.error.URLError as error:
            problem = said_by(error.reason) if isinstance(error.reason, Exception) else "no connection"
        except OSError as error:
            problem = said_by(error)
    return problem


def _run(command: Sequence[str], body: bytes) -> str | None:
    """Run a command with JSON on its standard input; returns the error."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # not affected by Ctrl-C, and can be killed with its children
    ) as process:
        try:
            process.communicate(body, timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            return f"its command took more than {COMMAND_S:.0f} s"
    return f"its command ended with exit code {process.returncode}" if process.returncode else None


@contextmanager
def notified(setting: str | None, out: Path, warn: Callable[[str], None]) -> Iterator[Notifier]:
    """A notifier for a run; an exception that ends the run is reported and raised again."""
    notifier = Notifier(setting, out, warn)
    try:
        yield notifier
    except KeyboardInterrupt:
        notifier.ended(INTERRUPTED)
        raise
    except BaseException as error:
        known = isinstance(error, RunStopped | InputError | OSError)
        why = said_by(error, most=1000) if known else type(error).__name__
        notifier.failed(why, 2 if isinstance(error, InputError) else INCOMPLETE)
        raise
    finally:
        notifier.close()
