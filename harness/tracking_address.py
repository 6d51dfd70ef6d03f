"""Addresses of MLflow stores: where the embedded one lies, and that no password in one is ever printed or kept.

A user name and password in an `http` address move into the environment variables that MLflow's client reads;
everywhere else an address is shown through `masked`.
"""

import os
import re
import shlex
from collections.abc import MutableMapping
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from harness.errors import InputError

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
MASK = "***"
SECRET = re.compile(r"(?<=://)[^/?#\s'\"]*@")


def default_uri(out: Path | str) -> str:
    """The embedded store in the output folder."""
    return f"sqlite:///{Path(out).resolve() / 'mlflow.db'}"


def masked(text: str) -> str:
    """`text` with the user and password of every address in it replaced by `***`."""
    return SECRET.sub(f"{MASK}@", text)


def without_login(uri: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """An `http` address without its user and password, which are put into `environment`; others as they are.

    The password of a database stays in its address, as its driver needs it there.

    Raises:
        InputError: If the address was read from a file that keeps no password, or names a user alone.
    """
    if uri.startswith(("http://", "https://")) and "@" in urlsplit(uri).netloc:
        parts = urlsplit(uri)
        login, _, host = parts.netloc.rpartition("@")
        user, colon, password = login.partition(":")
        if login != MASK:
            if not (user and colon and password):
                raise InputError(
                    f"`--tracking-uri` must name both user and password or neither, but got {masked(uri)}; "
                    f"set {USER} and {PASSWORD} instead."
                )
            environment[USER], environment[PASSWORD] = unquote(user), unquote(password)
        uri = urlunsplit(parts._replace(netloc=host))
    if f"://{MASK}@" in uri:
        raise InputError(
            f"`--tracking-uri` must be given again, as the password of {uri} is not kept in the output folder."
        )
    return uri


def ui_command(uri: str) -> str:
    """What a person types to look at the runs, or the address to open."""
    if uri.startswith("http"):
        return masked(uri)
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(masked(uri))}"
