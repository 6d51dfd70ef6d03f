"""The engine of probes: linear models on frozen features, one job at a time on one backbone."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.runs.jobs import Job
from harness.workers.backbone_engine import BackboneEngine
from harness.workers.single_engine import Held
from lingo.backbones import Backbone
from lingo.data import Split, TaskData
from lingo.features import features
from lingo.kmers import KmerModel
from lingo.packed_bits import numbers_in
from lingo.quantized import backbone_type
from lingo.single import KmerTrial, Single
from lingo.single_export import export_probe
from lingo.trial import TrialConfig

MOST_KEPT = 2**31
"""Bytes of features that are kept for the trials to come."""


class ProbeEngine(BackboneEngine):
    """Trains probes. Features of train and dev are computed once for a task, backbone, layer and pooling."""

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._kept: dict[tuple[Any, ...], NDArray[np.float32]] = {}

    def close(self) -> None:
        """Release all resources."""
        super().close()
        self._kept.clear()

    def _trial(self, job: Job, config: TrialConfig, data: TaskData) -> Single:
        return ProbeTrial(config, data, self._backbone(job), self._kept)

    def _write(self, held: Held, folder: Path, **known: Any) -> None:
        assert isinstance(held.trial, ProbeTrial)
        export_probe(held.trial, held.trial.backbone, folder, **known)


class ProbeTrial(KmerTrial):
    """A linear model on frozen features.

    Args:
        config: Its `depth`, `pooling`, `C` and `seed` are read.
        data: The task, tokenised for the backbone.
        backbone: Frozen.
        kept: Features of earlier trials, which those of this one join.
    """

    def __init__(
        self,
        config: TrialConfig,
        data: TaskData,
        backbone: Backbone,
        kept: dict[tuple[Any, ...], NDArray[np.float32]],
    ) -> None:
        self.backbone, self._kept = backbone, kept
        super().__init__(config, data, KmerModel(config, data, features=self._features))

    def advance(self) -> bool:
        """Fit, and compute the features of dev as well: this may take minutes, and runs in a thread."""
        ended = super().advance()
        self.predict(self.data.dev)
        return ended

    def _features(self, split: Split, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        config = self.config
        how: dict[str, Any] = {"depth": config.depth, "pooling": config.pooling}
        names = {id(self.data.train): "train", id(self.data.dev): "dev"}
        name = names.get(id(split))
        if name is None:
            return features(self.backbone, split, rows=rows, **how)
        key = (self.backbone.digest, self.data.digest, name, *how.values(), hash(rows.tobytes()))
        if key not in self._kept:
            found = features(self.backbone, split, rows=rows, **how)
            while self._kept and sum(one.nbytes for one in self._kept.values()) + found.nbytes > MOST_KEPT:
                self._kept.pop(next(iter(self._kept)))
            self._kept[key] = found
        return self._kept[key]

    def facts(self) -> dict[str, Any]:
        """Numbers of the linear model, and what the backbone is."""
        base = sum(numbers_in(parameter) for parameter in self.backbone.model.parameters())
        return super().facts() | {
            "total_parameters": base + self.model.parameters,
            "backbone_digest": self.backbone.digest,
            "backbone_type": backbone_type(self.backbone),
        }
