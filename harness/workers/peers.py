"""Propagation of failures between the workers of a group, instead of waiting for a failed one.

Data-parallel workers synchronise in every reduction. Before each, all exchange their status over gloo; a worker that
failed reports it at its next synchronisation, where the others raise. On a GPU this needs no device synchronisation,
because out-of-memory errors occur on the host, where tensors are allocated.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch import distributed as dist

from harness.core.wording import one_line
from harness.pool.engine import AGREE, WorkerFailed
from lingo.memory import out_of_memory
from lingo.reduce import all_reduce


class ShortOfMemory(torch.OutOfMemoryError):
    """Another worker of the group has too little memory for the next operation."""


def short_of_memory(error: RuntimeError) -> bool:
    """Whether an error of a step or an evaluation means that less may succeed; another worker's failure does not."""
    return out_of_memory(error) and not isinstance(error, WorkerFailed)


class Peers:
    """The other workers of a group; without others nothing is exchanged.

    Every rank must make the same calls in the same order, including the constructor, except after failures.

    Args:
        world: Number of workers of the group.
    """

    def __init__(self, world: int) -> None:
        self._world = world
        self._group = dist.new_group(backend="gloo", timeout=AGREE) if world > 1 else None

    def reduce(self, tensor: Tensor) -> None:
        """Sum in place over the workers. Raises `ShortOfMemory` or `WorkerFailed` if another one failed."""
        if self._world > 1:
            self._meet()
            all_reduce(tensor)

    def short(self, problem: RuntimeError | None = None) -> bool:
        """Whether this worker or another is short of memory.

        Args:
            problem: Error of this worker, if any.

        Raises:
            WorkerFailed: If another one failed for a reason other than memory.
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
        """All workers complete this block, or it raises on all of them: `WorkerFailed`, or the worker's own
        `ValueError`. Blocks must not be nested."""
        if self._world == 1:
            yield
            return
        try:
            yield
        except WorkerFailed:
            raise  # the others have been notified
        except Exception as problem:
            self._meet(one_line(problem), memory=False)
            if isinstance(problem, ValueError):
                raise
            raise WorkerFailed(one_line(problem)) from problem
        self._meet()

    def _meet(self, failure: str | None = None, *, memory: bool = False) -> None:
        """Wait for all and raise failures of others. Own failures are reported and not raised."""
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
