"""MLflow as a mirror of a running benchmark: one thread of one process writes, and nothing waits for it.

`harness.runs.store` is authoritative. Data missed while a store is unavailable is written from the records when it
answers again, or later by `sync`.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

from harness.core.errors import command
from harness.core.store_address import default_uri, login_cure, one_line, opened, shown, ui_command
from harness.runs.info import Setting
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.tracking.database import prepare
from harness.tracking.mirror import Mirror
from harness.tracking.spool import Spool, all_records, only_writer
from harness.tracking.store import Store

__all__ = ["Tracker", "default_uri", "ui_command"]

LOG = logging.getLogger(__name__)

QUEUED = 20_000
"""Maximum number of queued updates for a slow store; further ones are read from the records later."""

Update = Record | tuple[Job, Report]


class Tracker:
    """Mirrors a running benchmark in the background. No call waits for the store, and none raises."""

    def __init__(
        self,
        out: Path | str,
        setting: Setting,
        *,
        uri: str | None = None,
        warn: Callable[[str], None] = LOG.warning,
        retry_s: float = 30.0,
    ) -> None:
        """Start the writer. It first writes existing records that the store lacks.

        Args:
            out: Output folder with the records and the embedded store.
            setting: Common properties of all runs, see `Setting.read`.
            uri: Tracking address; `None` for the embedded store.
            warn: Receives one message when the store does not answer, and another at the end.
            retry_s: Seconds between attempts after the store did not answer.
        """
        self._out, self._setting = Path(out), setting
        self._out.mkdir(parents=True, exist_ok=True)
        self._address = uri or default_uri(self._out)
        self._whole = self._address
        self.uri = shown(self._address)
        self._warn, self._retry_s = warn, retry_s
        self._updates: queue.Queue[Update | None] = queue.Queue()
        self._behind, self._quiet_until = True, 0.0
        self._closing = threading.Event()
        self._refused: set[str] = set()
        self._warned = False
        self._mirror: Mirror | None = None
        self._spool: Spool | None = None
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def update(self, job: Job, report: Report, status: str) -> None:
        """Mirror an evaluation of a trial or a final run; the last one comes with the record."""
        if status == "running" and report.dev and self._updates.qsize() < QUEUED:
            self._updates.put((job, report))

    def ended(self, record: Record) -> None:
        """Mirror the record, which is in the output folder, of a trial or a final run that has ended."""
        if self._updates.qsize() < QUEUED:
            self._updates.put(record)
        else:
            self._behind = True

    def close(self, timeout: float = 60.0) -> bool:
        """Write the remaining data, end all runs, and return whether the store is complete.

        Takes no longer than about `timeout` seconds.
        """
        self._closing.set()
        self._updates.put(None)
        self._thread.join(timeout)
        complete = not (self._thread.is_alive() or self._behind or self._refused)
        if not complete:
            self._warn(
                f"MLflow at {self.uri} lacks some runs; the records are complete, and "
                f"`{command('sync', self._out)}` writes the missing ones."
            )
        return complete

    def _work(self) -> None:
        with only_writer(self._out, give_up=self._closing.is_set) as ours:
            if not ours:
                return
            self._catch_up()
            while (update := self._updates.get()) is not None:
                if self._behind and time.monotonic() >= self._quiet_until:
                    self._catch_up()
                if not self._behind:
                    self._take(update)
            if self._behind:
                self._catch_up()
            if not self._behind:
                self._try(lambda mirror: mirror.finish())

    def _take(self, update: Update) -> None:
        """Write one update, unless it is a record that was already read from the folder."""
        if not isinstance(update, Record):
            job, report = update
            self._try(lambda mirror: mirror.report(job, report))
            return
        assert self._spool is not None
        if self._spool.lacks(update) and self._try(lambda mirror: mirror.write(update), name=update.id):
            self._spool.note(update)

    def _catch_up(self) -> None:
        """Write the records on disk that the store lacks, and end runs that an earlier process left running."""
        first, records = self._mirror is None, list[Record]()
        if not self._try(self._open) or not self._try(lambda _: records.extend(all_records(self._out))):
            return
        assert self._mirror is not None and self._spool is not None
        self._behind = False
        self._refused.clear()
        for sent in self._mirror.send(records, self._spool):
            if sent.error is not None and not self._goes_on(sent.error, sent.record.id):
                return
        if first:
            self._try(lambda mirror: mirror.finish())

    def _open(self, _: object = None) -> None:
        if self._mirror is None:
            artifacts = RunFolder(self._out).artifacts if self._address == default_uri(self._out) else None
            setting = self._setting
            self._whole = opened(self._address)
            prepare(self._out, self._whole, writer=True, say=self._warn)
            store = Store(
                self._whole,
                experiment=setting.experiment,
                identity=setting.identity,
                artifacts=artifacts,
            )
            self._spool = Spool(self._out, store.fingerprint)
            self._mirror = Mirror(store, setting)

    def _try(self, work: Callable[[Mirror], object], name: str = "") -> bool:
        """Whether the store accepted it; errors of the store do not affect the benchmark."""
        try:
            work(self._mirror)  # type: ignore[arg-type]
        except Exception as error:
            self._goes_on(error, name)
            return False
        return True

    def _goes_on(self, error: Exception, name: str) -> bool:
        """After an error: whether the store answers, so that only this update is invalid."""
        if not self._warned:
            self._warned = True
            self._warn(
                f"MLflow at {self.uri} fails ({one_line(error, self._whole)}); the benchmark continues without it."
                f"{login_cure(error, self._whole)}"
            )
        if self._mirror is not None and self._mirror.store.answers():
            if name:
                self._refused.add(name)
            return True
        self._behind, self._quiet_until = True, time.monotonic() + self._retry_s
        return False
