"""The benchmark as a job of a cluster: submitting, following and stopping it through Ray's Jobs API with its token."""

import asyncio
import json
import logging
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cluster.ssh import quiet, quoted
from harness.cluster.upload import UNPACK, Sent, add_inputs, program
from harness.config.benchmark import SETTINGS
from harness.core.errors import InputError
from harness.core.wording import words
from harness.progress.wire import SETTING

ENDED = frozenset({"SUCCEEDED", "FAILED", "STOPPED"})
NAMED = "lingo "
"""Beginning of the name of a benchmark's job."""

JOB_SETTINGS = {
    "PYTHONUNBUFFERED": "1",
    "COLUMNS": "110",
    SETTING: "1",  # progress messages for the live table of the follower
    "RAY_JOB_STOP_WAIT_TIME_S": "120",  # time for a stopped benchmark to end its trials and save its state
}
"""Environment of the job, visible to everyone who can list jobs: no secrets.
"""
RETRY_S = 3.0
LOST_S = 20.0
"""Seconds without an answer of the Jobs API until the connection counts as lost; the job keeps running."""


@dataclass(frozen=True)
class Ending:
    """End of a job: Ray's status, the exit code of the program if any, Ray's message."""

    status: str
    code: int | None
    message: str


@dataclass(frozen=True)
class NodeRow:
    """One machine of a cluster: whether it is the head, and when it started and ended, in seconds since 1970."""

    address: str
    head: bool
    started: float
    ended: float | None


class JobLost(InputError):
    """The cluster exists, but the job does not."""


class Jobs:
    """The Jobs API at an address on loopback, or of an existing cluster.

    Raises:
        InputError: If there is no answer, or if it answers without requiring a token.
    """

    def __init__(self, address: str) -> None:
        from ray.job_submission import JobSubmissionClient

        refuse_open(address)
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        try:
            self._client = JobSubmissionClient(address)
        except Exception as error:  # connection errors of several libraries, RuntimeError for 401
            raise InputError(
                f"no Jobs API that takes this account's token answers at {address} ({words(error)})."
            ) from None

    def submit(
        self,
        arguments: Sequence[str],
        *,
        name: str,
        environment: dict[str, str] | None = None,
        sent: Sequence[Sent] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> str:
        """Submit `python <arguments>` with a copy of the program, of the `sent` files, and a file of settings; returns
        the job id."""
        try:
            with tempfile.TemporaryDirectory(prefix="lingo-program-") as folder, quiet():
                add_inputs(Path(folder), sent)
                if settings is not None:
                    (Path(folder) / SETTINGS).write_text(
                        json.dumps(settings, indent=1) + "\n", encoding="utf-8"
                    )
                job: str = self._client.submit_job(
                    entrypoint=(UNPACK if sent else "") + " ".join(["python", *map(quoted, arguments)]),
                    runtime_env={
                        "working_dir": str(program(Path(folder))),
                        "env_vars": {**JOB_SETTINGS, **(environment or {})},
                    },
                    metadata={"name": name},
                )
        except (RuntimeError, OSError, ValueError) as error:
            raise InputError(f"the job could not be submitted ({words(error, 300)}).") from None
        return job

    def ending(self, job: str) -> Ending | None:
        """How a job ended; `None` while it runs.

        Raises:
            JobLost: If the cluster does not have it.
        """
        info = _known(job, self._client.get_job_info)
        status = str(getattr(info.status, "value", info.status))
        if status not in ENDED:
            return None
        return Ending(status, info.driver_exit_code, info.message or "")

    def status(self, job: str) -> str:
        """Ray's status of the job."""
        return str(_known(job, self._client.get_job_status).value)

    def running(self) -> list[str]:
        """Benchmarks that run or wait: their job ids and names."""
        found = []
        for row in self._client.list_jobs():
            name = (row.metadata or {}).get("name", "")
            status = str(getattr(row.status, "value", row.status))
            if row.submission_id and name.startswith(NAMED) and status not in ENDED:
                found.append(f"{row.submission_id} ({name.removeprefix(NAMED)})")
        return found

    def logs(self, job: str) -> str:
        """The complete output of a job."""
        text: str = _known(job, self._client.get_job_logs)
        return text

    def nodes(self) -> list[NodeRow]:
        """All nodes of the cluster, including terminated ones."""
        answer = self._client._do_request("GET", "/api/v0/nodes?detail=1&limit=1000")
        answer.raise_for_status()
        rows = answer.json()["data"]["result"]["result"]
        return [
            NodeRow(
                address=str(row["node_ip"]),
                head=bool(row["is_head_node"]),
                started=row["start_time_ms"] / 1000,
                ended=(row.get("end_time_ms") or 0) / 1000 or None,
            )
            for row in rows
        ]

    def stop(self, job: str) -> None:
        """Stop a job like Ctrl-C; Ray kills it if that takes too long."""
        self._client.stop_job(job)

    def wait(self, job: str, seconds: float = 180.0) -> Ending:
        """End of a stopped job; reported as killed by Ray if it takes longer than `seconds`."""
        deadline = time.monotonic() + seconds
        while (ending := self.ending(job)) is None:
            if time.monotonic() > deadline:
                return Ending("STOPPED", None, "did not end in time")
            time.sleep(1)
        return ending

    def follow(self, job: str, on_line: Callable[[str], None], *, seen: int = 0) -> Ending:
        """Pass on the output of a job until it ends.

        Args:
            seen: Number of lines passed on before.

        Raises:
            ConnectionError: If the Jobs API does not answer for `LOST_S`.
        """
        heard, passed = time.monotonic(), seen

        def pass_on(line: str) -> None:
            nonlocal passed
            passed += 1
            on_line(line)

        while True:
            try:
                self._tail(job, pass_on, passed)
                ending = self.ending(job)
                heard = time.monotonic()
                if ending is not None:
                    for line in self.logs(job).splitlines()[passed:]:
                        pass_on(line)
                    return ending
            except _broken() as error:
                if time.monotonic() - heard > LOST_S:
                    raise ConnectionError(f"no answer: {words(error)}") from None
            time.sleep(RETRY_S)

    def _tail(self, job: str, on_line: Callable[[str], None], skip: int) -> None:
        """Pass on complete lines after the first `skip`, until the stream ends."""

        async def read() -> None:
            number, rest = 0, ""
            async for chunk in self._client.tail_job_logs(job):
                *lines, rest = (rest + chunk).split("\n")
                for line in lines:
                    number += 1
                    if number > skip:
                        on_line(line)

        with suppress(asyncio.TimeoutError):
            asyncio.run(read())

    def answer(self, arguments: Sequence[str], *, name: str, timeout: float) -> tuple[Any, str]:
        """Run a small job and return the JSON of its last JSON line, and its complete output.

        Raises:
            InputError: If it prints none in time.
        """
        job = self.submit(arguments, name=name)
        deadline = time.monotonic() + timeout
        while (ending := self.ending(job)) is None and time.monotonic() < deadline:
            time.sleep(1)
        text = self.logs(job)
        for line in reversed(text.splitlines()):
            with suppress(ValueError):
                return json.loads(line), text
        last = (
            text.strip().splitlines() or [ending.message if ending else f"no end within {timeout:.0f} s"]
        )[-1]
        raise InputError(f"{name} failed on the cluster: {last[:300]}")


def _known(job: str, ask: Callable[[str], Any]) -> Any:
    """An answer about a job; raises `JobLost` if the cluster does not have it."""
    try:
        return ask(job)
    except RuntimeError as error:
        if "404" not in str(error):
            raise
        raise JobLost(
            f"the cluster no longer has the job {job}, because Ray was restarted there: run the same command again "
            "to continue from the files on the head."
        ) from None


def _broken() -> tuple[type[Exception], ...]:
    """Exceptions of a lost connection to a Jobs API; 401 and 404 of a stream have a separate type."""
    from aiohttp import ClientError

    return OSError, RuntimeError, ClientError


def refuse_open(address: str) -> None:
    """Reject a dashboard without a token: anyone who can reach it can run programs there.

    Raises:
        InputError: If the Jobs API lists its jobs without a token, or cannot be reached.
    """
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/api/jobs/", timeout=20):
            pass
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return
        raise InputError(f"{address}: is not a Jobs API of Ray (HTTP {error.code}).") from None
    except OSError as error:
        raise InputError(f"{address}: there is no answer ({error}).") from None
    raise InputError(
        f"{address}: rejected, because this Ray dashboard requires no token: anyone who can reach it can run "
        "programs on "
        "the cluster (CVE-2023-48022). Start Ray with RAY_AUTH_MODE=token on every node, see clusters/README.md."
    )
