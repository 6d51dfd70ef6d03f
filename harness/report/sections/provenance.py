"""Provenance of the results: versions, commit, devices, and the settings of the run."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.report import naming
from harness.report.content import Block, Field, Note, Section, Table, count
from harness.report.outcomes import Outcome, Outcomes
from harness.report.run_results import RunResults
from harness.runs.record import Record
from harness.runs.store import text_of


def section(runs: Sequence[RunResults], outcomes: Outcomes) -> Section:
    """Versions, commit, devices, number types, settings."""
    trials = [trial for run in runs for trial in run.trials]
    settings = [(name, value) for run in runs for name, value in run.settings.items() if name != "spaces"]
    rows: list[list[Field]] = [
        [name, json.dumps(value, ensure_ascii=False)[:300]]
        for name, value in sorted(settings, key=lambda s: s[0])
    ]
    blocks: list[Block] = [*_environments(trials), *_types(outcomes), *_weights(trials)]
    blocks.append(Note(text=_repeats(runs)))
    if rows:
        blocks.append(
            Table(
                name="settings",
                title="Settings of the run",
                header=["setting", "value"],
                rows=rows,
                text_columns=2,
                folded=True,
                limit=200,
            )
        )
    return Section(
        anchor="environment",
        title="Environment",
        intro="Environment of the results. The records identify data and backbones by digests.",
        blocks=blocks,
    )


def _repeats(runs: Sequence[RunResults]) -> str:
    """Which of these results the same command would reproduce on the same machine."""
    trials = [trial for run in runs for trial in run.trials]
    finals = [trial for trial in trials if trial.stage == "final" and trial.status == "finished"]
    alone = [trial for trial in finals if trial.facts.get("alone")]
    inexact = {name for trial in finals for name in trial.facts.get("inexact_operations", ())}
    if not alone:
        return "Final runs were trained together with others: their last digits may differ when repeated."
    text = "Final runs: the same configuration and seed give bit-identical results on the same machine"
    text += (
        f", except for operations without deterministic kernels ({', '.join(sorted(inexact))})"
        if inexact
        else ""
    )
    searches = {bool(run.settings.get("deterministic")) for run in runs}
    if searches == {True}:
        return f"{text}. Search: --deterministic, also reproducible."
    return f"{text}. Search: trials and winners depend on the load; --deterministic makes them reproducible."


def _weights(trials: Sequence[Record]) -> list[Block]:
    """Rule by which the final runs selected the tested weights."""
    finals = [trial for trial in trials if (trial.stage, trial.status) == ("final", "finished")]
    rules = Counter(
        re.sub(
            r" from step \d+ on$",
            " from the last rank allocation on",
            trial.facts.get("weights", "not recorded"),
        )
        for trial in finals
    )
    if not rules:
        return []
    text = "; ".join(f"{rule} ({count(number, 'run')})" for rule, number in rules.most_common())
    return [Note(text=f"Weights that the final runs tested: {text}.")]


def studies_by_types(outcomes: Outcomes) -> dict[tuple[str, str], list[Outcome]]:
    """Studies with a backbone and final runs, by the number types of the backbone's and the trained weights."""
    found: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        for types in [] if outcome.baseline else outcome.types:
            found.setdefault(types, []).append(outcome)
    return found


def mixed_types(outcomes: Outcomes) -> str | None:
    """A caveat if the backbones of one table had different number types."""
    methods: dict[str, list[str]] = {}
    for (backbone, _), studies in studies_by_types(outcomes).items():
        methods.setdefault(backbone, []).extend(naming.method_title(o.key.method) for o in studies)
    if len(methods) < 2:
        return None
    parts = [
        f"{'not recorded' if name == '?' else name} ({', '.join(dict.fromkeys(titles))})"
        for name, titles in methods.items()
    ]
    return (
        f"Backbone weights had several number types: {', '.join(parts)}. Differences between these may be "
        "due to the type and not the method."
    )


def _types(outcomes: Outcomes) -> list[Block]:
    found = studies_by_types(outcomes)
    if not found:
        return []
    rows: list[list[Field]] = [
        [
            "not recorded" if backbone == "?" else backbone,
            "not recorded" if trained == "?" else trained,
            ", ".join(dict.fromkeys(naming.method_title(o.key.method) for o in studies)),
            f"{len(studies):,}",
        ]
        for (backbone, trained), studies in found.items()
    ]
    return [
        Table(
            name="number_types",
            title="Number types of weights",
            header=["backbone", "trained parameters", "methods", "studies"],
            rows=rows,
            text_columns=3,
            caption=mixed_types(outcomes) or "The frozen weights of a run have one type on all its machines.",
        )
    ]


def environments(trials: Sequence[Record]) -> list[tuple[dict[str, Any], int]]:
    """Distinct environments and their number of records."""
    texts = Counter(text_of(trial.environment) for trial in trials)
    return [(json.loads(text) or {}, number) for text, number in texts.most_common()]


def _environments(trials: Sequence[Record]) -> list[Block]:
    found = [(env, number) for env, number in environments(trials) if env]
    if not found:
        return [Note(text="The records contain no environment.")]
    rows: list[list[Field]] = []
    for env, number in found[:10]:
        device, versions = env.get("device", {}), env.get("versions", {})
        dirty = {True: ", with local changes", False: "", None: ""}[env.get("git_dirty")]
        rows.append(
            [
                ", ".join(f"{name} {version}" for name, version in versions.items()),
                f"{(env.get('git_sha') or 'unknown')[:12]}{dirty}",
                f"{device.get('processor') or device.get('machine', '')}, {device.get('cores', '?')} cores, "
                f"{device.get('memory_gib', '?')} GiB",
                ", ".join(device.get("accelerators") or ["none"]),
                f"{number:,}",
            ]
        )
    caption = (
        ""
        if len(found) == 1
        else "The tables above combine results of several environments; compare with care."
    )
    header = ["versions", "commit", "machine", "accelerators", "records"]
    return [
        Table(
            name="environment",
            title="Versions and devices",
            header=header,
            rows=rows,
            text_columns=4,
            caption=caption,
        )
    ]
