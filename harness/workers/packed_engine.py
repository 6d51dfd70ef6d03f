"""The engine of a worker: jobs of the pool trained in the slots of a `lingo.pack.Pack`."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from harness.core.wording import one_line
from harness.data.prepared import open_prepared
from harness.pool.files import Files, LocalFiles
from harness.runs.jobs import Job, Report
from harness.workers.checkpoints import Checkpoints
from harness.workers.epochs import Epochs
from harness.workers.facts import cost_facts
from harness.workers.packs import InputNeeds, Room, build, is_full, load, local_source
from harness.workers.peers import Peers, ShortOfMemory, short_of_memory
from harness.workers.shared_prefixes import Prefixes, prefix_key
from harness.workers.starts import Starts
from harness.workers.training import Training
from lingo.backbones import Backbone
from lingo.batch import Share
from lingo.data import TaskData
from lingo.pack import EVAL_TOKENS, Pack
from lingo.sites import target_paths
from lingo.slot import Slot
from lingo.trial import Frozen, Precision, TrialConfig

log = logging.getLogger(__name__)

SLICE_S = 0.2
"""Maximum seconds between checks for commands of the pool, for a worker that trains alone."""

SLICE_STEPS = 4
"""Steps between checks for data-parallel workers, which must all do the same number."""

LOSS_STEPS = 32
"""Steps between checks of the losses, which synchronise with the device."""


def make_engine(
    rank: int,
    world: int,
    *,
    pack: int = 1,
    files: Files | None = None,
    max_rank: int = 16,
    max_labels: int = 2,
    outputs: bool = False,
    frozen: Frozen = "fp32",
    precision: Precision = "fp32",
) -> "LingoEngine":
    """The engine of one worker of a group of `world`; the other arguments are those of `harness.workers.packs.Room`."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    room = Room(
        pack=pack,
        max_rank=max_rank,
        max_labels=max_labels,
        outputs=outputs,
        frozen=frozen,
        precision=precision,
    )
    return LingoEngine(rank=rank, world=world, device=device, room=room, files=files)


class LingoEngine:
    """Trains jobs of one backbone at a time, as many at once as the pack has slots.

    The pack is built for the first job, and rebuilt when it is empty and the next job does not fit: another backbone,
    full fine-tuning instead of adapters, a larger rank or head than its capacity.

    Args:
        rank, world: Rank of this worker and size of its group; all workers of a group receive the same calls.
        device: Device of backbone and adapters.
        room: Capacity of a pack; by default `capacity` trials of the usual sizes.
        files: Access to the driver's files.
    """

    def __init__(
        self,
        *,
        rank: int = 0,
        world: int = 1,
        device: str = "cpu",
        capacity: int = 1,
        room: Room | None = None,
        files: Files | None = None,
    ) -> None:
        self._share, self._device, self._room = Share(rank, world), device, room or Room(pack=capacity)
        self._files: Files = files or LocalFiles()
        self._peers = Peers(world)
        self._backbone: tuple[tuple[str, InputNeeds, Frozen], Backbone] | None = None
        self._pack: Pack | None = None
        self._most = self._room.pack
        self._alone = False
        self._data: dict[str, TaskData] = {}
        self._inputs: dict[str, InputNeeds] = {}
        self._jobs: dict[str, Training] = {}
        self._prefixes = Prefixes(self._files)
        self._starts = Starts(self._prefixes, self._share, self._peers.reduce, device)
        self._epochs = Epochs(self._prefixes, self._files, self._share, self._peers, device)
        self._news: list[Report] = []
        self._unseen = 0
        """Steps since the last check of the losses."""

    # --- the pool's calls ---------------------------------------------------------------------------------

    def free_slots(self, job: Job) -> int:
        """Number of jobs of this kind that fit now; next to others only on the same backbone and in the same pack."""
        config = TrialConfig.from_dict(job.config)
        if not self._jobs:
            return 1 if is_full(config) or job.alone else self._most
        if job.alone or self._alone:
            return 0
        with self._peers.together():
            if self._pack is None or not self._suits(self._pack, job, config):
                return 0
            return min(self._pack.capacity, self._most) - len(self._jobs)

    def admit(self, job: Job) -> None:
        """Admit a job, from its newest complete checkpoint if it has one.

        Raises:
            ValueError: If its configuration, data or backbone cannot be used.
            WorkerFailed: If another worker of the group cannot admit it.
        """
        try:
            with self._peers.together():
                self._admit(job)
        except Exception:
            self.release(job.id)
            if self._share.of > 1 and not self._jobs:  # some workers may have built what others have not
                self._close_pack()
                self._backbone = None
            raise

    def _admit(self, job: Job) -> None:
        config = TrialConfig.from_dict(job.config)
        problems = config.problems()
        if problems:
            raise ValueError(" ".join(problems))
        data = self._open(job.data)
        if self._pack is None or not self._suits(self._pack, job, config):
            self._build(job, config, data)
        assert self._pack is not None and self._backbone is not None
        if job.alone:  # limits due to out-of-memory errors of other jobs do not apply to this one
            self._pack.micro_batches, self._pack.eval_tokens = 1, EVAL_TOKENS
        paths = () if self._pack.full else target_paths(self._backbone[1], config.targets)
        training = Training(
            job,
            self._files.fetch(job.data),
            Slot(config=config, data=data, paths=paths, row=-1),
            checkpoints=Checkpoints.of(job, self._files),
        )
        training.costs = cost_facts(self._pack, training.probe)
        training.key = prefix_key(training, self._backbone[1].digest, self._room.frozen)
        self._starts.place(self._pack, training)
        self._jobs[job.id] = training
        self._news += training.reports

    def release(self, job_id: str) -> None:
        """Drop a job and free its slot; unknown ids are ignored."""
        self._news = [report for report in self._news if report.job != job_id]
        self._drop(job_id)

    def advance(self) -> Sequence[Report]:
        """Train some steps of every job; returns a report for each that reached an evaluation."""
        if not self._news and self._pack is not None and self._pack.slots:
            with self._peers.together():
                self._train(self._pack)
        news, self._news = self._news, []
        return news

    def save(self) -> None:
        """Write a generation of every job with a slot, amid its epoch."""
        if self._pack is not None:
            for training in self._slotted():
                self._epochs.save(self._pack, training)

    def close(self) -> None:
        """Release the pack and the backbone."""
        self._close_pack()
        self._backbone = None
        self._jobs.clear()
        self._data.clear()
        self._news.clear()

    # --- training -----------------------------------------------------------------------------------------

    def _train(self, pack: Pack) -> None:
        """Train until there is a report or it is time to check for commands."""
        end, steps = time.monotonic() + SLICE_S, 0
        for training in self._slotted():
            if training.slot and training.slot.done:
                self._report(pack, training)  # restored from a checkpoint of its last step
        while not self._news and pack.slots:
            if not self._step(pack):
                return
            steps += 1
            for training in self._slotted():
                if training.slot and training.grid.due(training.slot.step):
                    self._report(pack, training)
            self._prefixes.part(pack)
            if self._share.index == 0:
                for training in self._jobs.values():
                    self._prefixes.keep(training, pack)
            if self._unseen >= LOSS_STEPS:
                self._look_at_losses(pack)
            if steps >= SLICE_STEPS if self._share.of > 1 else time.monotonic() >= end:
                return

    def _slotted(self) -> list[Training]:
        """The jobs with a slot, in order of admission."""
        return [training for training in self._jobs.values() if training.slot is not None]

    def _step(self, pack: Pack) -> bool:
        """One step of all slots. False if memory was insufficient, in which case less is tried the next time."""
        begun, running = time.monotonic(), self._slotted()
        due = [one for one in running if one.slot and one.trajectory.due(one.slot)]
        try:
            pack.step()
        except RuntimeError as problem:
            if pack.midway or not short_of_memory(problem):
                raise
            self._peers.short(problem)
            line = one_line(problem)
        else:
            for training in due:
                assert training.slot is not None
                training.trajectory.take(pack, training.slot)
            for training in running:
                training.device_seconds += (time.monotonic() - begun) / len(running)
                training.note_loss(pack)
            self._unseen += 1
            return True
        self._need_less(pack, line)
        return False

    def _report(self, pack: Pack, training: Training) -> None:
        """Evaluate; ended jobs, and jobs that share their state, leave their slots."""
        self._news += (reports := self._epochs.evaluate(pack, training))
        for report in reports:
            if report.status != "running":
                self._drop(report.job)

    def _look_at_losses(self, pack: Pack) -> None:
        """Fail the trials whose training loss is not finite, and those that share their state."""
        self._unseen, lost = 0, pack.first_lost()
        for training in self._slotted():
            if training.slot in lost:
                self._fail(self._epochs.diverged(training, lost[training.slot]))

    def _fail(self, reports: Sequence[Report]) -> None:
        self._news += reports
        for report in reports:
            self._drop(report.job)

    def _need_less(self, pack: Pack, problem: str) -> None:
        """Out of memory: return the newer half of the trials to the queue; a single one gets smaller micro-batches."""
        if self._device == "cuda":
            torch.cuda.empty_cache()
        slotted = self._slotted()
        if len(slotted) > 1:
            self._most = len(slotted) // 2
            log.warning("out of memory with %d trials at once; continuing with %d", len(slotted), self._most)
            for training in list(self._jobs.values())[self._most :]:
                self._hand_back(pack, training)
            return
        (training,) = slotted
        size = training.probe.config.batch_size
        if pack.micro_batches < size:
            pack.micro_batches = min(size, 2 * pack.micro_batches)
            log.warning(
                "out of memory with one trial; its batches are split into %d parts", pack.micro_batches
            )
            return
        error = f"out of memory with one trial and batches of one sequence ({problem})."
        self._fail(self._epochs.fail(training, error))

    def _hand_back(self, pack: Pack, training: Training) -> None:
        """Return a job to the queue."""
        self._epochs.save(pack, training)
        self._drop(training.job.id)
        self._news.append(Report(job=training.job.id, number=0, status="returned"))

    def _drop(self, job_id: str) -> None:
        training = self._jobs.pop(job_id, None)
        if training is None or self._pack is None:
            return
        self._prefixes.leave(training, self._pack)
        if training.slot in self._pack.slots:
            self._pack.release(training.slot)

    # --- the pack -----------------------------------------------------------------------------------------

    def _needs(self, job: Job, *, full: bool) -> tuple[str, InputNeeds, Frozen]:
        """The backbone of a job, what its data needs of it, and its number type."""
        if job.data not in self._inputs:
            self._inputs[job.data] = InputNeeds.of(self._files.fetch(job.data))
        return job.backbone, self._inputs[job.data], "fp32" if full else self._room.frozen

    def _suits(self, pack: Pack, job: Job, config: TrialConfig) -> bool:
        full = is_full(config)
        return (
            self._backbone is not None
            and self._backbone[0] == self._needs(job, full=full)
            and pack.full == full
            and self._alone == job.alone
            and (full or config.kind.rank(config) <= pack.max_rank)
            and self._open(job.data).num_labels <= pack.layout.labels
            and (config.kind.outputs == "none" or pack.layout.outputs)
            and (not job.alone or self._room_of(job, config, self._open(job.data)).holds_no_more(pack))
        )

    def _room_of(self, job: Job, config: TrialConfig, data: TaskData) -> Room:
        """Capacity of the pack of a job; for a job that trains alone just that job, because tensor sizes affect the
        rounding of sums."""
        if not job.alone:
            return self._room
        rank = max(1, config.kind.rank(config))
        outputs = config.kind.outputs != "none"
        return replace(self._room, pack=1, max_rank=rank, max_labels=data.num_labels, outputs=outputs)

    def _build(self, job: Job, config: TrialConfig, data: TaskData) -> None:
        if self._jobs:
            raise ValueError(f"{job.id} does not fit next to the jobs of this worker.")
        self._close_pack()
        full, self._alone = is_full(config), job.alone
        room = self._room_of(job, config, data)
        needs = self._needs(job, full=full)
        if self._backbone is None or self._backbone[0] != needs:
            self._backbone, self._most = None, self._room.pack
            source = local_source(job.backbone, self._files)
            self._backbone = (
                needs, load(source, self._room, full=full, device=self._device, needs=needs[1])
            )  # fmt: skip
        while self._pack is None:
            problem = None
            try:
                self._pack = build(
                    self._backbone[1],
                    room,
                    config,
                    data.num_labels,
                    capacity=1 if job.alone else self._most,
                    share=self._share,
                    reduce=self._peers.reduce,
                )
            except RuntimeError as short:
                if not short_of_memory(short):
                    raise
                problem = short
            if self._peers.short(problem):
                self._close_pack()
                if full or job.alone or self._most == 1:
                    raise problem or ShortOfMemory(
                        "another worker has not enough memory for a pack of one trial."
                    )
                self._most //= 2
                log.warning("out of memory for a pack; packs of %d trials", self._most)

    def _close_pack(self) -> None:
        if self._pack is not None:
            self._pack.close()
        self._pack = None
        self._prefixes.forget()

    def _open(self, folder: str) -> TaskData:
        if folder not in self._data:
            self._data[folder] = open_prepared(self._files.fetch(folder))
        return self._data[folder]
