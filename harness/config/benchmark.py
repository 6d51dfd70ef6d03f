"""The settings of a benchmark: one frozen, strict `Benchmark`, whose fields are the options of the command line."""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from harness.config.values import (
    DEFAULT_TARGETS,
    SCORE,
    Amount,
    Learned,
    Names,
    Network,
    Objectives,
    Positive,
    RunName,
    Seeds,
    Shots,
    Similarity,
    Span,
    Targets,
)
from harness.core.notify_target import notify_setting
from harness.core.store_address import kept, place_without_secret
from harness.data.suites import OUTSIDE
from harness.data.tasks import SUITES, Strands
from harness.data.variants import IDENTITY, Way, without_variants
from harness.runs.front import FRONT_POINTS
from lingo.methods import DEFAULT_METHODS, METHODS
from lingo.trial import HeadPooling, Long, TrialConfig

RULES = 2
"""Version of the rules by which results compare; see CHANGELOG."""

TINY_MODEL = "quickstart-opt"
"""The tiny, randomly initialised OPT that the quickstart makes on this machine."""

NO_BACKBONE = "none"
"""Name of the backbone in the study keys of methods that need none."""

PRESETS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "models": (TINY_MODEL,),
        "methods": ("lora", "adalora", "ars"),
        "num_samples": 4,
        "epochs": 4,
        "seeds": (0, 1),
        "deterministic": True,
    },
}
"""Defaults of single suites, before those of `Benchmark`."""

CLUSTER_MODELS = ("opt-125m",)
"""Backbone of the paper's tasks on a cluster where none is named."""

SETTINGS = "settings.json"
"""File with all settings: beside the program that is sent to a cluster, and in the output folder here."""

WHAT, SEARCH, TRAINING = "What to run", "Search and final stage", "Training"
BUDGET, WHERE = "Budgets", "Where and how fast"


@dataclass(frozen=True)
class Option:
    """A setting on the command line.

    Attributes:
        panel: Its group in the help.
        metavar: Placeholder of its value in the help; `None` for a switch.
        default: Default as the help shows it; `None` for the default itself, and nothing for a switch.
        help: Its description, where that is not the field's docstring.
        flag: Its name, if different from the setting's.
        kind: Type of its value, if different from the setting's.
        use: Whether it says what is `measured`, or the `amount` that is done of it (more is added to what is there,
            and budgets may change), or where things are and how fast they go (`machine`); by the panel.
    """

    panel: str
    metavar: str | None = None
    default: str | None = None
    help: str = ""
    flag: str | None = None
    kind: Any = None
    use: Literal["measured", "amount", "machine"] | None = None


def searcher_of(name: Any) -> Any:
    """A searcher by its name; `auto` is the one that is recommended now, and results tell its name."""
    return "tpe" if name == "auto" else name


class Benchmark(BaseModel):
    """One benchmark: every (task x backbone x method) study, its search and its final seeds.

    Its fields are the options of `run`, in the order of the help, which has their docstrings.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    suite: Annotated[
        str,
        Option(
            WHAT,
            "NAME",
            default="quickstart; on a cluster the paper's",
            help=f"A list of tasks: {', '.join((*SUITES, *OUTSIDE))}. Alternative to --tasks.",
        ),
    ]

    tasks: Annotated[Names, Option(WHAT, "A,B")]
    """Tasks, comma-separated, for example EMP/H3,mouse/2. Your own data is a task as well: a table (CSV, TSV, FASTA,
    JSON, Parquet, Arrow) or a folder with train, dev and test, with the columns sequence and label, label_0…label_n or
    target; or hub:owner/name, a dataset on the hub."""

    models: Annotated[Names, Option(WHAT, "A,B")]
    """Backbones, comma-separated: known names, hub ids or folders in the hub's layout."""

    methods: Annotated[
        Names,
        Option(
            WHAT,
            "A,B",
            default="all",
            help=f"Methods, comma-separated, out of {', '.join(METHODS)}; rules means all rules.",
        ),
    ] = DEFAULT_METHODS

    controls: Annotated[Literal["none", "random-init"], Option(WHAT, "KIND", use="amount")] = "none"
    """**random-init**: beside every winner its configuration on the same backbone with fresh weights, on the same
    seeds."""

    data_dir: Annotated[Path | None, Option(WHAT, "FOLDER", default="the hub's copy", use="machine")] = None
    """Folder with TASK/train.csv, dev.csv and test.csv (or .parquet), the published layout of GUE."""

    skip_missing: Annotated[bool, Option(WHAT, flag="--skip-missing", use="machine")] = False
    """Run the tasks whose data is found and list the others, instead of refusing to start."""

    split: Annotated[Way, Option(WHAT, "HOW")] = "published"
    """How rows are divided into train, dev and test: as **published**, or anew by **homology** (similar sequences in
    one split) or by **chromosome** (tables with such a column); results are then marked **changed split**."""

    similarity: Annotated[Similarity, Option(WHAT, "SHARE")] = IDENTITY
    """Identity from which on --split homology keeps two sequences, on either strand, in one split."""

    shots: Annotated[Shots, Option(WHAT, "K,K")] = ("all",)
    """Training rows of each class, comma-separated: 1,10,all; those of each number are tasks of their own, marked
    **k-shot**, and drawn so that fewer are among more."""

    data_seed: Annotated[Annotated[int, Field(ge=0, lt=10**9)], Option(WHAT, "N")] = 0
    """Seed of --split and --shots."""

    limit: Annotated[Positive | None, Option(WHAT, "ROWS")] = None
    """Use only ROWS rows of each split; all results get the caveat **smoke**."""

    drop_leaks: Annotated[bool, Option(WHAT, flag="--drop-leaks")] = False
    """Remove training rows that also occur in dev or test, on either strand; results get the caveat **changed
    split**."""

    audit: Annotated[bool, Option(WHAT, use="machine")] = True
    """Look for shortcuts and near duplicates in each task's splits before anything is trained."""

    reverse_complement: Annotated[Strands | None, Option(WHAT, "WHERE", default="none; both for deepsea")] = (
        None
    )
    """Use both strands: **train** adds the reverse complements of the training rows, **test** averages the predictions
    for both strands on dev and test; or **both** or **none**."""

    num_samples: Annotated[Positive, Option(SEARCH, "N", use="amount")] = 16
    """Trials in the search of each study. If raised later, only the additional trials run."""

    search_spaces: Annotated[
        tuple[Path, ...],
        Option(SEARCH, "FILE", default="", flag="--search-space", kind=list[Path], use="machine"),
    ] = ()
    """YAML file that replaces the search space of the method named in it; may be repeated."""

    scope: Annotated[Literal["task", "family", "suite"], Option(SEARCH, "SCOPE")] = "task"
    """Choose one configuration per **task**, per **family** of tasks, or for the whole **suite**; the last two by the
    mean score over their tasks."""

    configurations: Annotated[
        tuple[dict[str, Any], ...] | None, Option(SEARCH, "FILE", flag="--config", kind=Path)
    ] = None
    """Configurations to try first, in the format of **best --format yaml**. With --num-samples 1 only they are
    tried."""

    learn_from: Annotated[
        tuple[Learned, ...] | None, Option(SEARCH, "RUN,…|none", default="none", kind=str)
    ] = None
    """Output folders of earlier benchmarks, comma-separated: each study first tries up to four configurations that did
    well on dev in their studies of its backbone and method."""

    searcher: Annotated[
        Literal["tpe", "gp", "random", "grid"], BeforeValidator(searcher_of), Option(SEARCH, "NAME")
    ] = "tpe"
    """How configurations are proposed: **tpe**, **gp** (a Gaussian process, which counts running trials), **random**,
    **grid**, or **auto**: the one that docs/search.md recommends, now tpe."""

    objectives: Annotated[Objectives, Option(SEARCH, "A,B")] = (SCORE,)
    """What is searched for: the best **score**, or with **score,parameters** the Pareto front of dev score and trained
    parameters, of which up to four points are trained in the final stage; without early stopping."""

    scheduler: Annotated[
        Literal["asha", "hyperband", "median", "none"],
        Option(SEARCH, "NAME", default="asha; none with several objectives"),
    ] = "asha"
    """How weak trials are stopped early: **asha**, **hyperband**, **median** or **none**."""

    siblings: Annotated[Positive, Option(SEARCH, "N", flag="--share-prefix")] = 1
    """Number of variants of the best configuration so far that are trained together: they differ only in p, bT and
    delta_T, and share the training up to their first rank allocation."""

    metric: Annotated[
        Literal[
            "default", "mcc", "auroc", "auprc", "f1", "accuracy", "brier", "nll", "pearson", "spearman", "mse"
        ],
        Option(SEARCH, "NAME", default="mcc; auroc of several labels; pearson of a regression"),
    ] = "default"
    """Dev score by which trials are stopped and chosen, and studies compared (**list metrics** has the choice)."""

    deterministic: Annotated[bool, Option(SEARCH, default="off; on for quickstart")] = False
    """Make the search reproducible under any load: trials train one by one instead of in packs, and are compared in
    the order of their numbers. Final runs are always reproducible. See docs/reproducibility.md."""

    seed: Annotated[int, Field(ge=0, lt=2**31), Option(SEARCH, "N")] = 0
    """Seed of the search."""

    seeds: Annotated[Seeds, Option(SEARCH, "N,N", use="amount")] = (0, 1, 2, 3, 4)
    """Seeds with which each winner is trained again and tested, comma-separated."""

    patience: Annotated[int, Field(ge=0, lt=2**31), Option(SEARCH, "N")] = 10
    """A final run stops after N evaluations on dev without improvement (N epochs without --eval-steps), and tests the
    weights of its best evaluation (of methods with a rank budget: since the last allocation). With 0 it trains all
    epochs and tests the last weights."""

    epochs: Annotated[Positive, Option(TRAINING, "N")] = 5
    """Passes over the training split."""

    batch_size: Annotated[Positive, Option(TRAINING, "N")] = 8
    """Sequences per step, over all workers of a trial."""

    eval_steps: Annotated[
        Positive | None, Option(TRAINING, "N", default="an epoch, or a part of one of over 2,000 steps")
    ] = None
    """Steps of training after which a trial is evaluated on dev, may be stopped, and is saved: an epoch is divided into
    equal parts of at most N steps."""

    max_length: Annotated[
        Annotated[int, Field(ge=8, lt=2**31)] | None, Option(TRAINING, "TOKENS", default="whole sequences")
    ] = None
    """Maximum number of tokens of an input, prompt included; longer sequences are cut."""

    long: Annotated[Long, Option(TRAINING, "HOW")] = "truncate"
    """How sequences that are too long are read: **truncate** keeps the beginning, **center** the middle, **chunk**
    reads everything in overlapping chunks and averages their states."""

    tokenization: Annotated[Literal["bbpe", "one_hot", "kmer"], Option(TRAINING, "SCHEME")] = "bbpe"
    """**bbpe**: the backbone's own tokenizer; **one_hot**: one nucleotide per token; **kmer**: 6-mers."""

    prompt: Annotated[Literal["auto", "on", "off"], Option(TRAINING, "WHEN")] = "auto"
    """The language prefix and suffix around each sequence: **auto** (by method), **on** or **off**."""

    class_weights: Annotated[Literal["none", "balanced"], Option(TRAINING, "RULE")] = "none"
    """**balanced**: rare classes and labels have the same total weight in the loss as frequent ones."""

    threshold: Annotated[Literal["0.5", "dev"], Option(TRAINING, "RULE")] = "0.5"
    """Probability above which the positive class, or a label, is predicted: **0.5**, or chosen on **dev** after
    training to maximise MCC (for labels: F1)."""

    target_modules: Annotated[Targets, Option(TRAINING, "A,B", flag="--targets")] = DEFAULT_TARGETS
    """Matrices that get adapters: **default** (those of the search space, as in the paper), **all-linear**, names of
    the paper (W_q,W_v), or endings of the backbone's module names (q_proj,mlp.down_proj)."""

    head_pooling: Annotated[HeadPooling, Option(TRAINING, "HOW", flag="--pooling")] = "auto"
    """What the head of an adapted backbone reads of a sequence's states: their **mean**, the **first** or the **last**;
    **auto** as the backbone has it, or as a search space that names `pooling` has it."""

    frozen: Annotated[
        Literal["fp32", "bf16", "4bit"] | None,
        Option(
            TRAINING,
            "TYPE",
            default="bf16 where a worker's GPU has it, else fp32; once for each output folder",
        ),
    ] = None
    """Number type of the frozen weights: **fp32**, **bf16** or **4bit**. Trained weights are always fp32, also in full
    fine-tuning."""

    precision: Annotated[Literal["auto", "fp32", "bf16"], Option(TRAINING, "TYPE")] = "auto"
    """How full fine-tuning computes, its weights in fp32: in **bf16** (autocast; products of fp32 numbers in TF32),
    exactly in **fp32**, or **auto**: bf16 where a worker's GPU has it; once for each output folder."""

    time_budget: Annotated[Span | None, Option(BUDGET, "TIME")] = None
    """Limit of the wall time of the search, like 90m or 12h; no trial starts after it."""

    max_gpu_hours: Annotated[Amount | None, Option(BUDGET, "H")] = None
    """Limit of the GPU-hours of the search, summed over all GPUs."""

    max_cost: Annotated[Amount | None, Option(BUDGET, "COST")] = None
    """Limit of the cost of the search, at --price-per-hour."""

    study_time_budget: Annotated[Span | None, Option(BUDGET, "TIME")] = None
    """Limit of the wall time of the search of each study."""

    study_max_gpu_hours: Annotated[Amount | None, Option(BUDGET, "H")] = None
    """Limit of the GPU-hours of the search of each study."""

    study_max_cost: Annotated[Amount | None, Option(BUDGET, "COST")] = None
    """Limit of the cost of the search of each study."""

    price_per_hour: Annotated[
        Amount | None, Option(BUDGET, "PRICE", default="of the cluster file's prices")
    ] = None
    """Price of one hour of this machine, or of the whole cluster."""

    out: Annotated[Path | None, Option(WHERE, "FOLDER", default="results/SUITE-DIGEST")] = None
    """Output folder. If it already holds this benchmark, the benchmark is continued."""

    name: Annotated[RunName | None, Option(WHERE, "NAME", default="the suite's")] = None
    """Name of the run: of its MLflow experiment and, without --out, of its output folder."""

    tracking_uri: Annotated[
        Annotated[str, AfterValidator(kept)] | None,
        Option(WHERE, "URI", default="MLFLOW_TRACKING_URI if set, else sqlite in the output folder"),
    ] = None
    """MLflow tracking address, or **env:NAME** to read it from an environment variable. Use the latter for an address
    with a password: it is never written to disk."""

    cluster: Annotated[
        Annotated[str, AfterValidator(place_without_secret)] | None,
        Option(WHERE, "FILE|ADDRESS", default="this machine"),
    ] = None
    """Cluster file like clusters/aws.yaml, or the address of a running Ray cluster: http://HOST:8265 (its Jobs API),
    **auto** on one of its nodes, or ray://HOST:PORT. See clusters/README.md."""

    storage_path: Annotated[
        Annotated[str, AfterValidator(place_without_secret)] | None, Option(WHERE, "URI")
    ] = None
    """Folder or bucket (s3://…) that receives a copy of the output folder."""

    ssh_from: Annotated[
        Network | None, Option(WHERE, "ADDRESS", default="this machine's public address, as AWS sees it")
    ] = None
    """Address or network (198.51.100.0/24) from which an AWS cluster accepts SSH; needed behind a proxy."""

    keep_head: Annotated[Span, Option(WHERE, "TIME")] = "2h"
    """How long the head of a cluster waits, after its job has ended and with nobody connected, before it terminates the
    cluster. If all results are in --storage-path, it waits only minutes."""

    machine_wait: Annotated[Span, Option(WHERE, "TIME")] = "1h"
    """How long to wait for the first machine of a cluster before the benchmark gives up."""

    spot_wait: Annotated[Span, Option(WHERE, "TIME")] = "10m"
    """How long to wait for a spot machine before on-demand machines are requested, if the cluster file has any."""

    pack: Annotated[Positive | None, Option(WHERE, "K", default="by a short calibration")] = None
    """Number of trials that a worker group trains together."""

    max_concurrent: Annotated[Positive | None, Option(WHERE, "N", default="as many as fit")] = None
    """Maximum number of trials at the same time."""

    workers_per_trial: Annotated[Positive, Option(WHERE, "N")] = 1
    """Number of data-parallel workers per trial."""

    max_failures: Annotated[int, Field(ge=0, lt=2**31), Option(WHERE, "N")] = 2
    """How often a trial is retried after losing its worker or running out of memory."""

    notify: Annotated[Annotated[str, AfterValidator(notify_setting)] | None, Option(WHERE, "COMMAND|URL")] = (
        None
    )
    """Tell of the end of the run and of trouble: a JSON message to a web address, or on the standard input of a
    command; **env:NAME** for either in an environment variable. See docs/notify.md."""

    @property
    def marks(self) -> list[str]:
        """Caveats of every result: `smoke` for a limited benchmark."""
        return ["smoke"] if self.limit is not None else []

    def patience_of(self, evaluations: int) -> int | None:
        """Patience of final runs in evaluations, where an epoch has so many; `None` if all epochs are trained and the
        last evaluation counts."""
        return self.patience * (evaluations if self.eval_steps is None else 1) or None

    @property
    def has_front(self) -> bool:
        """Whether a Pareto front is searched, and not one best configuration."""
        return len(self.objectives) > 1

    @property
    def most_winners(self) -> int:
        """Configurations of a study that the final stage trains at most."""
        return FRONT_POINTS if self.has_front else 1

    @property
    def of_trials(self) -> dict[str, Any]:
        """The settings that every trial of the search has: seed, epochs, batch size. Those of later versions stand
        there only where they differ from their default, so that earlier configurations stay the same."""
        fields = type(self).model_fields
        values = {name: getattr(self, name) for name in sorted(TRIAL)}
        return {
            name: value for name, value in values.items() if name in FIRST or value != fields[name].default
        }

    def stored(self, out: Path) -> dict[str, Any]:
        """All settings as plain data, with absolute paths and this output folder."""
        where: dict[str, Any] = {"out": out.resolve()}
        if self.data_dir is not None:
            where["data_dir"] = self.data_dir.resolve()
        where["search_spaces"] = tuple(path.resolve() for path in self.search_spaces)
        return self.model_copy(update=where).model_dump(mode="json")

    def repeat(self) -> str:
        """The settings that differ from the defaults, as YAML for `run --settings`."""
        changed = {
            name: value
            for name, value in self.stored(self.out or Path()).items()
            if value != (type(self).model_fields[name].get_default() if name not in GIVEN else None)
            and name not in ("out", "cluster")
        }
        if without_variants(self.tasks) == SUITES.get(self.suite):
            del changed["tasks"]
        else:
            del changed["suite"]
        plain = json.loads(json.dumps(changed))
        text: str = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
        return f"{REPEATS}\n{text}"

    def identity(self) -> dict[str, Any]:
        """Every setting that determines the measured results, as plain data."""
        settings = self.model_dump(mode="json", exclude=MACHINE | AMOUNT)
        if self.eval_steps is None:
            settings["patience"] = min(self.patience, self.epochs)  # more never ends a run
        fields = type(self).model_fields  # a tuple is a list in JSON, and compares unequal
        unused = {
            name for name in settings if name not in FIRST and getattr(self, name) == fields[name].default
        }
        return {"rules": RULES, **{name: value for name, value in settings.items() if name not in unused}}


REPEATS = "# Repeats this benchmark: lingo-bench run --settings settings.yaml --out NEW_FOLDER"
"""First line of `Benchmark.repeat`."""

GIVEN = ("suite", "tasks", "models")
"""Settings without a default."""

FIRST = {
    "suite",
    "tasks",
    "models",
    "methods",
    "limit",
    "seed",
    "patience",
    "epochs",
    "batch_size",
    "max_length",
}
"""Settings of the first results. Others are left out of a benchmark's identity while they have their default, so that
folders from before them go on."""

METRICS: tuple[str, ...] = get_args(Benchmark.model_fields["metric"].annotation)[1:]
"""What `--metric` may name. The expected calibration error is not among them: a constant prediction has one of 0."""

TRIAL = frozenset(Benchmark.model_fields) & {field.name for field in fields(TrialConfig)}
"""Settings of a benchmark that apply to all of its trials; a search space must not contain them."""

DECLARED: dict[str, Option] = {
    name: next(one for one in field.metadata if isinstance(one, Option))
    for name, field in Benchmark.model_fields.items()
}
"""The option of each setting."""


def _used_as(use: str, panel: str) -> set[str]:
    return {
        name for name, one in DECLARED.items() if one.use == use or (one.use is None and one.panel == panel)
    }


MACHINE = _used_as("machine", WHERE)
"""Settings of places and speed; the contents of those files are compared elsewhere."""

AMOUNT = _used_as("amount", BUDGET)
"""Settings of amounts: when one is raised, the additional part is run."""


def flag_of(name: str) -> str:
    """The option of the command line for a setting."""
    return (DECLARED[name].flag if name in DECLARED else None) or f"--{name.replace('_', '-')}"
