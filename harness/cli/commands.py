"""The commands in the order of the help, with module and purpose; the help imports nothing else."""

import shutil
import textwrap
from collections.abc import Mapping
from importlib import import_module, metadata

from harness.core.errors import program

GROUPS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "Before a run": {
        "doctor": (
            "doctor",
            "Check the requirements of a run: versions, devices, backbones, data, folders, Ray.",
        ),
        "plan": ("plan", "Estimate steps, time, disk and cost of a run without starting it."),
        "audit": ("audit", "Look for shortcuts in tasks: rules without biology, near duplicates."),
        "prepare": ("prepare", "Prepare a dataset for runs: DeepSEA."),
        "prefetch": ("prefetch", "Download models and data of a run, for machines without internet."),
    },
    "Run": {
        "run": (
            "run",
            "Search every (task, backbone, method) study and test each winner: the default command.",
        ),
        "resume": ("resume", "Continue a run that was stopped or lacks results."),
        "status": ("cluster", "Print the progress of a run, on this machine or on a cluster."),
        "attach": ("cluster", "Reconnect to a benchmark on a cluster, and download its results at the end."),
        "clusters": (
            "clusters",
            "List the machines of all clusters: what runs, since when, what it has cost.",
        ),
        "logs": ("cluster", "Print the log of a benchmark on a cluster."),
        "stop": ("cluster", "Stop a benchmark on a cluster, and download its results."),
    },
    "Steer a run": {
        "trials": ("trials", "List the trials of a run: configuration, dev curve so far, state."),
        "stop-trial": ("steer", "Stop a trial of a run."),
        "add-trial": ("steer", "Add a trial with a configuration of one's own to a search."),
        "more": ("steer", "Give the search of a study more trials."),
        "pause": ("steer", "Start no further trials of a study."),
        "unpause": ("steer", "Start trials of a paused study again."),
    },
    "Results": {
        "list": (
            "list",
            "List the runs in a folder, or the models, tasks, suites, methods or metrics that there are.",
        ),
        "show": ("show", "Show a run: settings, leaderboard, best configurations, failures."),
        "best": ("best", "Print the best configuration of every study."),
        "compare": ("compare", "Compare the test scores of two runs, row by row of the test split."),
        "report": ("report", "Write a report: HTML page, Markdown, tables, figures."),
        "ui": ("ui", "Show the runs of a benchmark in the MLflow UI."),
        "sync": ("sync", "Write the runs that an MLflow store lacks."),
    },
    "Use": {
        "export": ("export", "Write the adapter of a study's winner in the layout of peft."),
        "predict": ("predict", "Predict sequences with an exported adapter."),
        "embed": ("embed", "Write one vector for each sequence: frozen features of a backbone."),
    },
}
"""By name of the command: its module in `harness.cli`, and a line of help."""

COMMANDS = {name: row for rows in GROUPS.values() for name, row in rows.items()}

HELP = ("-h", "--help")

OF_THE_PROGRAM = ("--install-completion", "--show-completion")
"""Options without a command."""


def load(name: str | None = None) -> None:
    """Import the module of one command, or all modules, which registers them."""
    wanted = [COMMANDS[name]] if name in COMMANDS else list(COMMANDS.values())
    for module in dict.fromkeys(row[0] for row in wanted):
        import_module(f"harness.cli.{module}")


def version() -> str:
    """`lingo-bench 0.1.0`."""
    try:
        return f"lingo-bench {metadata.version('lingo-bench')}"
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        import tomllib

        from harness.core.paths import ROOT

        text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        return f"lingo-bench {tomllib.loads(text)['project']['version']}"


def short_help(width: int | None = None) -> str:
    """One page of help: purpose of the program, and a line for each command.

    Args:
        width: Columns; those of the terminal, at most 110, where `None`.
    """
    width = max(40, min(width or shutil.get_terminal_size((100, 24)).columns, 110))
    name = program()
    lines = [
        f"Usage: {name} COMMAND [OPTIONS]",
        "",
        *textwrap.wrap(
            "Search and benchmark parameter-efficient fine-tuning of language models on DNA. Without a command and "
            "options it runs the quickstart: generated DNA, a tiny backbone, no download, a few minutes.",
            width,
        ),
    ]
    for title, rows in GROUPS.items():
        lines += ["", f"{title}:"]
        for command, (_, text) in rows.items():
            first, *rest = textwrap.wrap(text, width - 13)
            lines += [f"  {command:10} {first}", *(" " * 13 + line for line in rest)]
    lines += [
        "",
        f"Options of a command: for example {name} run --help.",
        "--version prints the version, --install-completion sets up the shell's Tab key.",
        "Terms: docs/glossary.md.",
    ]
    return "\n".join(lines)
