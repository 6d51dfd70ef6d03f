"""Clusters that are up already: a benchmark joins one as another job, or is refused. Nothing that is in use is started
again or terminated."""

import shlex
from collections.abc import Sequence
from typing import Any

from harness.cluster.file import ClusterFile
from harness.cluster.launch import DIGEST, Say, digest_of, head_of, with_file
from harness.cluster.session import Session, connection
from harness.cluster.ssh import ShellError
from harness.core.errors import InputError
from harness.runs.layout import COPIED

HOME = ".home"
"""File of an output folder on the head, newer than everything that was downloaded and verified."""

NOT_HOME = (
    "cd ~/lingo/runs 2>/dev/null || exit 0; for run in */; do run=${{run%/}}; [ $run = {own} ] && continue; "
    "[ -d $run/records ] || continue; for mark in {marks}; do [ -e $run/$mark ] && "
    '[ -z "$(find $run/records -newer $run/$mark -print -quit)" ] && continue 2; done; echo $run; done'
)
"""Output folders on the head with results that are neither downloaded nor in the storage path."""


def join(file: ClusterFile, config: dict[str, Any], session: Session, say: Say) -> Session | None:
    """The session on a cluster of this name that is up and was started with the same configuration: Ray keeps running
    there, with its other jobs. `None` if machines must be started, or Ray on them.

    Args:
        config: Of `launch.resolve`.
        session: Not saved yet.

    Raises:
        InputError: If the cluster is in use, but was started with another configuration, or does not answer.
    """
    up = head_of(config, session)
    if up is None:
        return None
    try:
        with connection(up) as (jobs, _):
            running = jobs.running()
    except (InputError, ShellError, RuntimeError, OSError) as error:
        _refuse_running(file, up, str(error))
        return None
    if digest_of(config) != _remote(up, f"cat {DIGEST}"):
        if not running:
            return None
        raise InputError(
            f"the cluster {file.name} runs {', '.join(running)}, and was started with another content of "
            f"{file.path}: wait for its end, or give this file another `cluster_name`."
        )
    say("the cluster is already up and matches the file")
    if running:
        say(f"it runs {', '.join(running)}; this benchmark becomes another job there and shares its machines")
    return with_file(file, config, up)


def _refuse_running(file: ClusterFile, up: Session, why: str) -> None:
    """Refuse to restart Ray where it runs without answering.

    Raises:
        InputError: If it does.
    """
    if _remote(up, "pgrep -x gcs_server"):
        raise InputError(
            f"Ray runs on {up.host}, the head of the cluster {file.name}, but does not answer ({why}): try again, or, "
            "if nothing there is needed, run `ray stop` on it."
        )


def _remote(session: Session, line: str) -> str:
    """What a command says on the head; empty if it fails or cannot be reached."""
    try:
        return session.remote.run(line, timeout=60).strip()
    except ShellError:
        return ""


def in_use(session: Session) -> list[str]:
    """Why a session's cluster must not be terminated: jobs of others, and results of theirs that are only there."""
    if not session.host:
        return []
    try:
        with connection(session) as (jobs, _):
            running = [row for row in jobs.running() if not row.startswith(f"{session.job} ")]
    except (InputError, ShellError, RuntimeError, OSError):
        running = []
    own = session.folder.rpartition("/")[2] or "-"
    line = NOT_HOME.format(own=shlex.quote(own), marks=f"{HOME} {COPIED}")
    return [
        *(f"{row} still runs on it" for row in running),
        *(f"the results in ~/lingo/runs/{row} are not downloaded" for row in _remote(session, line).split()),
    ]


def mark_home(session: Session) -> None:
    """Note on the head that all results of a session are downloaded."""
    if session.folder:
        _remote(session, f"touch {shlex.quote(session.folder)}/{HOME}")


def kept_for(session: Session, why: Sequence[str]) -> str:
    """Message when a cluster stays because others use it."""
    return f"The cluster {session.name} is not terminated: {'; '.join(why)}."
