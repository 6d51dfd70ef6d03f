"""How the workers of a group hear of each other's failures, instead of waiting for one that will not come.

Workers that train together meet in every reduction. Before each, all say over gloo whether they have come so far;
one that failed says so in the place of its next meeting, and the others raise there. On a GPU this costs no
waiting for the device: memory ends on the host, where tensors are made.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from harness.core.wording import one_line
from harness.pool.engine import AGREE, WorkerFailed
from lingo.reduce import all_reduce


class ShortOfMemory(torch.OutOfMemoryError):
    """Another worker of the group has too little memory for what all were about to do."""


class Peers:
    """The other workers of a group; of a worker that trains alone there are none, and nothing is asked.

    Every rank must make the same calls in the same order, failures apart. Making one is such a call.

    Args:
        world: Workers of the group.
    """

    def __init__(self, world: int) -> None:
        self._world = world
        self._group = dist.new_group(backend="gloo", timeout=AGREE) if world > 1 else None

    def reduce(self, tensor: Tensor) -> None:
        """Sum in place over the workers. Raises `ShortOfMemory` or `WorkerFailed` where another one failed."""
        if self._world > 1:
            self._meet()
            all_reduce(tensor)

    def short(self, problem: torch.OutOfMemoryError | None = None) -> bool:
        """Whether this worker or another is short of memory.

        Args:
            problem: What this worker ran into, if anything.

        Raises:
            WorkerFailed: Where another one failed in a way that less memory does not mend.
        """
        if self._world == 1 or isinstance(problem, ShortOfMemory):
            return problem is not None
        try:
            self._meet(one_line(problem) if problem else None, memory=True)
        except ShortOfMemory:
            return True
        return problem is not None

    @contextmanager
    def together(self) -> Iterator[None]:
        """All workers come through this block, or it raises on all of them: `WorkerFailed`, but a worker's own
        `ValueError` stays what it is. At most one block at a time."""
        if self._world == 1:
            yield
            return
        try:
            yield
        except WorkerFailed:
            raise  # who raised it has been heard
        except Exception as problem:
            self._meet(one_line(problem), memory=False)
            if isinstance(problem, ValueError):
                raise
            raise WorkerFailed(one_line(problem)) from problem
        self._meet()

    def _meet(self, failure: str | None = None, *, memory: bool = False) -> None:
        """Wait for all; raise what others have to say. Own failures are told and not raised."""
        flags = torch.tensor([failure is not None and memory, failure is not None and not memory]).int()
        dist.all_reduce(flags, group=self._group)
        short, failed = flags.tolist()
        if not short and not failed:
            return
        lines: list[str | None] = [None] * self._world
        dist.all_gather_object(lines, failure, group=self._group)
        line = next(line for line in lines if line)
        if failed and (failure is None or memory):
            raise WorkerFailed(line)
        if short and failure is None:
            raise ShortOfMemory(line)
