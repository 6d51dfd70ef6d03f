"""Ray Train's trainer of a worker group. It imports torch: only the processes that control groups import it."""

import asyncio
from typing import Any

from ray.runtime_context import get_runtime_context
from ray.train import Result
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import state, worker_group

SPARED = (DatasetsCallback, PlacementGroupCleanerCallback)


class GroupTrainer(TorchTrainer):
    """In an actor, without four processes of each group of which there is no use: one for Ray Train's controller, which
    runs in this thread instead; a server of Ray datasets, of which there are none; a remover of placement groups, since
    `harness.pool.supervisor.sweep` removes them, also where Ray has no dashboard; and a barrier, see `without_barrier`.
    """

    def _create_default_callbacks(self) -> list[Any]:
        every = super()._create_default_callbacks()  # type: ignore[misc]  # its parents are chosen as it is imported
        return [each for each in every if not isinstance(each, SPARED)]

    def _initialize_and_run_controller(self, **arguments: Any) -> Result:
        controller = TrainController(**arguments)
        asyncio.run(controller.run())  # type: ignore[no-untyped-call]
        return controller.get_result()


class _NoBarrier:
    """In place of the class of an actor, the actor in which it is asked for."""

    def options(self, **_: Any) -> "_NoBarrier":
        return self

    def remote(self, **_: Any) -> Any:
        return get_runtime_context().current_actor


def without_barrier() -> None:
    """Let Ray Train in this process start no actor in which the workers of a group wait for each other when they call
    `ray.train.report`: ours do not, they wait in `harness.pool.worker_group.Together`."""
    worker_group.SynchronizationActor = _NoBarrier()  # type: ignore[attr-defined,assignment]
    state._shutdown_sync_actor = lambda sync_actor: None
