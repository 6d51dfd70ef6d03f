"""From a plan to prepared studies: backbones checked tensor by tensor, data tokenised once per tokenizer and prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import NO_BACKBONE, Benchmark
from harness.config.studies import Plan, PreparedStudy, Study
from harness.core.errors import InputError
from harness.core.wording import one_line
from harness.data.hub import task_folder
from harness.data.leakage import summary
from harness.data.prepared import PreparedTask, prepare
from harness.data.shortcuts import audit_of, marks_of, told
from harness.data.tasks import strands_of
from harness.data.token_checks import spelling_note
from harness.runs.controls import RANDOM_INIT
from harness.runs.record import Record
from lingo.families import Pooling
from lingo.methods import METHODS
from lingo.nucleotides import bare_bases, units_for
from lingo.prompts import prompt_for
from lingo.trial import TrialConfig
from lingo.vocabulary import reads_language

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What preparation needs of a backbone, without its weights.

    Attributes:
        tokenizer: Its tokenizer, or the bases themselves for methods without a backbone.
        rows: Rows of its token embedding.
        max_length: Tokens that it takes; `None` for any number.
        language: Whether it reads language, and not DNA alone.
        grows: Whether the backbone takes tokens that it does not have.
        matrices, causal, pooling: As in `lingo.backbones.Backbone`.
    """

    tokenizer: Any
    rows: int
    pad_id: int
    max_length: int | None
    digest: str
    trained: bool
    source: str
    language: bool
    grows: bool = True
    matrices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    causal: bool = False
    pooling: Pooling | None = None


BARE = Tokens(
    tokenizer=bare_bases(),
    rows=0,
    pad_id=0,
    max_length=None,
    digest=NO_BACKBONE,
    trained=True,
    source=NO_BACKBONE,
    language=False,
)
"""What methods without a backbone read: whole sequences, base by base."""


def read_backbones(sources: Sequence[str]) -> dict[str, Tokens]:
    """Load each backbone once, compare it with its checkpoint, and keep what preparation needs.

    Raises:
        InputError: with every problem of every backbone.
    """
    from lingo.backbones import load_backbone
    from lingo.checkpoint import BackboneError
    from lingo.embeddings import rows_of

    problems: list[str] = []
    found: dict[str, Tokens] = {}
    for source in dict.fromkeys(source for source in sources if source != NO_BACKBONE):
        try:
            backbone = load_backbone(source)
        except BackboneError as error:
            problems += [f"`--models`: {problem}" for problem in error.problems]
            continue
        found[source] = Tokens(
            tokenizer=backbone.tokenizer,
            rows=rows_of(backbone),
            pad_id=backbone.pad_id,
            max_length=backbone.max_length,
            digest=backbone.digest,
            trained=backbone.trained,
            source=source,
            language=reads_language(backbone.tokenizer),
            grows=getattr(backbone.model, "takes_new_tokens", True),
            matrices=backbone.matrices,
            causal=backbone.causal,
            pooling=backbone.pooling,
        )
    if problems:
        raise InputError(problems)
    return found


def prepare_studies(checked: Plan, backbones: dict[str, Tokens], say: Say) -> list[PreparedStudy]:
    """Tokenise the data of every study below `<out>/data`, or find it there."""
    from harness.data.quickstart import make_data

    generated = checked.out / "quickstart"
    tasks = [study.task for study in checked.studies if study.task.generated]
    if tasks:
        make_data(generated)
    backbones = {**backbones, NO_BACKBONE: BARE}
    _refuse_prompts(checked, backbones)
    _refuse_new_tokens(checked.benchmark, backbones)
    _refuse_targets(checked.studies, backbones)
    _refuse_poolings(checked.studies, backbones)
    made: dict[tuple[str, str, bool], PreparedTask] = {}
    audits: dict[str, Mapping[str, Any]] = {}
    say = _once(say)
    studies = []
    for study in checked.studies:
        prompted = _prompted(study, backbones[study.source], checked.benchmark)
        key = (study.task.name, study.source, prompted)
        if key not in made:
            own = study.task.generated
            folder = generated if own else task_folder(study.task, checked.benchmark.data_dir)
            made[key] = _prepared(checked, study, folder, backbones[study.source], prompted, say)
        prepared = _with_data(study, made[key], backbones[study.source], checked.benchmark, prompted)
        studies.append(_audited(prepared, checked, audits, say))
    return studies


def _prompted(study: Study, tokens: Tokens, benchmark: Benchmark) -> bool:
    """Whether sequences stand in the language prefix: as `--prompt` asks, or as the method has it, where the
    backbone reads language at all."""
    if not tokens.language or benchmark.prompt == "off":
        return False
    return benchmark.prompt == "on" or METHODS[study.method].prompt


def _refuse_prompts(checked: Plan, backbones: Mapping[str, Tokens]) -> None:
    """Raises `InputError` where `--prompt on` asks for language from a model of DNA."""
    sources = dict.fromkeys(study.source for study in checked.studies if study.source != NO_BACKBONE)
    if checked.benchmark.prompt == "on" and (wrong := [s for s in sources if not backbones[s].language]):
        raise InputError(
            f"`--prompt on` requires a language model, but the vocabulary of {source} is DNA only; use "
            "`--prompt auto`."
            for source in wrong
        )


def _refuse_new_tokens(benchmark: Benchmark, backbones: Mapping[str, Tokens]) -> None:
    """Raises `InputError` where `--tokenization` asks for tokens that a backbone does not take."""
    scheme = benchmark.tokenization
    if scheme == "bbpe":
        return
    fixed = {source: tokens for source, tokens in backbones.items() if not tokens.grows}
    if wrong := [s for s, tokens in fixed.items() if units_for(scheme, tokens.tokenizer, tokens.rows).new]:
        raise InputError(
            f"`--tokenization {scheme}` must be used with backbones that take new tokens, but in {source} every token "
            "has a complement; use `--tokenization bbpe`."
            for source in wrong
        )


def _refuse_targets(studies: Sequence[Study], backbones: Mapping[str, Tokens]) -> None:
    """Raises `InputError` where a study would adapt matrices that its backbone does not have."""
    from lingo.sites import resolve

    problems: dict[str, None] = {}
    for study in studies:
        if "targets" not in METHODS[study.method].settings or not backbones[study.source].matrices:
            continue
        targets = study.space.fixed.get("targets", TrialConfig.targets)
        try:
            resolve(study.backbone, backbones[study.source].matrices, targets)
        except ValueError as error:
            problems[str(error)] = None
    if problems:
        raise InputError(problems)


def _refuse_poolings(studies: Sequence[Study], backbones: Mapping[str, Tokens]) -> None:
    """Raises `InputError` where a head would read a state that its backbone does not have, or that does not depend on
    the sequence."""
    from lingo.heads import pooling_of

    problems: dict[str, None] = {}
    for study in studies:
        tokens, leaf, fixed = backbones[study.source], study.space.leaves.get("pooling"), study.space.fixed
        if tokens.pooling is None or METHODS[study.method].engine == "probe":
            continue
        for how in leaf.choices if leaf else [fixed.get("pooling", "auto")]:
            try:
                pooling_of(how, tokens.pooling)
            except ValueError as error:
                problems[f"{study.backbone} {study.method}: {error}"] = None
        if tokens.causal and fixed.get("pooling") == "first":
            problems[
                f"{study.backbone} {study.method}: `pooling` must not be first on a backbone whose first token sees "
                "nothing of what follows; use auto, mean or last."
            ] = None
    if problems:
        raise InputError(problems)


def _prepared(
    checked: Plan, study: Study, folder: Path, tokens: Tokens, prompted: bool, say: Say
) -> PreparedTask:
    benchmark, scheme = checked.benchmark, checked.benchmark.tokenization
    tokenizer = tokens.tokenizer
    if scheme != "bbpe" and tokens is not BARE:
        tokenizer = units_for(scheme, tokenizer, tokens.rows)
    longest = tokens.max_length
    if longest is not None and benchmark.max_length is not None:
        longest = min(longest, benchmark.max_length)
    prepared = prepare(
        study.task,
        folder,
        checked.out / "data",
        tokenizer=tokenizer,
        pad_id=tokens.pad_id,
        max_length=longest,
        prompt=prompt_for(study.task.domain) if prompted else None,
        limit=benchmark.limit,
        drop_leaks=benchmark.drop_leaks,
        strands=strands_of(study.task, benchmark.reverse_complement),
        long=benchmark.long,
        backbone="" if tokens is BARE else study.backbone,
    )
    rows = ", ".join(f"{split} {count:,}" for split, count in prepared.rows.items())
    say(
        f"{study.task.name}{'' if tokens is BARE else f' for {study.backbone}'}"
        f"{' with prompt' if prompted else ''}: {rows} rows, "
        f"up to {max(prepared.longest.values())} {'bases' if tokens is BARE else 'tokens'}"
    )
    if note := spelling_note(tokenizer):
        say(f"  {note}")
    if leaks := summary(prepared.leaks):
        say(f"  leakage audit: {leaks}")
    for mark, why in prepared.marks.items():
        say(f"  caveat {mark}: {why}")
    return prepared


def _once(say: Say) -> Say:
    """What holds for the sequences of a task holds for each of its tokenisations, and is printed once."""
    printed: set[str] = set()

    def speak(line: str) -> None:
        if line not in printed:
            printed.add(line)
            say(line)

    return speak


def _with_data(
    study: Study, prepared: PreparedTask, tokens: Tokens, benchmark: Benchmark, prompted: bool
) -> PreparedStudy:
    own = [] if tokens.trained else ["untrained backbone"]
    own += [RANDOM_INIT] * study.is_control
    scheme = "bases" if tokens is BARE else benchmark.tokenization
    return PreparedStudy(
        **{**vars(study), "source": tokens.source},
        data=prepared.folder,
        data_digest=prepared.digest,
        backbone_digest=tokens.digest,
        marks=list(dict.fromkeys([*benchmark.marks, *prepared.marks, *own])),
        tokens=prepared.longest["train"],
        facts={"leaks": prepared.leaks, "tokenization": scheme, "prompt": prompted}
        | _label_facts(prepared)
        | ({"unread": prepared.unread} if prepared.unread else {})
        | ({"variant": prepared.variant} if prepared.variant else {})
        | ({"long": benchmark.long, "bases_seen": prepared.seen} if prepared.seen else {}),
    )


def _audited(
    study: PreparedStudy, checked: Plan, audits: dict[str, Mapping[str, Any]], say: Say
) -> PreparedStudy:
    """The study with what the shortcut audit of its task found; generated tasks have none."""
    task = study.task
    if task.generated or not checked.benchmark.audit:
        return study
    if task.name not in audits:
        folder = task_folder(task, checked.benchmark.data_dir)
        try:
            audits[task.name] = audit_of(task, folder, checked.out / "data")
        except (
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
        ) as error:  # the library's: no reason to stop
            say(f"  no shortcut audit of {task.name}: {one_line(error)}")
            audits[task.name] = {"tool": "none", "checks": []}
        for line in told(audits[task.name]):
            say(f"  shortcut audit of {task.name}: {line}")
    found = audits[task.name]
    marks = marks_of(task.name, found)
    for mark, why in marks.items():
        say(f"  caveat {mark}: {why}")
    checks = [check for check in found["checks"] if check["status"] != "pass"]
    facts = {**study.facts, "audit": {"tool": found["tool"], "checks": checks}}
    return replace(study, marks=list(dict.fromkeys([*study.marks, *marks])), facts=facts)


def _label_facts(prepared: PreparedTask) -> dict[str, Any]:
    return {"undefined_labels": prepared.undefined_labels} if prepared.kind == "multilabel" else {}


def refuse_other_inputs(records: Sequence[Record], studies: Sequence[PreparedStudy], out: Path) -> None:
    """Refuse to continue results that were made from other data or another backbone of the same name.

    Raises:
        InputError: with one line for each study.
    """
    problems = []
    for study in studies:
        if study.is_control:  # its weights are drawn for each seed; its pretrained study is compared
            continue
        of_study = [record for record in records if record.study == study.key]
        for what, digest, others in (
            ("data", study.data_digest, {record.data_digest for record in of_study}),
            ("backbone", study.backbone_digest, {record.backbone_digest for record in of_study}),
        ):
            for other in sorted(others - {digest}):
                problems.append(
                    f"`--out` must not contain results of another {what}, but {out} has some of "
                    f"{study.key} with digest {other[:12]} and it is now {digest[:12]}."
                )
    if problems:
        raise InputError(problems)
