"""`ui`: the MLflow UI on an output folder, for this machine alone."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from harness.cli.app import app, conduct
from harness.cli.options import say_store
from harness.core.errors import InputError

if TYPE_CHECKING:
    from harness.runs.info import Setting

ADDRESS = "127.0.0.1"


@app.command()
def ui(
    out: Annotated[Path, typer.Argument(metavar="RUN", help="Output folder of a benchmark.")],
    port: Annotated[int, typer.Option(metavar="N", help="Port.", min=1, max=65535)] = 5000,
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
        console.print(
            f"MLflow UI at http://{ADDRESS}:{port}, experiment {escape(setting.experiment)}; press Ctrl-C to stop."
        )
        os.execve(sys.executable, command, environment)

    conduct(work)


def server(uri: str, port: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of the UI's server. Its store is named in the environment, as other users of a
    machine can read command lines, and the address of a database may have a password."""
    command = [sys.executable, "-m", "mlflow", "ui", "--host", ADDRESS, "--port", str(port), "--workers", "1"]
    ours = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "PYTHONSAFEPATH": "1",  # nothing is imported from the folder in which the command is given
    }
    return command, os.environ | ours


def _check(out: Path, setting: "Setting", uri: str, port: int) -> None:
    import socket

    from harness.tracking.database import prepare, sqlite_file
    from harness.tracking.sync import open_store

    if sqlite_file(uri) is None:  # the server would print pages, passwords among them
        open_store(out, setting, uri)
    else:
        prepare(out, uri, writer=False)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind((ADDRESS, port))
        except OSError:
            raise InputError(f"`--port` must be a free port, but {port} is in use.") from None
