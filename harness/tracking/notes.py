"""Descriptions of experiment, study and final run, as the UI shows them beside the numbers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.core.errors import command
from harness.runs.info import Setting
from harness.runs.layout import RunFolder
from harness.runs.record import Record
from harness.tracking.tags import study_name


def of_experiment(setting: Setting, tasks: Sequence[str]) -> str:
    """What the experiment is, and where its report lies."""
    shown = ", ".join(tasks[:8]) + (f" and {len(tasks) - 8} more" if len(tasks) > 8 else "")
    return (
        f"Benchmark on {shown}. One run for each study (task, backbone, method), below it its trials and final runs. "
        f"The saved views at the top right answer the usual questions.{_links(setting)}"
    )


def of_study(study: str, setting: Setting, metrics: Mapping[str, float], tags: Mapping[str, Any]) -> str:
    """Score and configuration of a study's best trial, and how to use it."""
    scores = [f"{name} {value:.4f}" for name, value in metrics.items() if name.startswith(("best/", "test/"))]
    lines = [f"**{study_name(study)}**: {', '.join(scores) or 'no score yet'}"]
    if "best.config" in tags:
        config = _config(json.loads(tags["best.config"]))
        lines.append(f"Best configuration ({tags.get('best.trial')}):\n\n```json\n{config}\n```")
    return "\n\n".join([*lines, *_again(study, setting)]) + _links(setting)


def of_final(record: Record, setting: Setting) -> str:
    """Test scores of a final run, its configuration, and how to export its adapter."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in sorted((record.test or {}).items())[:6])
    lines = [
        f"**{study_name(record.study)}**, seed {record.seed}: {scores or record.error or 'no test score'}"
    ]
    if record.marks:
        lines.append(f"Caveats: {', '.join(record.marks)}")
    lines.append(f"```json\n{_config(record.config)}\n```")
    if record.facts.get("adapter") and setting.out is not None:
        words = ["--task", record.task, "--backbone", record.backbone, "--method", record.method]
        words += ["--trial", str(record.trial)] if record.trial is not None else []
        lines.append(f"Its adapter: `{command('export', setting.out, *words, '--seed', record.seed)}`")
    return "\n\n".join([*lines, *_again(record.study, setting)]) + _links(setting)


def _again(study: str, setting: Setting) -> list[str]:
    """The commands that train the best configuration of a study again, with these data and this backbone."""
    if setting.out is None:
        return []
    task, backbone, method = study.split("|")
    key = ("--task", task, "--backbone", backbone, "--method", method)
    source, _, commit = setting.sources.get(study, backbone).rpartition("@")
    model = source if source and "/" not in commit else setting.sources.get(study, backbone)
    words = ["--tasks", task, *(["--models", model] if backbone != "none" else []), "--methods", method]
    words += ["--data-dir", setting.data_dir] if setting.data_dir else []
    run = command("run", *words, "--config", "best.yaml", "--num-samples", 1)
    best = command("best", setting.out, *key, "--format", "yaml")
    return [f"To train it again:\n\n```bash\n{best} > best.yaml\n{run}\n```"]


def _config(config: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in config.items() if name != "seed"}, sort_keys=True)


def _links(setting: Setting) -> str:
    if setting.out is None:
        return ""
    return f"\n\nReport: `{RunFolder(setting.out).report}` (`{command('report', setting.out)}`)"
