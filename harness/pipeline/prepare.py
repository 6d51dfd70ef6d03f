"""From a plan to prepared studies: backbones checked tensor by tensor, data tokenised once per tokenizer and prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.config.benchmark import NO_BACKBONE, Benchmark
from harness.config.learned_points import origin_of
from harness.config.plan import Plan
from harness.config.studies import PreparedStudy, Study
from harness.core.errors import InputError
from harness.core.wording import one_line
from harness.data.hub import task_folder
from harness.data.leakage import summary
from harness.data.prepared import PreparedTask, prepare
from harness.data.shortcuts import FAILURES, audit_of, marks_of, told
from harness.data.tasks import strands_of
from harness.data.token_checks import spelling_note
from harness.pipeline.backbone_checks import BARE, Tokens, misfits, prompted
from harness.runs.controls import RANDOM_INIT
from harness.runs.record import Record
from lingo.nucleotides import units_for
from lingo.prompts import prompt_for

Say = Callable[[str], None]


def read_backbones(sources: Sequence[str]) -> dict[str, Tokens]:
    """Load each backbone once, compare it with its checkpoint, and keep what preparation needs.

    Raises:
        InputError: with every problem of every backbone.
    """
    from lingo.backbones import load_backbone
    from lingo.checkpoint import BackboneError

    problems: list[str] = []
    found: dict[str, Tokens] = {}
    for source in dict.fromkeys(source for source in sources if source != NO_BACKBONE):
        try:
            backbone = load_backbone(source)
        except BackboneError as error:
            problems += [f"`--models`: {problem}" for problem in error.problems]
            continue
        found[source] = Tokens.of(backbone, source)
    if problems:
        raise InputError(problems)
    return found


def prepare_studies(checked: Plan, backbones: dict[str, Tokens], say: Say) -> list[PreparedStudy]:
    """Tokenise the data of every study below `<out>/data`, unless it is there."""
    from harness.data.quickstart import make_data

    generated = checked.out / "quickstart"
    tasks = [study.task for study in checked.studies if study.task.generated]
    if tasks:
        make_data(generated)
    backbones = {**backbones, NO_BACKBONE: BARE}
    if problems := misfits(checked.studies, checked.benchmark, backbones):
        raise InputError(problems)
    made: dict[tuple[str, str, bool], PreparedTask] = {}
    audits: dict[str, Mapping[str, Any]] = {}
    say = _once(say)
    studies = []
    for study in checked.studies:
        with_prompt = prompted(study, backbones[study.source], checked.benchmark)
        key = (study.task.name, study.source, with_prompt)
        if key not in made:
            own = study.task.generated
            folder = generated if own else task_folder(study.task, checked.benchmark.data_dir)
            made[key] = _prepared(checked, study, folder, backbones[study.source], with_prompt, say)
        prepared = _with_data(study, made[key], backbones[study.source], checked.benchmark, with_prompt)
        studies.append(_audited(prepared, checked, audits, say))
    return studies


def _prepared(
    checked: Plan, study: Study, folder: Path, tokens: Tokens, with_prompt: bool, say: Say
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
        prompt=prompt_for(study.task.domain) if with_prompt else None,
        limit=benchmark.limit,
        drop_leaks=benchmark.drop_leaks,
        strands=strands_of(study.task, benchmark.reverse_complement),
        long=benchmark.long,
        backbone="" if tokens is BARE else study.backbone,
    )
    rows = ", ".join(f"{split} {count:,}" for split, count in prepared.rows.items())
    say(
        f"{study.task.name}{'' if tokens is BARE else f' for {study.backbone}'}"
        f"{' with prompt' if with_prompt else ''}: {rows} rows, "
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
    """Print each line once: tokenisations of a task share the observations on its sequences."""
    printed: set[str] = set()

    def speak(line: str) -> None:
        if line not in printed:
            printed.add(line)
            say(line)

    return speak


def _with_data(
    study: Study, prepared: PreparedTask, tokens: Tokens, benchmark: Benchmark, with_prompt: bool
) -> PreparedStudy:
    own = [] if tokens.trained else ["untrained backbone"]
    own += [RANDOM_INIT] * study.is_control
    scheme = "bases" if tokens is BARE else benchmark.tokenization
    origin = origin_of(benchmark.learn_from, backbone=study.backbone, method=study.method)
    return PreparedStudy(
        **{**vars(study), "source": tokens.source},
        data=prepared.folder,
        data_digest=prepared.digest,
        backbone_digest=tokens.digest,
        marks=list(dict.fromkeys([*benchmark.marks, *prepared.marks, *own])),
        tokens=prepared.longest["train"],
        facts={"leaks": prepared.leaks, "tokenization": scheme, "prompt": with_prompt}
        | _label_facts(prepared)
        | ({"unread": prepared.unread} if prepared.unread else {})
        | ({"variant": prepared.variant} if prepared.variant else {})
        | ({"long": benchmark.long, "bases_seen": prepared.seen} if prepared.seen else {})
        | ({"first_points": f"learned from {origin}"} if origin else {}),
    )


def _audited(
    study: PreparedStudy, checked: Plan, audits: dict[str, Mapping[str, Any]], say: Say
) -> PreparedStudy:
    """The study with the result of its task's shortcut audit; generated tasks have none."""
    task = study.task
    if task.generated or not checked.benchmark.audit:
        return study
    if task.name not in audits:
        folder = task_folder(task, checked.benchmark.data_dir)
        try:
            audits[task.name] = audit_of(task, folder, checked.out / "data")
        except FAILURES as error:
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
        if study.is_control:  # its weights are random; its pretrained study is compared instead
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
