"""Export of the adapter of a study's winner: choice of the seed, verification, model card."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import InputError, command, nearest
from harness.data.adapter_copy import copy_adapter
from harness.data.find_tasks import find_task
from harness.inference.card import result_of, write_card
from harness.runs.controls import is_control
from harness.runs.front import leading
from harness.runs.layout import RunFolder, adapter_folder, file_name
from harness.runs.record import Record
from harness.runs.selection import best_on_dev, dev_score
from harness.runs.store import load
from lingo.adapter_folder import AdapterError, adapter_digest, read_facts, read_json
from lingo.card import FACTS
from lingo.checkpoint import BackboneError
from lingo.folder import new_folder, write_json
from lingo.methods import METHODS
from lingo.target import ExportError


@dataclass(frozen=True, kw_only=True)
class ChosenRun:
    """The final run to be exported.

    Attributes:
        record: Its record.
        finals: The finished final runs of the study, by seed.
        adapter: Path of its adapter.
        asked: Whether its seed was requested, and not chosen by the dev split.
    """

    record: Record
    finals: Sequence[Record]
    adapter: Path
    asked: bool

    @property
    def reason(self) -> str:
        """Reason for the choice of the seed, in one line."""
        record = self.record
        value = f"dev {record.metric} {dev_score(record):.4f}"
        if self.asked:
            return f"seed {record.seed}, as requested ({value})"
        equal = sum(dev_score(final) == dev_score(record) for final in self.finals)
        which = f"the first of {equal} that are the best" if equal > 1 else "the best"
        return (
            f"seed {record.seed} of {len(self.finals)}, {which} on the dev split ({value}); test scores were not "
            "used"
        )


def choose(
    run: Path,
    *,
    task: str,
    method: str,
    backbone: str | None = None,
    trial: int | None = None,
    seed: int | None = None,
) -> ChosenRun:
    """The final run to export: of the study given by task, method and backbone, the seed with the best dev score.

    Args:
        run: Output folder of a benchmark.
        task, method, backbone: The study; `backbone` may be omitted if there is only one.
        trial: The point of a front whose configuration it has; `None` for the one with the best score.
        seed: A seed instead of the best one.

    Raises:
        InputError: If there is no such run, study, seed or adapter, with the available ones and the remedy.
    """
    if not RunFolder(run).records.is_dir():
        raise InputError(f"{run}: must be the output folder of a run, but has no records.")
    study = _study(load(run), run, task, method, backbone)
    finals = sorted(
        (r for r in _of_trial(study, trial) if (r.stage, r.status) == ("final", "finished")),
        key=lambda record: record.seed,
    )
    name = study[0].study
    _refuse_without_adapter(name, study[0].method)
    if not finals:
        raise InputError(
            f"{name}: has no finished final run yet ({_states(study)}); continue the run with "
            f"`{command('resume', run)}`, and export again."
        )
    record = _of_seed(finals, seed) if seed is not None else best_on_dev(finals) or finals[0]
    return ChosenRun(record=record, finals=finals, adapter=_folder(run, record), asked=seed is not None)


def export_choice(choice: ChosenRun, out: Path, *, merge: bool = False) -> Path:
    """Copy the adapter to `out` with a model card, atomically.

    Args:
        choice: The final run.
        out: Folder: new, empty or an earlier export.
        merge: Write a complete model instead, with the adapter merged into the backbone's weights.

    Raises:
        InputError: If the adapter is damaged or not the one that was evaluated, or `out` contains other files.
    """
    record, source = choice.record, choice.adapter
    if merge and METHODS[record.method].engine == "probe":
        raise InputError(f"`--merge` is for adapters, but {record.study} leaves the backbone as it is.")
    _check(choice)
    result = {"result": result_of(choice.record, choice.finals, choice.reason)}
    try:
        with new_folder(out) as new:
            facts = _merged(source, new, read_json(source / FACTS)) if merge else copy_adapter(source, new)
            facts |= result
            write_json(new / FACTS, facts)
            write_card(new, facts, record, choice.finals)
            read_facts(new)
    except ExportError as error:
        raise InputError(f"`--out`: {error}") from None
    except (AdapterError, BackboneError) as error:
        raise InputError(str(error).splitlines()) from None
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}).") from None
    return out


def _merged(source: Path, new: Path, facts: dict[str, Any]) -> dict[str, Any]:
    from lingo.merge import write_merged
    from lingo.predict import open_adapter

    return write_merged(new, open_adapter(source, frozen="fp32"), facts)


def default_out(run: Path, record: Record, *, merge: bool = False) -> Path:
    """`<run>/exports/<task>-<backbone>-<method>`, of a point of a front with its trial, and with the suffix `-merged`
    for a complete model."""
    parts = [part.replace("/", "_") for part in (record.task, record.backbone, record.method)]
    parts += [f"trial-{record.trial}"] if record.trial is not None else []
    return run / "exports" / "-".join([*parts, *(["merged"] if merge else [])])


def _study(
    records: Sequence[Record], run: Path, task: str, method: str, backbone: str | None
) -> list[Record]:
    """The records of the study with these names."""
    wanted = _task_name(task, {record.task for record in records})
    for option, value, known in (
        ("--task", wanted, {r.task for r in records}),
        ("--method", method, {r.method for r in records if r.task == wanted}),
        ("--backbone", backbone, {r.backbone for r in records if (r.task, r.method) == (wanted, method)}),
    ):
        if value is not None and value not in known:
            there = nearest(value, known) or f" Available: {', '.join(sorted(known)) or 'none yet'}."
            raise InputError(f"`{option}` must be one of the results in {run}, but got {value!r}.{there}")
    found = [r for r in records if (r.task, r.method) == (wanted, method) and backbone in (None, r.backbone)]
    backbones = sorted({record.backbone for record in found})
    if len(backbones) > 1:
        raise InputError(
            f"`--backbone` must say which of {', '.join(backbones)}; {wanted} {method} has them all."
        )
    return found


def _task_name(task: str, known: set[str]) -> str:
    """Name of a task in the records, from its name or an alias."""
    if task in known:
        return task
    try:
        return find_task(task).name
    except InputError:
        return task


def _refuse_without_adapter(study: str, method: str) -> None:
    row = METHODS.get(method)
    if row is None or not row.trains_all:
        return
    others = ", ".join(name for name, other in METHODS.items() if not other.trains_all)
    if row.needs_backbone:
        raise InputError(
            f"{study}: full fine-tuning has no adapter, and a run does not keep complete models because of their "
            f"size. Export another method ({others})."
        )
    raise InputError(f"{study}: {row.title} has no adapter. Export another method ({others}).")


def _states(study: Sequence[Record]) -> str:
    counts: dict[str, int] = {}
    for record in study:
        what = f"{record.stage} {record.status}"
        counts[what] = counts.get(what, 0) + 1
    return ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))


def _of_trial(study: Sequence[Record], trial: int | None) -> list[Record]:
    """The records of a study, of its final runs those of one point of a front."""
    if trial is None:
        return leading(study)
    tested = {record.trial: record for record in study if record.stage == "final"}
    if trial not in tested:
        there = ", ".join(map(str, sorted(number for number in tested if number is not None)))
        raise InputError(
            f"`--trial` must be a point of the front with final runs ({there or 'none: one objective'}), but got "
            f"{trial}."
        )
    return [record for record in study if record.stage != "final" or record.trial == trial]


def _of_seed(finals: Sequence[Record], seed: int) -> Record:
    found = next((record for record in finals if record.seed == seed), None)
    if found is None:
        seeds = ", ".join(str(record.seed) for record in finals)
        raise InputError(f"`--seed` must be one with a finished final run ({seeds}), but got {seed}.")
    return found


def _folder(run: Path, record: Record) -> Path:
    """Path of the adapter. Raises `InputError` if there is none."""
    if is_control(record.backbone):
        raise InputError(f"{record.study}: is a control with random weights, whose adapters are not kept.")
    error, written = record.facts.get("adapter_error"), record.facts.get("adapter")
    again = (
        f"remove {RunFolder(run).records / file_name(record.id)} and continue the run with "
        f"`{command('resume', run)}`: this seed is trained again"
    )
    if written is None:
        raise InputError(f"{record.id}: has no adapter ({error or 'it was not kept'}); {again}.")
    found = adapter_folder(run, record)
    if found is None:
        raise InputError(f"{record.id}: its adapter is no longer in {run / 'adapters'}; {again}.")
    return found


def _check(choice: ChosenRun) -> None:
    """Raise `InputError` unless the folder is complete and is the one that was evaluated."""
    record, folder = choice.record, choice.adapter
    try:
        facts, plain = read_facts(folder), read_json(folder / FACTS)
    except AdapterError as error:
        raise InputError(str(error)) from None
    digest = record.facts.get("adapter_digest")
    pairs = (
        ("facts", digest, adapter_digest(folder) if digest else None),
        ("configuration", _plain(record.config), _plain(plain["config"])),
        ("data", record.data_digest, plain["data_digest"]),
        ("backbone", record.backbone_digest, facts.digest),
    )
    other = [what for what, measured, held in pairs if measured and measured != held]
    if other:
        raise InputError(
            f"{folder}: is not the adapter that {record.id} measured (its {', '.join(other)} differ); it was "
            "changed, or written by another run."
        )


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a configuration that differ from their defaults."""
    from lingo.trial import TrialConfig

    return TrialConfig.from_dict(config).to_dict()
