"""What one worker of a group does all its life: take commands from the job source, train, tell it what came.

`harness.pool.pool` runs `serve` as the training function of a Ray Train run. Rank 0 alone talks to the job source
and shares its commands, so that every rank makes the same calls to its engine in the same order.
"""

import logging
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import ray
import ray.train
from ray.exceptions import ActorUnavailableError, RayActorError

from harness.core.errors import InputError
from harness.core.wording import one_line
from harness.pool.engine import AGREE, Engine, WorkerFailed
from harness.runs.jobs import Commands, Job, Report, StatusUpdate

log = logging.getLogger(__name__)

BUSY_S = (
    0.05  # a busy group asks for commands this often for a while after reports, and at once when it has some
)
QUIET_S = 0.5  # interval after that, since one source serves hundreds of groups
AFTER_REPORTS_S = 1.0
IDLE_S = 2.0  # an idle group waits this long per request
HEARTBEAT_S = 10.0  # between two heartbeats
WAITING_S = 0.02  # between two looks at the commands of a group whose job waits at a rung
LOOK_S = 3.0  # between two checks whether a machine is about to be reclaimed
ENDED = 100  # jobs whose last report may not have been received
MAX_CRASHES = 4  # in a row without a report, after which the process is assumed to be damaged


class EngineCrashed(RuntimeError):
    """Training raised an error and this worker cannot continue; Ray Train restarts it."""


class Shared(Protocol):
    """Communication between the ranks of a group. Every rank calls the same methods in the same order."""

    def turn(self, mine: Commands | None, error: str | None) -> tuple[Commands, list[str]]:
        """Rank 0's commands and the errors of all ranks, on every rank."""

    def nodes(self, mine: str) -> list[str]:
        """Every rank's node."""


class Alone:
    """A group of one worker."""

    def turn(self, mine: Commands | None, error: str | None) -> tuple[Commands, list[str]]:
        return mine or Commands(), [error] if error else []

    def nodes(self, mine: str) -> list[str]:
        return [mine]


class Together:
    """A group of several workers, over a gloo process group of its own (training may use nccl)."""

    def __init__(self) -> None:
        import torch
        import torch.distributed as dist

        self._torch, self._dist = torch, dist
        self._group = dist.new_group(backend="gloo", timeout=AGREE)

    def turn(self, mine: Commands | None, error: str | None) -> tuple[Commands, list[str]]:
        flags = self._torch.tensor([mine is not None and mine != Commands(), error is not None]).int()
        self._dist.all_reduce(flags, group=self._group)
        any_commands, any_error = flags.tolist()
        box: list[Commands | None] = [mine]
        if any_commands:
            self._dist.broadcast_object_list(box, 0, group=self._group)
        errors: list[str | None] = [None] * self._dist.get_world_size(self._group)
        if any_error:
            self._dist.all_gather_object(errors, error, group=self._group)
        return (any_commands and box[0]) or Commands(), [line for line in errors if line]

    def nodes(self, mine: str) -> list[str]:
        found = [mine] * self._dist.get_world_size(self._group)
        self._dist.all_gather_object(found, mine, group=self._group)
        return found


class Link:
    """Connection of rank 0 to the job source: at most one pending request, which never delays training.

    Reports are kept until the source has answered: one that was started anew meanwhile is told again.

    Args:
        register: Registers at the source with the jobs that the group holds; whether it may go on.
        doomed: Whether a machine of the group is about to be reclaimed.
    """

    def __init__(
        self,
        source: Any,
        group: str,
        incarnation: str,
        slots: int,
        register: Callable[[Sequence[Job]], bool],
        doomed: Callable[[], bool],
    ) -> None:
        self._source, self._group, self._incarnation, self._slots = source, group, incarnation, slots
        self._register, self._doomed = register, doomed
        self._ended = not register(())
        self._reports: list[Report] = []
        self._refused: list[str] = []
        self._waiting: dict[str, float] = {}
        self._told: tuple[list[Report], list[str]] = ([], [])
        self._question: Any = None
        self._next = self._updates = 0.0
        self._looked = time.monotonic()
        self._idle_since: float | None = time.monotonic()
        self._idle = 0.0

    def tell(self, reports: Sequence[Report], refused: Sequence[str]) -> None:
        """Keep reports for the next question."""
        self._reports += reports
        self._refused += refused

    def commands(
        self, held: Mapping[str, Job], ended: Sequence[Job], waiting: Mapping[str, float]
    ) -> Commands:
        """Commands that have arrived, if any; an idle group waits. A dead source is an command to end, and a machine
        that is about to go is one to leave.

        Args:
            held: Jobs of the group.
            ended: Jobs that ended lately, of which there may be reports that the source has not heard.
            waiting: Those of the held ones that wait at a rung, and its epoch.
        """
        self._waiting = dict(waiting)
        commands = Commands(close=True) if self._ended else self._asked(held, ended)
        if time.monotonic() - self._looked < LOOK_S or commands.close:
            return commands
        self._looked = time.monotonic()
        return replace(commands, leave=self._doomed())

    def leave(self, held: Mapping[str, Job]) -> None:
        """Send the remaining reports and return the jobs."""
        self._lost_question()
        update = StatusUpdate(
            self._group, self._incarnation, self._reports, list(held), self._refused, 0, self._idle
        )
        ray.get(self._source.leave.remote(update))

    def _asked(self, held: Mapping[str, Job], ended: Sequence[Job]) -> Commands:
        if not held and self._idle_since is None:
            self._idle_since = time.monotonic()
        try:
            commands = self._ask(list(held))
            if commands.register:
                self._again(held, ended)
                return Commands()
        except ActorUnavailableError:
            self._lost_question()
            time.sleep(BUSY_S)
            return Commands()
        except RayActorError:
            return Commands(close=True)
        if commands.admit and self._idle_since is not None:
            self._idle, self._idle_since = time.monotonic() - self._idle_since, None
        return commands

    def _again(self, held: Mapping[str, Job], ended: Sequence[Job]) -> None:
        """The source was restarted: send our jobs, and reports that the last source may have missed."""
        self._lost_question()
        wanted = {report.job for report in self._reports}
        self._ended = not self._register([*held.values(), *(job for job in ended if job.id in wanted)])

    def _lost_question(self) -> None:
        """The last request may not have been received: its reports are sent again."""
        reports, refused = self._told
        self._reports, self._refused = reports + self._reports, refused + self._refused
        self._told, self._question = ([], []), None

    def _ask(self, held: Sequence[str]) -> Commands:
        urgent = self._reports or self._refused or not held
        if self._question is None and (urgent or time.monotonic() >= self._next):
            capacity = self._slots - len(held)
            update = StatusUpdate(
                self._group,
                self._incarnation,
                self._reports,
                list(held),
                self._refused,
                capacity,
                self._idle,
                self._waiting,
            )
            self._question = self._source.exchange.remote(update, 0.0 if held else IDLE_S)
            self._told = (self._reports, self._refused)
            if urgent:
                self._updates = time.monotonic()
            self._reports, self._refused, self._idle = [], [], 0.0
        if self._question is None or (held and not ray.wait([self._question], timeout=0)[0]):
            return Commands()
        commands: Commands = ray.get(self._question)
        self._question = None
        now = time.monotonic()
        pause = BUSY_S if commands.admit or now - self._updates < AFTER_REPORTS_S else QUIET_S
        self._next = now + (0.0 if commands.release else pause)
        return commands


class RankLoop:
    """One rank's loop around its engine.

    Args:
        crashed: Reports to the job source, once for all ranks, that training raised; `None` on ranks above 0.
        probable_cause: Tells the job source what may be the reason if this incarnation ends now.
    """

    def __init__(
        self,
        engine: Engine,
        shared: Shared,
        link: Link | None,
        crashed: Callable[[str], None] | None,
        probable_cause: Callable[[str], None],
    ) -> None:
        self._engine, self._shared, self._link = engine, shared, link
        self._crashed, self._probable_cause = crashed, probable_cause
        self._held: dict[str, Job] = {}
        self._waiting: dict[str, float] = {}
        self._ended: deque[Job] = deque(maxlen=ENDED)
        self._crashes = 0

    def run(self) -> None:
        """Serve until the job source closes the group, or until it must leave its machine."""
        while True:
            error = self._advance() if set(self._held) - set(self._waiting) else None
            mine = self._link.commands(self._held, self._ended, self._waiting) if self._link else None
            commands, errors = self._shared.turn(mine, error)
            if commands.close:
                return
            if errors:
                self._crash(errors[0])
            for name in commands.release:
                self._drop(name)
            for job in commands.admit:
                self._admit(job)
            for name in commands.proceed:
                self._waiting.pop(name, None)
            if self._waiting:
                time.sleep(WAITING_S)
            if commands.leave:
                self._leave()
                return

    def _leave(self) -> None:
        """Before a machine is reclaimed: write checkpoints and return all jobs to the queue."""
        log.warning("its machine is about to be reclaimed; its jobs continue elsewhere")
        self._engine.save()
        if self._link:
            self._link.leave(self._held)

    def _tell(self, reports: Sequence[Report] = (), refused: Sequence[str] = ()) -> None:
        if self._link:
            self._link.tell(reports, refused)

    def _drop(self, name: str) -> None:
        self._engine.release(name)
        self._held.pop(name, None)
        self._waiting.pop(name, None)

    def _admit(self, job: Job) -> None:
        error, hopeless = None, False
        try:
            if self._engine.free_slots(job) < 1:
                self._tell(refused=[job.id])
                return
            self._engine.admit(job)
        except Exception as problem:
            error, hopeless = one_line(problem), isinstance(problem, (ValueError, InputError))
        _, errors = self._shared.turn(None, error)
        if not errors:
            self._held[job.id] = job
            return
        self._engine.release(job.id)
        report = Report(job=job.id, number=1, status="failed", error=errors[0], hopeless=hopeless)
        self._tell([report])

    def _advance(self) -> str | None:
        try:
            reports = self._engine.advance()
        except Exception as problem:
            line = one_line(problem)
            if isinstance(self._shared, Together) and not isinstance(problem, WorkerFailed):
                self._probable_cause(line)
                if "OutOfMemory" in type(problem).__name__:
                    raise EngineCrashed(line) from problem  # the other ranks wait in a reduction
            return line
        for report in reports:
            self._crashes = 0
            self._waiting.pop(report.job, None)
            if report.status != "running" and report.job in self._held:
                self._ended.append(self._held.pop(report.job))
            elif report.job in self._held and report.epoch in self._held[report.job].rungs:
                self._waiting[report.job] = report.epoch
        self._tell(
            [report for report in reports if report.status != "returned"],
            [report.job for report in reports if report.status == "returned"],
        )
        return None

    def _crash(self, line: str) -> None:
        """An engine reports failures of jobs itself; an exception may concern any job it holds."""
        if self._crashed:
            self._crashed(line)
        self._crashes += 1
        if self._crashes >= MAX_CRASHES:
            raise EngineCrashed(line)
        for name in list(self._held):
            self._drop(name)


def serve(config: dict[str, Any]) -> None:
    """Training function of a worker group's Ray Train run. Returns when the source closes or dies."""
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    source, name, incarnation = config["source"], config["group"], uuid.uuid4().hex
    _use_threads(config["threads"])
    _pass_warnings_on(source, name)
    try:
        try:
            engine = ray.get(config["make_engine"])(rank, world)
        except Exception as problem:
            tries = 1 if isinstance(problem, ValueError) else 2
            if ray.get(source.could_not_start.remote(name, one_line(problem), tries=tries)):
                raise
            return
        try:
            _serve(engine, source, name, incarnation, rank, world, config["slots"])
        finally:
            engine.close()
    except RayActorError:
        return


def _serve(
    engine: Engine, source: Any, name: str, incarnation: str, rank: int, world: int, slots: int
) -> None:
    shared: Shared = Together() if world > 1 else Alone()
    link = crashed = None
    stop = threading.Event()

    def probable_cause(line: str) -> None:
        source.probable_cause.remote(name, line)

    nodes = shared.nodes(ray.get_runtime_context().get_node_id())
    if rank == 0:
        placement = ray.util.get_current_placement_group()
        lies_in = placement.id.hex() if placement else None

        def register(held: Sequence[Job]) -> bool:
            welcome: bool = ray.get(
                source.register.remote(name, incarnation, lies_in, os.getpid(), list(held), nodes)
            )
            return welcome

        def crashed(line: str) -> None:
            ray.get(source.crashed.remote(name, incarnation, line))

        link = Link(source, name, incarnation, slots, register, lambda: doomed(nodes))
        threading.Thread(
            target=_heartbeat, args=(source, name, incarnation, stop), name="heartbeat", daemon=True
        ).start()
    try:
        RankLoop(engine, shared, link, crashed, probable_cause).run()
    finally:
        stop.set()


def doomed(nodes: Sequence[str]) -> bool:
    """Whether Ray was notified that one of these machines is about to be reclaimed, as clouds do for spot machines.

    Ray Train's own watcher is an actor that may run anywhere and would keep another machine from being idle.
    """
    return not set(nodes).isdisjoint(ray._private.state.state.get_draining_nodes())


def _heartbeat(source: Any, name: str, incarnation: str, stop: threading.Event) -> None:
    """Heartbeats, also during a long evaluation."""
    while not stop.wait(HEARTBEAT_S):
        source.heartbeat.remote(name, incarnation)


def _use_threads(threads: int) -> None:
    import torch

    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def _pass_warnings_on(source: Any, name: str) -> None:
    """Warnings and errors of this project are sent to the driver's log; all others stay in the worker's."""

    class ToDriver(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            source.warn.remote(f"{name}: {record.getMessage()}")

    for project in ("harness", "lingo"):
        logging.getLogger(project).handlers = [ToDriver(logging.WARNING)]
