"""`prefetch`: download models and data, for machines without internet access."""

import os
from typing import Any

from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.cli.options import settings, with_options
from harness.config.build import build
from harness.core.home import path_of


@app.command()
@with_options()
def prefetch(options: dict[str, Any]) -> None:
    """Download the models and data of a run, for machines that train without internet.

    Takes the options of run. On a login node, for example; compute nodes then need the same cache (HF_HOME, or the home
    folder) and HF_HUB_OFFLINE=1.

    Exit code: 0 if everything is there, 2 if something is missing.
    """

    def work(console: Console) -> int:
        from harness.pipeline.prefetch import prefetch as bring

        bring(build(settings(options)), lambda line: console.print(escape(line), soft_wrap=True))
        cache = os.environ.get("HF_HOME") or path_of("~/.cache/huggingface")
        console.print(
            f"Everything is there. Machines that see {escape(str(cache))} can now run it with HF_HUB_OFFLINE=1.",
            soft_wrap=True,
        )
        return 0

    conduct(work, refused="the rest is there")
