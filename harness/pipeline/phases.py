"""How long the phases before the first trial take."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


@contextmanager
def timed(console: Console, what: str) -> Iterator[None]:
    """Print `what` with the seconds of the block, unless it raises."""
    begun = time.monotonic()
    yield
    console.print(f"[dim]{what} in {time.monotonic() - begun:.1f} s.[/]")
