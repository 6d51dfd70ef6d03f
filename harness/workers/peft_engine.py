"""The engine of the methods of peft: one job at a time on one backbone."""

from pathlib import Path
from typing import Any

from harness.runs.jobs import Job
from harness.workers.backbone_engine import BackboneEngine
from harness.workers.single_engine import Held
from lingo.data import TaskData
from lingo.foreign import PeftNetwork, peft_problem, peft_trial
from lingo.single import GradientTrial, Single
from lingo.single_export import export_peft
from lingo.trial import TrialConfig


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

    def _write(self, held: Held, folder: Path, **known: Any) -> None:
        assert isinstance(held.trial, GradientTrial)
        export_peft(self._network(held.trial), held.trial, folder, **known)
