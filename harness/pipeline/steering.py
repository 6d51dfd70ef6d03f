"""Requests of users to a run: each is decided once by the driver, and the decisions are kept for the next one."""

import time
from collections.abc import Sequence
from dataclasses import replace

from harness.config.added_trial import added_values
from harness.config.benchmark import Benchmark
from harness.config.scopes import merge
from harness.config.studies import PreparedStudy, with_requests
from harness.core.atomic_files import written
from harness.core.errors import InputError, command, nearest
from harness.pipeline.remaining import groups
from harness.runs.open_trials import OpenTrials
from harness.runs.record import Record
from harness.runs.requests import Request, Requests, is_paused
from harness.runs.store import ResultStore

EVERY_S = 0.5
"""Seconds between two looks at the folder."""

CHANGES = ("stop", "add", "more")
"""Requests that may change which configuration wins."""


class Steering:
    """The requests of an output folder.

    Args:
        studies: All studies of the benchmark.
        store: The records; its folder has the requests.
    """

    def __init__(self, studies: Sequence[PreparedStudy], benchmark: Benchmark, store: ResultStore) -> None:
        self._studies, self._benchmark, self._store = list(studies), benchmark, store
        self._requests, self._looked = Requests(store.out), -EVERY_S
        self._decided: list[Request] = []
        self._members = {
            study.key: members for members in groups(self._studies, benchmark.scope) for study in members
        }

    def turn(self, *, at_once: bool = False) -> list[Request] | None:
        """Decide what has been asked since the last call.

        Returns:
            All decided requests where there is a new one, else `None`.
        """
        if not at_once and time.monotonic() < self._looked + EVERY_S:
            return None
        self._looked = time.monotonic()
        known = {one.number for one in self._decided}
        for request in self._requests.load():
            if request.number in known:
                continue
            if request.state == "asked":
                request = self._decision(request)
                with written(self._store.out):
                    self._requests.decide(request)
            self._decided.append(request)
        return list(self._decided) if len(self._decided) > len(known) else None

    def studies(self) -> list[PreparedStudy]:
        """The studies with the numbers of trials that were asked for, and those that were added."""
        made = {
            study.key: study
            for members in groups(self._studies, self._benchmark.scope)
            for study in with_requests(members, self._decided)
        }
        return [made[study.key] for study in self._studies]

    @property
    def requests(self) -> list[Request]:
        """All decided requests."""
        return list(self._decided)

    def is_paused(self, study: PreparedStudy) -> bool:
        """Whether the search of this study is paused."""
        return is_paused(self._decided, [one.key for one in self._members[study.key]])

    def after_test(self) -> set[str]:
        """Studies whose trials a user changed when their test scores could be read."""
        late = [one.study for one in self._decided if one.after_test and one.kind in CHANGES]
        return {study.key for key in late for study in self._members[key]}

    def _decision(self, request: Request) -> Request:
        try:
            return replace(self._done(request), after_test=self._tested(request.study))
        except InputError as error:
            return replace(request, state="refused", reason=" ".join(error.problems))

    def _done(self, request: Request) -> Request:
        """The request with what was done. Raises `InputError` where it is refused."""
        key = request.study
        if key not in self._members:
            raise InputError(
                f"STUDY must be a study of the run, but got {key!r}.{nearest(key, self._members)}"
            )
        study = next(one for one in self.studies() if one.key == key)
        if study.is_control:
            raise InputError(
                f"{key} has no search: a control takes the configuration of its pretrained study."
            )
        done = replace(request, state="done")
        if request.kind == "stop":
            return replace(done, reason=self._stop(request))
        if request.kind == "add":
            return self._add(done, study)
        if request.kind == "more":
            return replace(done, reason=self._more(request, study))
        paused = self.is_paused(study)
        if paused == (request.kind == "pause"):
            raise InputError(f"{key} is {'paused already' if paused else 'not paused'}.")
        said = "starts no further trial; those under way go on" if not paused else "starts trials again"
        return replace(done, reason=f"{key} {said}.")

    def _stop(self, request: Request) -> str:
        name = f"{request.study}/trial-{request.trial or 0:04d}"
        ended = [one for one in self._records(request.study) if one.id == name and one.status != "killed"]
        if ended:
            raise InputError(f"{name} has ended already: {ended[0].status}.")
        if name not in self._open():
            raise InputError(f"{name} has not begun.")
        return f"{name} stops."

    def _add(self, request: Request, study: PreparedStudy) -> Request:
        if self._benchmark.searcher == "grid":
            raise InputError("`add-trial` does not go with `--searcher grid`, which has its own points.")
        members = self._group(study)
        space = merge([one.space for one in members])
        values = added_values(space, request.values, options=self._benchmark.of_trials)
        keys = {one.key for one in members}
        names = {one.id for one in self._records(*keys)} | {
            name for name in self._open() if name.rpartition("/")[0] in keys
        }
        known = [int(name.rsplit("-", 1)[1]) for name in names if "/trial-" in name]
        number = max(study.trials(self._benchmark), max(known, default=-1) + 1)
        reason = f"{study.key}/trial-{number:04d} is added."
        return replace(request, values=values, added=number, reason=reason)

    def _more(self, request: Request, study: PreparedStudy) -> str:
        now, wanted = study.drawn(self._benchmark), request.num_samples or 0
        then = replace(study, samples=wanted).drawn(self._benchmark)
        if wanted <= now or then <= now:
            has = f"the search of {study.key} has {now}" + (" and no others" if wanted > now else "")
            raise InputError(f"`--num-samples` must be more than its trials, but {has}, and got {wanted}.")
        return f"the search of {study.key} has {then} trials instead of {now}."

    def _group(self, study: PreparedStudy) -> list[PreparedStudy]:
        keys = {one.key for one in self._members[study.key]}
        return [one for one in self.studies() if one.key in keys]

    def _tested(self, key: str) -> bool:
        keys = {one.key for one in self._members[key]}
        return any(one.study in keys and one.test is not None for one in self._store.load())

    def _records(self, *studies: str) -> list[Record]:
        return [one for one in self._store.load() if one.study in studies and one.stage == "search"]

    def _open(self) -> list[str]:
        return [job.id for job in OpenTrials(self._store.out).load()]


def paused_lines(unfinished: Sequence[PreparedStudy], benchmark: Benchmark, store: ResultStore) -> list[str]:
    """How the searches that are left go on where they are paused: `resume` alone would not search them."""
    requests = Requests(store.out).load()
    return [
        f"{study.key}: to go on with it, first {command('unpause', store.out, study.key)}"
        for members in groups(unfinished, benchmark.scope)
        for study in members
        if is_paused(requests, [one.key for one in members])
    ]
