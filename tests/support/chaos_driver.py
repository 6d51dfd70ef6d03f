"""A driver to be killed: `… chaos_driver OUT OPTIONS SECONDS` begins a run in OUT, or goes on with it."""

import json
import sys
from functools import partial
from pathlib import Path

from rich.console import Console

from harness.config.benchmark import AMOUNT, MACHINE
from harness.config.build import build
from harness.core.errors import InputError
from harness.pipeline.resume import stored_benchmark
from harness.pipeline.run import run_benchmark
from tests.support.chaos_engine import make


def main(out: Path, options: dict[str, object], seconds: float) -> int:
    """Start the benchmark of `options` in `out`, or resume the one that is there."""
    lists = {name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    changes = {name: value for name, value in lists.items() if name in AMOUNT | MACHINE}
    begun = (out / "plan.json").exists()
    benchmark = stored_benchmark(out, changes) if begun else build({**lists, "out": out})
    engine = partial(make, benchmark.pack or 1, seconds, str(out.with_name(f"{out.name}-pids")))
    console = Console(width=140, soft_wrap=True)
    try:
        return run_benchmark(benchmark, console, make_engine=engine)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])))
