"""Common options and final messages of commands that write a result for each sequence of a file."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


class OnErrorChoice(StrEnum):
    """Handling of invalid records."""

    refuse = "refuse"
    skip = "skip"


class FrozenChoice(StrEnum):
    """Number type of the backbone's weights."""

    fp32 = "fp32"
    bf16 = "bf16"
    four_bit = "4bit"


Input = Annotated[
    Path,
    typer.Option(
        "--input",
        metavar="FILE",
        help="Sequences: FASTA, FASTQ, or a table (CSV, TSV, JSON, Parquet, Arrow; also packed) with a column of "
        "sequences, and `id` or `name` if they have names; or BED with --genome.",
    ),
]
Output = Annotated[
    Path, typer.Option(metavar="FILE", help="Output: .csv, .parquet or .jsonl; an existing file is replaced.")
]
BatchSize = Annotated[
    int | None, typer.Option(metavar="N", help="Sequences per batch.", show_default="by number of tokens")
]
Columns = Annotated[
    str | None,
    typer.Option(
        metavar="A=B,…",
        help="Which columns are what: **sequence=** (of pairs **sequence_a=** and **sequence_b=**), **id=**; others of "
        "training are left aside.",
        show_default="by their names",
    ),
]
Genome = Annotated[
    Path | None, typer.Option(metavar="FILE", help="FASTA file of the genome that places (BED) are cut from.")
]
OnError = Annotated[
    OnErrorChoice, typer.Option(help="Invalid records: reject the input, or skip and list them.")
]
Device = Annotated[str, typer.Option(help="`cpu`, `cuda`, or `auto` for a GPU if available.")]


def say_written(console: Console, output: Path, what: str, written: int, skipped: int) -> None:
    """Print what was written, and which records were not."""
    console.print(f"{written:,} {what} in {escape(str(output))}", soft_wrap=True)
    if skipped:
        console.print(
            f"[yellow]{skipped:,} invalid records were skipped[/], see {escape(str(output))}.skipped.csv.",
            soft_wrap=True,
        )
