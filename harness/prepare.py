"""From a plan to cells: backbones checked tensor by tensor, data tokenised once per tokenizer and prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import Benchmark
from harness.data import PreparedTask, prepare
from harness.errors import InputError
from harness.hub import task_folder
from harness.leaks import summary
from harness.ledger import Cell
from harness.plan import Plan, Study
from harness.results import Record
from harness.tasks import strands_of
from lingo.methods import METHODS
from lingo.nucleotides import units_for
from lingo.prompts import prompt_for

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What preparation needs of a backbone, without its weights.

    Attributes:
        rows: Rows of its token embedding.
    """

    tokenizer: Any
    rows: int
    pad_id: int
    max_length: int
    digest: str
    trained: bool
    source: str


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
    for source in dict.fromkeys(sources):
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
        )
    if problems:
        raise InputError(problems)
    return found


def prepare_cells(checked: Plan, backbones: dict[str, Tokens], say: Say) -> list[Cell]:
    """Tokenise the data of every study below `<out>/data`, or find it there."""
    from harness.quickstart import make_data

    generated = checked.out / "quickstart"
    tasks = [study.task for study in checked.studies if study.task.generated]
    if tasks:
        make_data(generated)
    made: dict[tuple[str, str, bool], PreparedTask] = {}
    cells = []
    for study in checked.studies:
        prompted = METHODS[study.method].prompt
        key = (study.task.name, study.source, prompted)
        if key not in made:
            own = study.task.generated
            folder = generated if own else task_folder(study.task, checked.benchmark.data_dir)
            made[key] = _prepared(checked, study, folder, backbones[study.source], prompted, say)
        cells.append(_cell(study, made[key], backbones[study.source], checked.benchmark))
    return cells


def _prepared(
    checked: Plan, study: Study, folder: Path, tokens: Tokens, prompted: bool, say: Say
) -> PreparedTask:
    longest = min(tokens.max_length, checked.benchmark.max_length or tokens.max_length)
    scheme = checked.benchmark.tokenization
    prepared = prepare(
        study.task,
        folder,
        checked.out / "data",
        tokenizer=tokens.tokenizer if scheme == "bbpe" else units_for(scheme, tokens.tokenizer, tokens.rows),
        pad_id=tokens.pad_id,
        max_length=longest,
        prompt=prompt_for(study.task.domain) if prompted else None,
        limit=checked.benchmark.limit,
        drop_leaks=checked.benchmark.drop_leaks,
        strands=strands_of(study.task, checked.benchmark.reverse_complement),
    )
    rows = ", ".join(f"{split} {count:,}" for split, count in prepared.rows.items())
    say(
        f"{study.task.name}{' with prompt' if prompted else ''}: {rows} rows, "
        f"up to {max(prepared.longest.values())} tokens"
    )
    if leaks := summary(prepared.leaks):
        say(f"  leakage audit: {leaks}")
    for mark, why in prepared.marks.items():
        say(f"  marked {mark}: {why}")
    return prepared


def _cell(study: Study, prepared: PreparedTask, tokens: Tokens, benchmark: Benchmark) -> Cell:
    own = [] if tokens.trained else ["untrained backbone"]
    return Cell(
        study=study,
        data=prepared.folder,
        data_digest=prepared.digest,
        backbone_digest=tokens.digest,
        marks=list(dict.fromkeys([*benchmark.marks, *prepared.marks, *own])),
        tokens=prepared.longest["train"],
        source=tokens.source,
        facts={"leaks": prepared.leaks, "tokenization": benchmark.tokenization} | _label_facts(prepared),
    )


def _label_facts(prepared: PreparedTask) -> dict[str, Any]:
    return {"undefined_labels": prepared.undefined_labels} if prepared.label_names else {}


def refuse_other_inputs(records: Sequence[Record], cells: Sequence[Cell], out: Path) -> None:
    """Refuse to continue results that were made from other data or another backbone of the same name.

    Raises:
        InputError: with one line for each study.
    """
    problems = []
    for cell in cells:
        mine = [record for record in records if record.study == cell.study.key]
        for what, digest, others in (
            ("data", cell.data_digest, {record.data_digest for record in mine}),
            ("backbone", cell.backbone_digest, {record.backbone_digest for record in mine}),
        ):
            for other in sorted(others - {digest}):
                problems.append(
                    f"`--out` must not hold results of another {what}, but {out} has some of "
                    f"{cell.study.key} with digest {other[:12]} and it is now {digest[:12]}."
                )
    if problems:
        raise InputError(problems)
