"""The options of a benchmark: one table for every command that takes them."""

import inspect
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import names
from harness.config.benchmark import AMOUNT, OPTION_OF, Benchmark, read_settings
from harness.config.benchmark import MACHINE as MACHINE_SETTINGS
from harness.config.initial_points import options_from, read_configurations
from harness.core.errors import InputError
from harness.core.store_address import ADDRESS, shown
from harness.data.tasks import SUITES
from lingo.methods import METHODS
from lingo.text_files import read_text

WHAT, SEARCH, TRAINING = "What to run", "Search and final stage", "Training"
BUDGET, MACHINE = "Budgets", "Where and how fast"


@dataclass(frozen=True)
class Row:
    """One option. `default` is what the help shows; `None` takes it from `Benchmark`, "" shows nothing."""

    setting: str
    kind: Any
    panel: str
    metavar: str | None
    help: str
    default: str | None = None
    flag: str | None = None

    def shown(self) -> str | bool:
        """What the help says of the default."""
        if self.default is not None:
            return self.default or False
        default = Benchmark.model_fields[self.setting].default
        return ",".join(map(str, default)) if isinstance(default, tuple) else str(default)

    def parameter(self) -> inspect.Parameter:
        """The option as a parameter for typer; not given, it is `None`."""
        option = typer.Option(
            *([self.flag] if self.flag else []),
            metavar=self.metavar,
            help=self.help,
            show_default=self.shown(),
            rich_help_panel=self.panel,
        )
        return inspect.Parameter(
            self.setting,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[self.kind | None, option],
        )


ROWS = (
    Row(
        "suite",
        str,
        WHAT,
        "NAME",
        f"A list of tasks: {', '.join(SUITES)}. Alternative to --tasks.",
        "quickstart; on a cluster the paper's",
    ),
    Row(
        "tasks",
        str,
        WHAT,
        "A,B",
        "Tasks, comma-separated: EMP/H3,prom/prom_300_tata. A .csv or .parquet file, or a folder with train, dev "
        "and test, is a task of your own: columns sequence and label, label_0…label_n or target.",
        "",
    ),
    Row(
        "models",
        str,
        WHAT,
        "A,B",
        "Backbones, comma-separated: known names, hub ids or folders in the hub's layout.",
        "",
    ),
    Row("methods", str, WHAT, "A,B", f"Methods, comma-separated, of {', '.join(METHODS)}.", "all"),
    Row(
        "data_dir",
        Path,
        WHAT,
        "FOLDER",
        "Folder with TASK/train.csv, dev.csv and test.csv (or .parquet), as GUE is published.",
        "the hub's copy",
    ),
    Row(
        "limit",
        int,
        WHAT,
        "ROWS",
        "Use so many rows of each split; every result is then marked **smoke**.",
        "",
    ),
    Row(
        "drop_leaks",
        bool,
        WHAT,
        None,
        "Leave out training rows that dev or test has as well, on either strand; results are then marked "
        "**changed split**.",
        "",
        "--drop-leaks",
    ),
    Row(
        "reverse_complement",
        str,
        WHAT,
        "WHERE",
        "Use both strands: **train** adds reverse complements to the training rows, **test** averages predictions "
        "over both strands on dev and test, **both** or **none**.",
        "none; both for deepsea",
    ),
    Row(
        "settings",
        Path,
        WHAT,
        "FILE",
        "Settings from a JSON file, like **plan.json** of a run. Budgets, the number of trials, seeds, and where "
        "things are may be given beside it.",
        "",
    ),
    Row(
        "num_samples",
        int,
        SEARCH,
        "N",
        "Trials of each study's search; raise it later, and only the rest is run.",
    ),
    Row(
        "search_space",
        list[Path],
        SEARCH,
        "FILE",
        "A YAML file that replaces the search space of the method it names; may be repeated.",
        "",
    ),
    Row(
        "scope",
        str,
        SEARCH,
        "SCOPE",
        "One configuration for each **task**, each **family** of tasks, or the whole **suite**; wider ones are "
        "chosen by the mean over their tasks.",
    ),
    Row(
        "config",
        Path,
        SEARCH,
        "FILE",
        "Configurations to try first, as **best --format yaml** prints them; with --num-samples 1 they alone.",
        "",
    ),
    Row("searcher", str, SEARCH, "NAME", "How configurations are proposed: **tpe**, **random** or **grid**."),
    Row(
        "scheduler",
        str,
        SEARCH,
        "NAME",
        "How trials that fall behind are stopped: **asha**, **hyperband**, **median** or **none**.",
    ),
    Row(
        "siblings",
        int,
        SEARCH,
        "N",
        "Trials of the best configuration so far, which differ only in p, bT and delta_T and share the training up to "
        "their first rank allocation.",
        flag="--share-prefix",
    ),
    Row(
        "deterministic",
        bool,
        SEARCH,
        None,
        "Make the search repeat whatever the load: trials train alone instead of in packs, and are compared in the "
        "order of their numbers. Final runs always repeat. See docs/reproducibility.md.",
        "off; on for quickstart",
    ),
    Row("seed", int, SEARCH, "N", "Seed of the search."),
    Row(
        "seeds",
        str,
        SEARCH,
        "N,N",
        "Seeds on which each winner is trained again and tested, comma-separated.",
    ),
    Row(
        "patience",
        int,
        SEARCH,
        "N",
        "A final run tests the weights of its best evaluation, by the dev metric of the study (with a budget of ranks: "
        "from the last allocation on), and stops after N evaluations without a better one. 0: it trains all epochs and "
        "tests the last weights.",
    ),
    Row("epochs", int, TRAINING, "N", "Passes over the training split."),
    Row("batch_size", int, TRAINING, "N", "Sequences a step, over all workers of a trial."),
    Row(
        "max_length",
        int,
        TRAINING,
        "TOKENS",
        "Tokens of an input, prompt included; longer sequences are cut.",
        "whole sequences",
    ),
    Row(
        "tokenization",
        str,
        TRAINING,
        "SCHEME",
        "**bbpe**: the backbone's own tokenizer; **one_hot**: a nucleotide a token; **kmer**: 6-mers.",
    ),
    Row(
        "prompt",
        str,
        TRAINING,
        "WHEN",
        "The language prefix and suffix around each sequence: **auto** as the method has it, **on** or **off**.",
    ),
    Row(
        "frozen",
        str,
        TRAINING,
        "TYPE",
        "Type of the frozen weights: **fp32**, **bf16** or **4bit**. What is trained is fp32, all of full fine-tuning "
        "too.",
        "bf16 where a worker's GPU has it, else fp32; once for each output folder",
    ),
    Row(
        "time_budget",
        str,
        BUDGET,
        "TIME",
        "Wall time of the search, like 90m or 12h; no trial starts after it.",
        "",
    ),
    Row("max_gpu_hours", float, BUDGET, "H", "Hours of GPUs that the search may use, over all of them.", ""),
    Row("max_cost", float, BUDGET, "COST", "What the search may cost, at --price-per-hour.", ""),
    Row("study_time_budget", str, BUDGET, "TIME", "Wall time of each study's search.", ""),
    Row("study_max_gpu_hours", float, BUDGET, "H", "Hours of GPUs of each study's search.", ""),
    Row("study_max_cost", float, BUDGET, "COST", "What each study's search may cost.", ""),
    Row(
        "price_per_hour",
        float,
        BUDGET,
        "PRICE",
        "What an hour of this machine, or of the whole cluster, costs.",
        "of the cluster file's prices",
    ),
    Row(
        "out",
        Path,
        MACHINE,
        "FOLDER",
        "Output folder. A folder that holds this benchmark already is continued.",
        "results/SUITE-DIGEST",
    ),
    Row(
        "tracking_uri",
        str,
        MACHINE,
        "URI",
        "MLflow tracking address, or **env:NAME** for the one in an environment variable: the place for one with a "
        "password, which is never written down.",
        "MLFLOW_TRACKING_URI if set, else sqlite in the output folder",
    ),
    Row(
        "cluster",
        str,
        MACHINE,
        "FILE|ADDRESS",
        "A cluster file like clusters/aws.yaml; or a running Ray cluster: its Jobs address http://HOST:8265, **auto** "
        "on one of its nodes, or ray://HOST:PORT. See clusters/README.md.",
        "this machine",
    ),
    Row(
        "storage_path",
        str,
        MACHINE,
        "URI",
        "Folder or bucket (s3://…) to which the output folder is copied.",
        "",
    ),
    Row("pack", int, MACHINE, "K", "Trials that a worker group trains at once.", "by a short calibration"),
    Row("max_concurrent", int, MACHINE, "N", "Trials at the same time.", "as many as fit"),
    Row("workers_per_trial", int, MACHINE, "N", "Data-parallel workers of each trial."),
    Row(
        "max_failures",
        int,
        MACHINE,
        "N",
        "How often a trial is tried again after a lost worker or a lack of memory.",
    ),
)
"""Every option of `run`, in the order of its help."""


def with_options(only: Iterable[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the table's options beside its own parameters; it takes them as the mapping `options`.

    Args:
        only: The settings to give; `None` for all.
    """
    chosen = [row.parameter() for row in ROWS if only is None or row.setting in set(only)]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [one for one in inspect.signature(function).parameters.values() if one.name != "options"]

        @wraps(function)
        def command(**given: Any) -> Any:
            mine = {one.name: given.pop(one.name) for one in own}
            return function(**mine, options=given)

        command.__signature__ = inspect.Signature([*own, *chosen])  # type: ignore[attr-defined]
        command.__annotations__ = {}
        return command

    return decorate


def settings(options: Mapping[str, Any]) -> dict[str, Any]:
    """What was given on the command line, as settings for `harness.config.benchmark.build`; not given is `None`.

    Raises:
        InputError: for seeds that are no numbers, and for a file of settings or configurations that cannot be used.
    """
    read = dict(options)
    for name in ("tasks", "models", "methods"):
        if name in read:
            read[name] = names(read[name], f"--{name}")
    if "search_space" in read:
        spaces = read.pop("search_space")
        read["search_spaces"] = tuple(spaces) if spaces else None
    file = read.pop("config", None)
    if file is not None:
        read |= options_from(read_configurations(file), read)
    if "seeds" in read:
        read["seeds"] = seed_numbers(read["seeds"])
    file = read.pop("settings", None)
    return read if file is None else _beside(file, read)


def _beside(file: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a file, with those that were given beside it."""
    given = {name: value for name, value in given.items() if value is not None}
    what = [name for name in given if name not in AMOUNT | MACHINE_SETTINGS]
    if what:
        options = ", ".join(f"`{OPTION_OF.get(name, '--' + name.replace('_', '-'))}`" for name in what)
        raise InputError(f"`--settings` says what is measured; leave out {options}, or write it into {file}.")
    try:
        text = read_text(file)
    except (OSError, ValueError) as error:
        raise InputError(
            f"`--settings` must be a file of text, but {file} cannot be read ({error})."
        ) from None
    return {**read_settings(text, str(file)), **given}


def with_store(options: Mapping[str, Any], console: Console) -> dict[str, Any]:
    """As `settings`; without `--tracking-uri` the store of `MLFLOW_TRACKING_URI`, which is said."""
    read, address = settings(options), os.environ.get(ADDRESS)
    if read.get("tracking_uri") is None and address:
        read["tracking_uri"] = address
        console.print(
            f"{ADDRESS} is set: MLflow's runs go to {escape(shown(address))}. `--tracking-uri` names another store; "
            "without both it lies in the output folder.",
            soft_wrap=True,
        )
    return read


def say_store(used: str | None, console: Console) -> None:
    """Say that `MLFLOW_TRACKING_URI` is set and that a run's folder names another store, which is used."""
    address = os.environ.get(ADDRESS)
    if address and (used is None or shown(address) != shown(used)):
        console.print(
            f"{ADDRESS} is set and not used: this run has its store "
            f"{f'at {escape(shown(used))}' if used else 'in its folder'}. `--tracking-uri` names another one.",
            soft_wrap=True,
        )


def seed_numbers(text: str | None) -> tuple[int, ...] | None:
    """`0,1` as numbers.

    Raises:
        InputError: for anything else.
    """
    parts = names(text, "--seeds")
    try:
        return None if parts is None else tuple(map(int, parts))
    except ValueError:
        raise InputError(f"`--seeds` must be whole numbers like 0,1,2, but got {text!r}.") from None
