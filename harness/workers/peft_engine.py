"""The engine of the methods of peft: one job at a time on one backbone."""

import logging
from typing import Any

from harness.runs.jobs import Job
from harness.workers.adapter_files import input_of
from harness.workers.backbone_engine import BackboneEngine
from harness.workers.single_engine import Held
from lingo.adapter_folder import adapter_digest
from lingo.data import TaskData
from lingo.foreign import PeftNetwork, export_peft, peft_problem, peft_trial
from lingo.single import GradientTrial, Single
from lingo.target import ExportError
from lingo.trial import TrialConfig

log = logging.getLogger(__name__)


class PeftEngine(BackboneEngine):
    """Trains jobs of `lokr`, `loha` and similar methods. The backbone stays loaded between jobs."""

    def release(self, job_id: str) -> None:
        """Drop a job and restore the backbone's own layers; unknown ids are ignored."""
        held = self._held
        super().release(job_id)
        if held is not None and self._held is None:
            self._network(held.trial).detach()

    def _trial(self, job: Job, config: TrialConfig, data: TaskData) -> Single:
        problem = peft_problem()
        if problem is not None:
            raise ValueError(f"`{config.method}` {problem}")
        backbone = self._backbone(job)
        return peft_trial(backbone, config, data, device=self._device)

    @staticmethod
    def _network(trial: Single) -> PeftNetwork:
        assert isinstance(trial, GradientTrial) and isinstance(trial.network, PeftNetwork)
        return trial.network

    def _save(self, held: Held, facts: dict[str, Any]) -> dict[str, Any]:
        """Write the trained adapter in peft's own layout. A disk error loses the file, not the result."""
        job, trial = held.job, held.trial
        if not job.adapter or self._rank:
            return {}
        assert isinstance(trial, GradientTrial)
        try:
            local = self._files.place(job.adapter)
            card = {"task": trial.data.name, "study": job.study, **facts}
            export_peft(
                self._network(trial),
                trial,
                local,
                card=card,
                thresholds=facts.get("threshold", ()),
                **input_of(self._files.fetch(job.data)),
            )
            digest = adapter_digest(local)
            self._files.send(local, job.adapter)
        except (ExportError, OSError) as problem:
            log.warning("no adapter of %s: %s", job.id, problem)
            return {"adapter_error": str(problem)}
        return {"adapter": job.adapter, "adapter_digest": digest}
