"""`run`: a whole benchmark."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from harness.commands import app, conduct, names
from harness.config import PRESETS, Benchmark, build
from harness.errors import InputError
from harness.tasks import SUITES
from lingo.methods import METHODS


def _shown(name: str) -> str:
    default = Benchmark.model_fields[name].default
    return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)


def seed_numbers(text: str | None) -> tuple[int, ...] | None:
    """`0,1` as numbers. Raises `InputError` for anything else."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise InputError(f"`--seeds` must be whole numbers like 0,1,2, but got {text!r}.") from None


WHAT, SEARCH, TRAINING, MACHINE = "What to run", "Search and final stage", "Training", "Where and how fast"
QUICK = PRESETS["quickstart"]


@app.command()
def run(
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"A list of tasks: {', '.join(SUITES)}. Alternative to --tasks.",
            show_default="quickstart",
            rich_help_panel=WHAT,
        ),
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Tasks, comma-separated: EMP/H3,prom/prom_300_tata. A .csv or .parquet file, or a folder with "
            "train, dev and test, is a task of your own: columns sequence and label, label_0…label_n or target.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    models: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Backbones, comma-separated: known names, hub ids or folders in the hub's layout.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"Methods, comma-separated, of {', '.join(METHODS)}.",
            show_default="all",
            rich_help_panel=WHAT,
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder with TASK/train.csv, dev.csv and test.csv (or .parquet), as GUE is published.",
            show_default="the hub's copy",
            rich_help_panel=WHAT,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="ROWS",
            help="Use so many rows of each split; every result is then marked **smoke**.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    drop_leaks: Annotated[
        bool,
        typer.Option(
            "--drop-leaks",
            help="Leave out training rows that dev or test has as well, on either strand; "
            "results are then marked **changed split**.",
            rich_help_panel=WHAT,
        ),
    ] = False,
    reverse_complement: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Use both strands: **train** adds reverse complements to the training rows, **test** averages "
            "predictions over both strands on dev and test, **both** or **none**.",
            show_default="none; both for deepsea",
            rich_help_panel=WHAT,
        ),
    ] = None,
    num_samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Trials of each study's search.",
            show_default=_shown("num_samples"),
            rich_help_panel=SEARCH,
        ),
    ] = None,
    search_space: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A YAML file that replaces the search space of the method it names; may be repeated.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Seed of the search.", show_default=_shown("seed"), rich_help_panel=SEARCH
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Seeds on which each winner is trained again and tested, comma-separated.",
            show_default=_shown("seeds"),
            rich_help_panel=SEARCH,
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Passes over the training split.",
            show_default=_shown("epochs"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Sequences a step, over all workers of a trial.",
            show_default=_shown("batch_size"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="TOKENS",
            help="Tokens of an input, prompt included; longer sequences are cut.",
            show_default="whole sequences",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    tokenization: Annotated[
        str | None,
        typer.Option(
            metavar="SCHEME",
            help="**bbpe**: the backbone's own tokenizer; **one_hot**: a nucleotide a token; **kmer**: 6-mers.",
            show_default=_shown("tokenization"),
            rich_help_panel=TRAINING,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Output folder. A folder that holds this benchmark already is continued study by study.",
            show_default="results/SUITE-DIGEST",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    tracking_uri: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow tracking address.",
            show_default="sqlite in the output folder",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    max_concurrent: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Trials at the same time.",
            show_default="one for each core",
            rich_help_panel=MACHINE,
        ),
    ] = None,
    workers_per_trial: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Data-parallel workers of each trial.",
            show_default=_shown("workers_per_trial"),
            rich_help_panel=MACHINE,
        ),
    ] = None,
) -> None:
    """Search every (task, backbone, method) study, train each winner on several seeds, and test it once.

    Without options it runs the suite **quickstart**: small generated DNA with planted motifs and a tiny
    random backbone made on this machine. It downloads nothing and takes a few minutes.

    Exit code: 0 when every final result is there, 1 when some are missing, 2 for bad input,
    130 when interrupted.
    """
    options: dict[str, Any] = {
        "suite": suite,
        "tasks": names(tasks),
        "models": names(models),
        "methods": names(methods),
        "data_dir": data_dir,
        "num_samples": num_samples,
        "epochs": epochs,
        "seed": seed,
        "limit": limit,
        "drop_leaks": drop_leaks or None,
        "reverse_complement": reverse_complement,
        "batch_size": batch_size,
        "max_length": max_length,
        "tokenization": tokenization,
        "search_spaces": tuple(search_space) if search_space else None,
        "max_concurrent": max_concurrent,
        "workers_per_trial": workers_per_trial,
        "out": out,
        "tracking_uri": tracking_uri,
    }

    def work(console: Console) -> int:
        from harness.run import run_benchmark

        return run_benchmark(build({**options, "seeds": seed_numbers(seeds)}), console)

    conduct(work, interrupted="Interrupted; what has ended is kept, and the same command goes on from there.")
