"""Addresses of stores: masking of secrets for display and storage.

`shown` is the only mask: it shows parts known to be harmless and hides everything else. Secrets are never written: the
settings of a run contain the masked address (`kept`), and the full one stays in an environment variable, from which
`opened` reads it. MLflow reads `http` addresses with urllib, those of databases with SQLAlchemy's `make_url`.
"""

import json
import os
import re
import shlex
from collections.abc import Iterator, MutableMapping
from functools import cache
from importlib import metadata
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlsplit

from harness.core.errors import InputError

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
ADDRESS = "MLFLOW_TRACKING_URI"
REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")
"""`env:NAME` is the address in the environment variable NAME."""

MASK = "***"
HTTP = ("http://", "https://")
STORES = re.compile(r"https?://|sqlite:///|(postgresql|mysql|mssql)(\+\w+)?://")
"""Schemes supported by MLflow, which no longer stores runs in plain folders."""

DATABRICKS = re.compile(r"databricks(-uc)?(://[\w.-]+(:[\w.-]+)?)?")
"""A profile, or a scope and the prefix of a key: names of secrets, not secrets themselves."""

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
LOGIN = re.compile(r"[^/?#@\s\\]*")
PLACE = re.compile(
    r"(?:[\w.-]+|\[[\da-fA-F:.]+\])?(?::\d{1,5})?(?:/[\w.~+/-]*)?(?:\?(?P<query>[^#@\s]*))?", re.ASCII
)
"""Host, port, path or database, query: the parts of an address besides its login. Parsers disagree on other addresses,
so that the end of the password is ambiguous."""

BUCKET = re.compile(
    r"[A-Za-z][\w+.-]*://(?:anonymous@)?[\w.-]*(?::\d{1,5})?(?:/[^@?#;]*)?(?:\?(?P<query>.*))?", re.ASCII
)
"""Address of a storage without a secret: bucket, path, query."""

HARMLESS = (
    "charset|connect_timeout|driver|encrypt|mode|sslmode|timeout|trustservercertificate"
    "|endpoint_override|project_id|region|retry_limit_seconds|scheme"
)
"""Query keys that may be shown with their values."""

PAIR = re.compile(rf"({HARMLESS})=[\w.:/+ -]*", re.ASCII | re.IGNORECASE)
WORD = re.compile(
    rf"{HARMLESS}|database|dbname|host|odbc_connect|passwd|password|port|pwd|server|sslpassword|uid|user|username",
    re.IGNORECASE,
)
"""Words in addresses that are never secret."""

WRONG_HOST = "Invalid Host header"

ANSWERS = (
    (WRONG_HOST, "it rejects this host name: add it to its option --allowed-hosts"),
    (r"too many (\d{3}) error responses", r"it repeatedly answers with status \1; see its log"),
    (r"error code (40[13]) != 200", r"it answers with status \1, access denied"),
    (r"error code (\d{3}) != 200", r"it answers with status \1, which an MLflow server never does"),
    (r"not in a valid JSON format|as none does", "it answers, but is not an MLflow server"),
    (r"read timeout=(\d+)", r"no answer within \1 s"),
    (r"Connection\w* timed out|connect timeout=", "connection timed out; a firewall may block it"),
    (r"Connection refused", "no server listens at this address"),
    (r"NameResolutionError|getaddrinfo failed", "unknown host name"),
    (r"Network is unreachable|No route to host", "network unreachable"),
    (r"Connection aborted|Connection reset|RemoteDisconnected", "it closes the connection without an answer"),
    (r"CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted by this machine"),
    (r"WRONG_VERSION_NUMBER|record layer failure", "it does not support https"),
)
"""Patterns in errors of MLflow's client, and their causes: the first line of the client's message is a class of a
library and omits the reason."""

IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*")


def default_uri(out: Path | str) -> str:
    """The embedded store in the output folder."""
    return f"sqlite:///{Path(out).resolve() / 'mlflow.db'}"


def driver_uri(address: str) -> str:
    """An address as the installed SQLAlchemy reads it: paths of SQLite files stand here as they are, and from 2.1 on it
    decodes `%`."""
    if not address.startswith("sqlite:///") or not _decodes():
        return address
    return address.replace("%", "%25")


@cache
def _decodes() -> bool:
    major, minor = metadata.version("sqlalchemy").split(".")[:2]
    return (int(major), int(minor)) >= (2, 1)


def shown(address: str) -> str:
    """An address without secrets: scheme, host, port, path, database and harmless query parameters.

    Everything else is `***`; if the address is ambiguous, everything after the scheme is.
    """
    if DATABRICKS.fullmatch(address) or REFERENCE.fullmatch(address):
        return address
    scheme, colon, rest = address.partition(":")
    if not colon:
        return address if re.fullmatch(r"[\w./~ -]*", address) else MASK
    if not SCHEME.fullmatch(scheme) or not rest.startswith("//"):
        return f"{scheme}:{MASK}" if scheme in ("sqlite", "file") else MASK
    rest = rest[2:]
    if scheme in ("sqlite", "file") and rest.startswith("/"):
        path, mark, query = rest.partition("?")
        return f"{scheme}://{path}{mark}{query if _harmless(query) else MASK}"
    login, at, place = rest.rpartition("@")
    found = PLACE.fullmatch(place)
    if found is None or not LOGIN.fullmatch(login):
        return f"{scheme}://{MASK}"
    query = found["query"]
    if query and not _harmless(query):
        place = f"{place.partition('?')[0]}?{MASK}"
    return f"{scheme}://{MASK + at if at else ''}{place}"


def _harmless(query: str) -> bool:
    pairs = parse_qsl(query, keep_blank_values=True)
    return all(PAIR.fullmatch(f"{name}={value}") for name, value in pairs)


def masked(text: str, address: str = "") -> str:
    """`text` with all addresses masked, and without masked parts of `address`."""
    if address:
        text = text.replace(address, shown(address))
    for part in _hidden(address):
        ends = ("", "") if len(part) > 2 else (r"(?<!\w)", r"(?!\w)")
        text = re.sub(f"{ends[0]}{re.escape(part)}{ends[1]}", MASK, text, flags=re.IGNORECASE)
    return IN_TEXT.sub(_shown_in_text, text)


def _shown_in_text(found: re.Match[str]) -> str:
    address = found[0].rstrip(".,;:)")
    return shown(address) + found[0][len(address) :]


def _hidden(address: str) -> list[str]:
    """The masked parts of an address, as drivers may quote them, longest first."""
    public = shown(address)
    if public == address:
        return []
    whole = address.partition("://")[2] or address
    readings = {whole, unquote(whole), unquote_plus(whole), unquote_plus(unquote_plus(whole))}
    known = {word.lower() for word in _words(public)}
    words = {word for text in readings for word in _words(text) if not WORD.fullmatch(word)}
    words = {word for word in words if word.lower() not in known}
    words |= {
        form
        for word in words
        for form in (quote(word, errors="surrogatepass"), ascii(word)[1:-1], json.dumps(word)[1:-1])
    }
    return sorted(words, key=lambda word: (-len(word), word))


def _words(text: str) -> Iterator[str]:
    return filter(None, re.split(r"[:/@?#&=;,+{}()\[\]\s\\'\"]+", text))


def one_line(error: Exception, address: str = "") -> str:
    """The first line of an error raised by a store at `address`, without secrets."""
    if isinstance(error, InputError):
        return str(error)
    said = str(error)
    if address.startswith(HTTP):
        for sign, meaning in ANSWERS:
            if found := re.search(sign, said):
                return found.expand(meaning)
    first = (said.splitlines() or [type(error).__name__])[0]
    return masked(first, address)[:200]


def login_cure(error: Exception, address: str) -> str:
    """Remedy if a server denies access."""
    if address.startswith(HTTP) and re.search(r"\b40[13]\b", str(error)) and WRONG_HOST not in str(error):
        return f" Set {USER} and {PASSWORD} to an account that has permission."
    return ""


def kept(address: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """The address for settings and files; a secret in it is moved to `environment`.

    `env:NAME` is kept and read when used.

    Raises:
        ValueError: If it is not an address of a store.
    """
    if address.startswith("env:"):
        _variable(address)
        return address
    _check(address)
    if _lacks(address):
        return address
    if address.startswith(HTTP):
        parts = urlsplit(opened(address, environment))
        at = f"{MASK}@" if "@" in urlsplit(address).netloc else ""
        return f"{parts.scheme}://{at}{parts.netloc}{parts.path}"
    if shown(address) != address:
        environment[ADDRESS] = address
    return shown(address)


def opened(address: str, environment: MutableMapping[str, str] = os.environ) -> str:
    """The full address for MLflow's client; user and password of an `http` address are moved to `environment`.

    Args:
        address: As given, or as `kept`.

    Raises:
        ValueError: If it is not an address of a store, or the variable with the missing part is not set.
    """
    if address.startswith("env:"):
        name = _variable(address)
        if not environment.get(name):
            raise ValueError(
                f"must name a variable that is set, but {name} is not set: set it to the address of the store."
            )
        address = environment[name]
    _check(address)
    if address.startswith(HTTP):
        return _without_login(address, environment)
    if not _lacks(address):
        return address
    whole = environment.get(ADDRESS, "")
    if not whole or _lacks(whole) or shown(whole) != address:
        raise ValueError(
            f"must be given again: passwords are not stored in the output folder, but {address} needs one: set "
            f"{ADDRESS} to the full address."
        )
    return whole


def _without_login(address: str, environment: MutableMapping[str, str]) -> str:
    parts = urlsplit(address)
    login, at, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    if login == MASK and not (environment.get(USER) and environment.get(PASSWORD)):
        raise ValueError(
            f"needs a login, which is not stored in the output folder: set {USER} and {PASSWORD} for {shown(address)}."
        )
    if at and login != MASK:
        if not (user and password):
            raise ValueError(
                f"must contain both user and password or neither, but got {shown(address)}; "
                f"alternatively set {USER} and {PASSWORD}."
            )
        environment[USER], environment[PASSWORD] = unquote(user), unquote(password)
    return f"{parts.scheme}://{place}{parts.path}"


def _variable(address: str) -> str:
    if (found := REFERENCE.fullmatch(address)) is None:
        raise ValueError("must have the name of an environment variable after `env:`.")
    return found[1]


def _lacks(address: str) -> bool:
    """Whether the address is masked."""
    behind = address.partition("://")[2]
    return behind == MASK or behind.startswith(f"{MASK}@") or behind.endswith(f"?{MASK}")


def _check(address: str) -> None:
    """Reject addresses that MLflow would reject or misinterpret."""
    if DATABRICKS.fullmatch(address):
        return
    if not STORES.match(address):
        raise ValueError(
            "must be an address of an MLflow store (http://, https://, sqlite:///FILE, postgresql://, mysql://, "
            f"mssql://, databricks, or env:NAME for an address in a variable), but got {shown(address)!r}."
        )
    if address.startswith("sqlite:") and ("?" in address or shown(address) != address):
        raise ValueError(
            "must be sqlite:///FILE with a path without `?`, which would start a query, but got "
            f"{shown(address)}."
        )
    if address.startswith(HTTP) and not _readable(address):
        raise ValueError(
            "must be http://HOST:PORT without `?` or `#`; in a user name or password, write `/`, `?`, `#`, `@` and "
            f"spaces as %2F, %3F, %23, %40 and %20, but got {shown(address)}."
        )
    if not address.startswith((*HTTP, "sqlite:")) and not _lacks(address) and not _database(address):
        raise ValueError(
            "must be DIALECT://USER:PASSWORD@HOST:PORT/DATABASE; in a user name or password, write `@`, `:` and "
            f"`/` as %40, %3A and %2F, but got {shown(address)}."
        )


def _readable(address: str) -> bool:
    """Whether urllib parses an `http` address as that of a server."""
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return False
    return bool(host) and not (
        parts.query or parts.fragment or re.search(r"[@\s\\]", parts.path + (host or ""))
    )


def _database(address: str) -> bool:
    """Whether SQLAlchemy parses the address of a database without misinterpreting the login."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(address)
    except (ArgumentError, ValueError):
        return False
    return "@" not in f"{url.host}{url.database}"


def place_without_secret(address: str) -> str:
    """Return a storage or cluster address unchanged.

    Raises:
        ValueError: If it contains, or could contain, a secret.
    """
    if address.startswith("file:///") or not re.match(r"[A-Za-z][\w+.-]*://|(s3|gs|https?):", address):
        return address
    found = BUCKET.fullmatch(address)
    if found is None or not _harmless(found["query"] or ""):
        raise ValueError(
            "must not contain a key or password, because it is stored and shown: set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, GOOGLE_APPLICATION_CREDENTIALS or RAY_AUTH_TOKEN in the environment; `@`, `?`, `#` "
            f"and `;` are not allowed in it, but got {shown(address)}."
        )
    return address


def cluster_problems(address: str | None) -> list[str]:
    """Reason why a tracking address cannot be sent with a job: everyone who can list jobs would see its secret."""
    if address is None or not (_lacks(address) or shown(address) != address):
        return []
    if address.startswith(HTTP):
        cure = f"Omit the login, and set {USER} and {PASSWORD} in the head's ~/.bashrc."
    else:
        cure = f"Set {ADDRESS} to it in the head's ~/.bashrc, and use `--tracking-uri env:{ADDRESS}`."
    return [
        "`--tracking-uri` must not contain a password, which the cluster's job list would show, but got "
        f"{shown(address)}. {cure}"
    ]


def ui_command(address: str) -> str:
    """The command that shows the runs, or the address to open."""
    address, name = _named(address)
    if address.startswith("http"):
        return shown(address).replace(f"{MASK}@", "")
    if name:
        return f'MLFLOW_BACKEND_STORE_URI="${name}" mlflow ui --host 127.0.0.1'
    return f"mlflow ui --host 127.0.0.1 --backend-store-uri {shlex.quote(driver_uri(address))}"


def store_command(address: str, *words: str) -> str:
    """An MLflow command on the store at `address`, for a shell."""
    address, name = _named(address)
    if name:
        return f'{ADDRESS}="${name}" {shlex.join(words)}'
    return f"{ADDRESS}={shlex.quote(driver_uri(shown(address).replace(f'{MASK}@', '')))} {shlex.join(words)}"


def _named(address: str) -> tuple[str, str]:
    """An address, and the variable that replaces it in commands; empty if it may be typed."""
    name = ""
    if found := REFERENCE.fullmatch(address):
        name = found[1]
        address = os.environ.get(name, address)
    if address.startswith(HTTP):
        return address, ""
    return address, name or (ADDRESS if shown(address) != address or _lacks(address) else "")
