"""What engines share that hold one backbone beside one job at a time."""

import logging
from pathlib import Path
from typing import Any

from harness.runs.jobs import Job
from harness.workers.adapter_files import input_of
from harness.workers.packs import InputNeeds, local_source
from harness.workers.single_engine import Held, SimpleEngine
from lingo.adapter_folder import adapter_digest
from lingo.backbones import Backbone
from lingo.quantized import load_frozen
from lingo.target import ExportError
from lingo.trial import Frozen

log = logging.getLogger(__name__)


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

    def _write(self, held: Held, folder: Path, **known: Any) -> None:
        """Write what was trained as an export; `known` are fields of `lingo.about.About`."""
        raise NotImplementedError

    def _save(self, held: Held, facts: dict[str, Any]) -> dict[str, Any]:
        """Write what was trained. A disk error loses the files, not the result."""
        job = held.job
        if not job.adapter or self._rank:
            return {}
        try:
            local = self._files.place(job.adapter)
            card = {"task": held.trial.data.name, "study": job.study, **facts}
            known = input_of(self._files.fetch(job.data))
            self._write(held, local, card=card, thresholds=facts.get("threshold", ()), **known)
            digest = adapter_digest(local)
            self._files.send(local, job.adapter)
        except (ExportError, OSError) as problem:
            log.warning("no adapter of %s: %s", job.id, problem)
            return {"adapter_error": str(problem)}
        return {"adapter": job.adapter, "adapter_digest": digest}

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
