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
    """What becomes of bad records."""

    refuse = "refuse"
    skip = "skip"


class Frozen(StrEnum):
    """How the backbone's weights are held."""

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
            help="Sequences: FASTA or CSV (also .gz) or Parquet; the latter two with a column `sequence`, and "
            "`id` or `name` if they have names.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Predictions: .csv, .parquet or .jsonl; replaced when it is there."
        ),
    ],
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="The adapter's backbone.", show_default="where it was in training"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Sequences of a batch.", show_default="by their tokens"),
    ] = None,
    on_error: Annotated[
        OnError, typer.Option(help="Bad records: predict nothing, or leave them out and list them.")
    ] = OnError.refuse,
    frozen: Annotated[
        Frozen | None,
        typer.Option(help="How the backbone's weights are held.", show_default="as in training"),
    ] = None,
    device: Annotated[
        str, typer.Option(help="`cpu`, `cuda`, or `auto` for a GPU where there is one.")
    ] = "auto",
) -> None:
    """Predict sequences with an exported adapter: the probability of each label, or the value.

    The input is built as in training (tokens, prompt, length, strands), and the backbone is checked to be the same.
    Files of any size are read a piece at a time; the output is there whole or not at all.

    Exit code: 0 when it is written, 2 for bad input, 130 when interrupted.
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
            on_error=on_error.value,
            device=device,
            frozen=None if frozen is None else frozen.value,
        )
        console.print(f"{done.written:,} predictions in {escape(str(output))}", soft_wrap=True)
        if done.skipped:
            console.print(
                f"[yellow]{done.skipped:,} bad records are left out[/]; {escape(str(output))}.skipped.csv lists them.",
                soft_wrap=True,
            )
        if done.cut:
            console.print(
                f"[yellow]{done.cut:,} sequences are longer than the model's input[/]: bases at their end were "
                "not read, as in training.",
                soft_wrap=True,
            )
        if done.odd:
            console.print(f"[red]{done.odd:,} predictions are not finite numbers.[/]", soft_wrap=True)
        return 0

    conduct(work, interrupted="Interrupted; no output was written.")
