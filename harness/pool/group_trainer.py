"""Ray Train's trainer of a worker group. It imports torch: only the task that starts the group imports it."""

from typing import Any

from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

SPARED = (DatasetsCallback, PlacementGroupCleanerCallback)


class GroupTrainer(TorchTrainer):
    """Without two processes a group of which there is no use: a server of Ray datasets, of which there are none, and
    a remover of placement groups, since `harness.pool.supervisor.sweep` removes them, also where Ray has no dashboard.
    """

    def _create_default_callbacks(self) -> list[Any]:
        every = super()._create_default_callbacks()  # type: ignore[misc]  # its parents are chosen as it is imported
        return [each for each in every if not isinstance(each, SPARED)]
