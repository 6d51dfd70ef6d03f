"""Progress of long steps on data (reading, comparing, tokenising), reported to a listener of the thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with the step, the amount done and the total (bytes or rows)."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Report all steps of this thread to `listener` within the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tell(what: str, done: int, total: int) -> None:
    """Report to the listener, if there is one."""
    if (listener := _listener.get()) is not None:
        listener(what, done, total)
