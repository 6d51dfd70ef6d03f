"""`predict`: an exported adapter used on sequences."""

import signal
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct


class OnError(StrEnum):
    """Handling of invalid records."""

    refuse = "refuse"
    skip = "skip"


class Frozen(StrEnum):
    """Number type of the backbone's weights."""

    fp32 = "fp32"
    bf16 = "bf16"
    four_bit = "4bit"


@app.command()
def predict(
    adapter: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Exported adapter, or an adapter in a run's folder `adapters`."),
    ],
    input_: Annotated[
        Path,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Sequences: FASTA, FASTQ, or a table (CSV, TSV, JSON, Parquet, Arrow; also packed) with a column of "
            "sequences, and `id` or `name` if they have names; or BED with --genome.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Predictions: .csv, .parquet or .jsonl; an existing file is replaced."
        ),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="The adapter's backbone.", show_default="its location in training"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Sequences per batch.", show_default="by number of tokens"),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A=B,…",
            help="Columns by role: **sequence=** (of pairs **sequence_a=** and **sequence_b=**), "
            "**id=**; other columns are ignored.",
            show_default="by their names",
        ),
    ] = None,
    genome: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="FASTA file of the genome of the intervals (BED)."),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="Invalid records: reject the input, or skip and list them.")
    ] = OnError.refuse,
    frozen: Annotated[
        Frozen | None,
        typer.Option(help="Number type of the backbone's weights.", show_default="as in training"),
    ] = None,
    device: Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto` for a GPU if available.")] = "auto",
) -> None:
    """Predict sequences with an exported adapter: the probability of each label, or the value.

    The input is built as in training (tokens, prompt, length, strands), and the digest of the backbone is verified.
    Files of any size are read in blocks; the output is written atomically.

    Exit code: 0 if written, 2 for invalid input, 130 if interrupted.
    """

    def work(console: Console) -> int:
        from harness.inference.predict import predict_file

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # tidy up then, too
        done = predict_file(
            adapter,
            input_,
            output,
            console,
            backbone=backbone,
            batch_size=batch_size,
            columns=columns or "",
            genome=str(genome or ""),
            on_error=on_error.value,
            device=device,
            frozen=None if frozen is None else frozen.value,
        )
        console.print(f"{done.written:,} predictions in {escape(str(output))}", soft_wrap=True)
        if done.skipped:
            console.print(
                f"[yellow]{done.skipped:,} invalid records were skipped[/], see {escape(str(output))}.skipped.csv.",
                soft_wrap=True,
            )
        if done.letters:
            console.print(f"As in training, {done.letters}.", soft_wrap=True)
        if done.cut:
            console.print(
                f"[yellow]{done.cut:,} sequences are longer than the model's input[/]: bases at their end were "
                "ignored, as in training.",
                soft_wrap=True,
            )
        if done.odd:
            console.print(f"[red]{done.odd:,} predictions are not finite numbers.[/]", soft_wrap=True)
        return 0

    conduct(work, interrupted="Interrupted; no output was written.")
