"""`ui`: the MLflow UI on an output folder, accessible from this machine only."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.cli.options import say_store
from harness.core.errors import InputError
from harness.core.store_address import driver_uri

if TYPE_CHECKING:
    from harness.runs.info import Setting

ADDRESS = "127.0.0.1"


@app.command()
def ui(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a benchmark.")],
    port: Annotated[int, typer.Option(metavar="N", help="Port.", min=1, max=65535)] = 5000,
    open_: Annotated[
        bool, typer.Option("--open", help="Open the view of the best configurations in the browser.")
    ] = False,
    tracking_uri: Annotated[
        str | None,
        typer.Option(metavar="URI", help="MLflow store to show.", show_default="that of the benchmark"),
    ] = None,
) -> None:
    """Show a benchmark's runs in the MLflow UI, bound to 127.0.0.1. Press Ctrl-C to stop.

    Exit code: that of the MLflow server, 2 for invalid input.
    """

    def work(console: Console) -> int:
        from harness.tracking.sync import address_of, read_setting

        setting = read_setting(out)
        if tracking_uri is None:
            say_store(setting.uri, console)
        uri = address_of(out, setting, tracking_uri)
        if uri.startswith("http"):
            console.print(f"The runs are on a server; open {escape(uri)}", soft_wrap=True)
            return 0
        command, environment = server(uri, port)
        _check(out, setting, uri, port)
        here = f"http://{ADDRESS}:{port}"
        found = saved_views(out, setting, uri, here)
        first = next(iter(found.values()), here)
        console.print(
            f"MLflow UI at {here}, experiment {escape(setting.experiment)}; press Ctrl-C to stop. Once it answers:"
        )
        for name, address in found.items():
            console.print(f"  {name:26} {address}", soft_wrap=True, markup=False)
        sys.stdout.flush()
        if open_ and (
            child := subprocess.Popen([sys.executable, "-c", OPENER, here, first], env=environment)
        ):
            child.returncode = 0  # it ends by itself after opening the page
        os.execve(sys.executable, command, environment)

    conduct(work)


OPENER = """
import sys, time, urllib.request, webbrowser
server, page = sys.argv[1:]
for _ in range(300):
    try:
        urllib.request.urlopen(server + "/health", timeout=2).read()
        webbrowser.open(page)
        break
    except OSError:
        time.sleep(0.5)
"""
"""Program for a separate process that opens a page in the browser once the server answers."""


def saved_views(out: Path, setting: "Setting", uri: str, here: str) -> dict[str, str]:
    """Addresses of the experiment's saved views by name; empty for runs of older versions."""
    from harness.tracking import views
    from harness.tracking.sync import open_store

    store = open_store(out, setting, uri)
    experiment = store.client.get_experiment_by_name(setting.experiment)
    held = experiment.tags if experiment is not None else {}
    return {
        name: views.address(here, experiment.experiment_id, store.prefix, key)
        for key, name in views.NAMES.items()
        if f"{views.TAG}{store.prefix}-{key}" in held
    }


def server(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the UI's server. Its store is passed in the environment, because other users can read
    command lines, and the address of a database may contain a password."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", ADDRESS, "--port", str(port), "--workers", "1"]
    ours = {
        "MLFLOW_BACKEND_STORE_URI": driver_uri(uri),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the current folder
    }
    return command, os.environ | ours


def _check(out: Path, setting: "Setting", uri: str, port: int) -> None:
    import socket

    from harness.tracking.database import prepare, sqlite_file
    from harness.tracking.sync import open_store

    if sqlite_file(uri) is None:  # the server would print pages, with passwords among them
        open_store(out, setting, uri)
    else:
        prepare(out, uri, writer=False)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((ADDRESS, port))
        except OSError:
            raise InputError(f"`--port` must be a free port, but {port} is in use.") from None
