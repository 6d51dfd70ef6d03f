"""`run`: a whole benchmark."""

from typing import Annotated, Any

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.options import with_options, with_store
from harness.cli.problems import all_problems
from harness.config.build import build
from harness.core.errors import InputError


@app.command()
@with_options()
def run(
    options: dict[str, Any],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --cluster: print what would be done, without doing it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --cluster: start without confirmation.")] = False,
    teardown: Annotated[
        bool | None,
        typer.Option(
            help="With --cluster: terminate the cluster at the end, or keep it.",
            show_default="ask; without a terminal, terminate once results are downloaded",
        ),
    ] = None,
) -> None:
    """Search every (task, backbone, method) study, train each winner on several seeds, and test it once.

    Without options it runs the suite **quickstart**: short generated DNA with planted motifs and a tiny
    random backbone. It downloads nothing and takes a few minutes. With **--cluster** alone it runs the paper's
    tasks available on the hub or in --data-dir with OPT-125M. With --cluster, Ctrl-C detaches; the benchmark
    keeps running, and attach, status, logs and stop reconnect to it.

    Exit code: 0 if every final result exists, 1 if some are missing, 2 for invalid input,
    130 if interrupted.
    """

    def work(console: Console) -> int:
        from harness.core.cluster_address import joins

        try:
            benchmark = build(with_store(options, console))
        except InputError as error:
            found = [*error.problems, *_all_problems(options), *_of_the_cluster(options, dry_run)]
            raise InputError(dict.fromkeys(found)) from None
        if not joins(benchmark.cluster):
            from harness.cluster.finish import TeardownOptions
            from harness.cluster.run import run_on_cluster

            asked = TeardownOptions(dry_run=dry_run, yes=yes, teardown=teardown)
            return run_on_cluster(benchmark, asked, console)
        if dry_run:
            raise InputError("`--dry-run` requires a `--cluster` to be started; for a local run use `plan`.")
        from harness.pipeline.run import run_benchmark

        return run_benchmark(benchmark, console)

    conduct(work, interrupted="Interrupted; finished trials are kept, and the same command continues.")


def _all_problems(options: dict[str, Any]) -> list[str]:
    """Problems of the options, and of data, backbones and search spaces on this machine."""
    from harness.config.plan import plan

    return all_problems(
        {name: value for name, value in options.items() if name not in ("dry_run", "yes", "teardown", "out")},
        build,
        plan if options.get("cluster") is None else None,
    )


run.also = _all_problems  # type: ignore[attr-defined]


def _of_the_cluster(options: dict[str, Any], dry_run: bool) -> list[str]:
    """Problems of the cluster, if there are other problems: all are reported at once."""
    from harness.core.cluster_address import joins

    cluster = options.get("cluster")
    if cluster is None or joins(cluster):
        return []
    from harness.cluster.preview import inspect_cluster

    place = inspect_cluster(
        cluster,
        storage_path=options.get("storage_path"),
        tracking_uri=options.get("tracking_uri"),
        dry_run=dry_run or "://" in cluster,  # without a token, the server is not contacted
        price=options.get("price_per_hour"),
    )
    return place.problems
