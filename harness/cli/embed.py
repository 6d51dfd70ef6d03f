"""`embed`: vectors of a frozen backbone."""

import signal
from enum import StrEnum
from typing import Annotated

import typer
from rich.console import Console

from harness.cli.app import app, conduct
from harness.cli.sequence_options import (
    BatchSize,
    Columns,
    Device,
    FrozenChoice,
    Genome,
    Input,
    OnError,
    OnErrorChoice,
    Output,
    say_written,
)


class Pooling(StrEnum):
    """How the states of a sequence's tokens are pooled."""

    auto = "auto"
    mean = "mean"
    first = "first"
    last = "last"
    max = "max"


class StrandChoice(StrEnum):
    """Strands over which a vector is averaged."""

    one = "one"
    both = "both"


@app.command()
def embed(
    models: Annotated[
        str,
        typer.Option(
            metavar="MODEL", help="Backbone: a known name, a hub id or a folder in the hub's layout."
        ),
    ],
    input_: Input,
    output: Output,
    depth: Annotated[
        float,
        typer.Option(
            metavar="SHARE", help="Layer whose states are read, as a share of all; 1 is the output."
        ),
    ] = 1.0,
    pooling: Annotated[
        Pooling, typer.Option(help="Mean, first, last or largest state of a sequence's tokens.")
    ] = Pooling.auto,
    strands: Annotated[
        StrandChoice, typer.Option(help="Vector of the sequence, or mean with its reverse complement's.")
    ] = StrandChoice.one,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="TOKENS", help="Cut longer inputs.", show_default="the backbone's positions"),
    ] = None,
    batch_size: BatchSize = None,
    columns: Columns = None,
    genome: Genome = None,
    on_error: OnError = OnErrorChoice.refuse,
    frozen: Annotated[
        FrozenChoice | None,
        typer.Option(help="Number type of the weights.", show_default="bf16 where the device has it"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Write one vector for each sequence: frozen features of a backbone.

    Files of any size are read in blocks; the output is written atomically. Parquet and JSON have a list column
    `embedding`, CSV one column a number.

    Exit code: 0 if written, 2 for invalid input, 130 if interrupted.
    """

    def work(console: Console) -> int:
        from harness.inference.embed import embed_file

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        done = embed_file(
            models,
            input_,
            output,
            console,
            depth=depth,
            pooling=pooling.value,
            strands=strands.value,
            max_length=max_length,
            batch_size=batch_size,
            columns=columns or "",
            genome=str(genome or ""),
            on_error=on_error.value,
            device=device,
            frozen=None if frozen is None else frozen.value,
        )
        say_written(console, output, "vectors", done.written, done.skipped)
        if done.cut:
            console.print(f"[yellow]{done.cut:,} sequences were cut to the model's input.[/]", soft_wrap=True)
        return 0

    conduct(work, interrupted="Interrupted; no output was written.")
