"""What engines share that hold one backbone beside one job at a time."""

from typing import Any

from harness.runs.jobs import Job
from harness.workers.packs import InputNeeds, local_source
from harness.workers.single_engine import SimpleEngine
from lingo.backbones import Backbone
from lingo.quantized import load_frozen
from lingo.trial import Frozen


class BackboneEngine(SimpleEngine):
    """One job at a time on a backbone that stays loaded between jobs."""

    def __init__(self, *, frozen: Frozen | None = None, **place: Any) -> None:
        super().__init__(**place)
        self._frozen = frozen
        self._loaded: tuple[tuple[str, InputNeeds], Backbone] | None = None

    def close(self) -> None:
        """Release all resources."""
        if self._held is not None:
            self.release(self._held.job.id)
        super().close()
        self._loaded = None

    def _backbone(self, job: Job) -> Backbone:
        """The job's backbone, as its data needs it."""
        needs = InputNeeds.of(self._files.fetch(job.data))
        key = (job.backbone, needs)
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            source = local_source(job.backbone, self._files)
            backbone = load_frozen(source, self._frozen, device=self._device)
            self._loaded = (key, needs.applied(backbone))
        return self._loaded[1]
