"""`audit`: artefacts of a task's construction, before a model is trained on it."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.cli.options import with_options


@app.command()
@with_options()
def audit(
    options: dict[str, Any],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look for shortcuts in tasks: rules without biology, near duplicates, constructed negatives.

    Each rule is fitted on train and scored on dev; of the test split only its sequences are compared with those of
    train and dev. Nothing is written.

    Exit code: 0 if audited, whatever was found; 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.cli.options import settings
        from harness.config.build import build
        from harness.pipeline.audit import audits

        benchmark = build({**settings(options), "methods": ("rules",), "models": None})
        found = []
        for one in audits(benchmark):
            found.append(one)
            if not as_json:
                _show(one, console)
        if as_json:
            console.print(json.dumps(found, indent=1), soft_wrap=True, markup=False, highlight=False)
        return 0

    conduct(work)


def _show(one: dict[str, Any], console: Console) -> None:
    rows = ", ".join(f"{split} {count:,}" for split, count in one["rows"].items())
    console.print(f"[bold]{escape(one['task'])}[/bold]: {rows} rows, {one['seconds']:.0f} s", soft_wrap=True)
    scores = sorted(one["rules"].items(), key=lambda item: -item[1])
    for name, score in scores:
        console.print(f"  {escape(name)}: {one['metric']} {score:.3f} on dev", soft_wrap=True)
    for check in one["checks"]:
        if check["status"] != "pass":
            colour = {"warn": "yellow", "fail": "red"}[check["status"]]
            console.print(f"  [{colour}]{check['status']}[/{colour}] {escape(check['text'])}", soft_wrap=True)
    passed = sum(check["status"] == "pass" for check in one["checks"])
    console.print(f"  {passed} of {len(one['checks'])} checks pass ({one['tool']})", soft_wrap=True)
