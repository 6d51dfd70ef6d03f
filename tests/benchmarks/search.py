"""Figures of the search, each side by side with its peer in one run.

    python -m tests.benchmarks.search [--parts packs samples queue idle] [--json FILE]

`packs`: wall time of 32 AdaLoRA trials in packs, one by one, and as Tune function trials with transformers'
Trainer and peft. `samples`: trained samples to the best random-search score, against TPE with ASHA and shared
prefixes. `queue`: trivial trials a second, and memory. `idle`: share of the slots' time without training.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from tests.benchmarks.search_rows import Row, Say, tell


def packs(say: Say) -> list[Row]:
    """See `tests.benchmarks.search_packs`."""
    from tests.benchmarks.search_packs import pack_rows

    return pack_rows(say)


def samples(say: Say) -> list[Row]:
    """See `tests.benchmarks.search_samples`."""
    from tests.benchmarks.search_samples import sample_rows

    return sample_rows(say)


def queue(say: Say) -> list[Row]:
    """See `tests.benchmarks.search_queue`."""
    from tests.benchmarks.search_queue import queue_rows

    return queue_rows(say)


def idle(say: Say) -> list[Row]:
    """See `tests.benchmarks.search_queue`."""
    from tests.benchmarks.search_queue import idle_rows

    return idle_rows(say)


PARTS: dict[str, Callable[[Say], list[Row]]] = {
    "packs": packs,
    "samples": samples,
    "queue": queue,
    "idle": idle,
}
"""Each part starts Ray for itself, says what it does, and returns its rows."""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    say = Console(stderr=True).print
    rows = [row for part in options.parts for row in PARTS[part](say)]
    tell(rows, options.json)


if __name__ == "__main__":
    main()
