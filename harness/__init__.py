"""The benchmark service around `lingo`: configuration, data, search, worker pool, tracking, results.

In Python: `from harness import Run, benchmark`, see docs/python.md.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.pipeline.python import Run, benchmark

__all__ = ["Run", "benchmark"]


def __getattr__(name: str) -> Any:
    """`Run` and `benchmark`, imported when they are used: the command imports this package first."""
    if name not in __all__:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    from harness.pipeline import python

    return getattr(python, name)
