"""The last lines of a run: commands that can be typed as they stand."""

import io
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from harness.pipeline.ending import last_lines
from tests.support.tracked import job, record


def final(study, best, **facts):
    task, backbone, method = study.split("|")
    made = record(job(study=study, method=method), best=best, facts={"adapter": "x"} | facts)
    return replace(
        made, id=f"{study}/final/seed-0", stage="final", task=task, backbone=backbone, method=method
    )


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([final("a/b|tiny|lora", 0.3), final("a/b|tiny|ars", 0.6)], ["--task", "a/b", "--method", "ars"]),
        (
            [final("a/b|tiny|lora", 0.7), final("a/b|big one|ars", 0.6), final("z|tiny|ars", 0.9)],
            ["--task", "a/b", "--method", "lora", "--backbone", "tiny"],
        ),
        ([final("a/b|tiny|fmft", 1, adapter=None), final("a/b|tiny|lora", 0)], ["--task", "a/b", "--method", "lora"]),
        ([final("a/b|tiny@random-init|ars", 1), final("a/b|tiny|ars", 0)], ["--task", "a/b", "--method", "ars"]),
        ([final("a/b|tiny|fmft", 0.9, adapter=None)], None),
        ([], None),
    ],
)  # fmt: skip
def test_export_is_shown_for_an_adapter_that_there_is(records, words):
    text = io.StringIO()
    last_lines(Path("my run"), Console(file=text, width=40), report=True, records=records)
    lines = dict(line.split(maxsplit=1) for line in text.getvalue().splitlines())
    assert list(lines)[:4] == ["results", "report", "best", "MLflow"]
    assert shlex.split(lines["MLflow"])[-3:] == ["ui", "my run", "--open"]
    found = shlex.split(lines["export"]) if "export" in lines else None
    assert (found and found[found.index("export") + 1 :]) == (words and ["my run", *words])
