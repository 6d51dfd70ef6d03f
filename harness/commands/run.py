"""`run`: a whole benchmark."""

from typing import Any

from rich.console import Console

from harness.commands import app, conduct
from harness.commands.options import settings, with_options
from harness.config import build


@app.command()
@with_options()
def run(options: dict[str, Any]) -> None:
    """Search every (task, backbone, method) study, train each winner on several seeds, and test it once.

    Without options it runs the suite **quickstart**: small generated DNA with planted motifs and a tiny
    random backbone made on this machine. It downloads nothing and takes a few minutes.

    Exit code: 0 when every final result is there, 1 when some are missing, 2 for bad input,
    130 when interrupted.
    """

    def work(console: Console) -> int:
        from harness.run import run_benchmark

        return run_benchmark(build(settings(options)), console)

    conduct(work, interrupted="Interrupted; what has ended is kept, and the same command goes on from there.")
