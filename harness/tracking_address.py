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

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
MASK = "***"
HTTP = ("http://", "https://")
STORES = re.compile(r"(https?|sqlite|(postgresql|mysql|mssql)(\+\w+)?)://|databricks\b")
"""Addresses that MLflow serves today; it keeps no runs in plain folders any more."""
SECRET = re.compile(r"(?<=://)[^/?#\s'\"]*@")


def default_uri(out: Path | str) -> str:
    """The embedded store in the output folder."""
    return f"sqlite:///{Path(out).resolve() / 'mlflow.db'}"


def masked(text: str) -> str:
    """`text` with the user and password of every address in it replaced by `***`."""
    return SECRET.sub(f"{MASK}@", text)


def one_line(error: Exception) -> str:
    """The first line of an error, without any password."""
    return masked((str(error).splitlines() or [type(error).__name__])[0])[:200]


def without_login(uri: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """An `http` address without its user and password, which are put into `environment`; others as they are.

    The password of a database stays in its address, as its driver needs it there.

    Raises:
        ValueError: If it is no address of a store, comes from a file that keeps no password, or names a user alone.
    """
    if uri.startswith(HTTP) and "@" in urlsplit(uri).netloc:
        login = urlsplit(uri).netloc.rpartition("@")[0]
        user, colon, password = login.partition(":")
        if not (user and colon and password):
            raise ValueError(
                f"must name both user and password or neither, but got {masked(uri)}; "
                f"they may stand in {USER} and {PASSWORD} instead."
            )
        environment[USER], environment[PASSWORD] = unquote(user), unquote(password)
        return storable(uri)
    if not STORES.match(uri):
        raise ValueError(
            "must be an address of an MLflow store (http://, https://, sqlite:///FILE, postgresql://, mysql://, "
            f"mssql:// or databricks), but got {masked(uri)!r}."
        )
    if f"://{MASK}@" in uri:
        raise ValueError(f"must be given again: the output folder keeps no password, but {uri} needs one.")
    return uri


def storable(uri: str) -> str:
    """The address as files may keep it: an `http` one without its login, others with the login masked."""
    if uri.startswith(HTTP):
        parts = urlsplit(uri)
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return masked(uri)


def ui_command(uri: str) -> str:
    """What a person types to look at the runs, or the address to open."""
    if uri.startswith("http"):
        return masked(uri)
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(masked(uri))}"
