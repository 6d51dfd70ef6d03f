"""Where results were made: versions, commit, devices, and the settings of the run."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from harness.reporting.content import Block, Field, Note, Section, Table
from harness.reporting.run_folder import RunFolder, Trial


def section(runs: Sequence[RunFolder]) -> Section:
    """Versions, commit, devices, settings."""
    trials = [trial for run in runs for trial in run.trials]
    settings = [(name, value) for run in runs for name, value in run.settings.items() if name != "spaces"]
    rows: list[list[Field]] = [
        [name, json.dumps(value, ensure_ascii=False)[:300]]
        for name, value in sorted(settings, key=lambda s: s[0])
    ]
    blocks: list[Block] = [*_environments(trials)]
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
        intro="Where the results were made. Data and backbones are named by digests in the records.",
        blocks=blocks,
    )


def environments(trials: Sequence[Trial]) -> list[tuple[dict[str, Any], int]]:
    """Distinct environments and how many records each has."""
    texts = Counter(
        text if isinstance(text := trial.nested.get("environment"), str) else json.dumps(text, sort_keys=True)
        for trial in trials
    )
    return [(json.loads(text) or {}, number) for text, number in texts.most_common()]


def _environments(trials: Sequence[Trial]) -> list[Block]:
    found = [(env, number) for env, number in environments(trials) if env]
    if not found:
        return [Note(text="The records carry no environment.")]
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
        else "Results of several environments stand in one table above; compare with care."
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
