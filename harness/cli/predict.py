"""`predict`: an exported adapter used on sequences."""

import signal
from pathlib import Path
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


@app.command()
def predict(
    adapter: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Exported adapter, or an adapter in a run's folder `adapters`."),
    ],
    input_: Input,
    output: Output,
    backbone: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER", help="The adapter's backbone.", show_default="its location in training"
        ),
    ] = None,
    batch_size: BatchSize = None,
    columns: Columns = None,
    genome: Genome = None,
    on_error: OnError = OnErrorChoice.refuse,
    frozen: Annotated[
        FrozenChoice | None,
        typer.Option(help="Number type of the backbone's weights.", show_default="as in training"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Predict sequences with an exported adapter: the probability of each label, or the value.

    The input is built as in training (tokens, prompt, length, strands), and the digest of the backbone is verified.
    Files of any size are read in blocks; the output is written atomically.

    Exit code: 0 if written, 2 for invalid input, 130 if interrupted.
    """

    def work(console: Console) -> int:
        from harness.inference.predict import predict_file

        signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up in this case as well
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
        say_written(console, output, "predictions", done.written, done.skipped)
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
