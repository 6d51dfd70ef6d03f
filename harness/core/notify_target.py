"""What `--notify` names: a web address, a command, or a variable that holds either; secrets stay in variables."""

import re
import shlex
import shutil
from collections.abc import Mapping
from urllib.parse import urlsplit

from harness.core.store_address import REFERENCE, shown

TOKEN_LENGTH = 16
"""Characters of a part of a path from which on it may be a key, as in the addresses of chat services."""


def notify_setting(text: str) -> str:
    """The setting as it is given, which is stored and shown.

    Raises:
        ValueError: for what is none, or a web address that contains or may contain a secret.
    """
    target(text) if not text.startswith("env:") else _name(text)
    if not re.match(r"https?://", text, re.IGNORECASE):
        return text
    parts = urlsplit(text)
    key = re.search(rf"(?=[\w-]*\d)(?=[\w-]*[A-Za-z])[\w-]{{{TOKEN_LENGTH},}}", parts.path)
    if "@" in parts.netloc or parts.query or parts.fragment or key:
        raise ValueError(
            "must not contain a login, a query or a key, because it is stored and shown: set a variable to the whole "
            f"address and use env:NAME, but got {shown(f'{parts.scheme}://{parts.netloc}')}/…"
        )
    return text


def target(text: str, environment: Mapping[str, str] | None = None) -> str | list[str]:
    """A web address as text, or the words of a command.

    Args:
        environment: Where `env:NAME` is read from.

    Raises:
        ValueError: for what is neither, or a variable that is not set; without the value of a variable in its message.
    """
    if text.startswith("env:"):
        name = _name(text)
        text = (environment or {}).get(name, "").strip()
        if not text or text.startswith("env:"):
            raise ValueError(f"needs the variable {name}, which is not set to an address or a command.")
    if re.match(r"https?://", text, re.IGNORECASE):
        try:
            parts = urlsplit(text)
            _ = parts.port
        except ValueError:
            parts = None
        if not (parts and parts.hostname) or re.search(r"[^!-~]", text):
            raise ValueError("must be an address like https://HOST/PATH without spaces.")
        return text
    if found := re.match(r"[A-Za-z][\w+.-]*:", text):
        raise ValueError(f"must be an http or https address, a command, or env:NAME, but got {found[0]}…")
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"must be a command as in a shell, but it cannot be read ({error}).") from None
    if not words:
        raise ValueError("must be an address or a command, but is empty.")
    return words


def usable_target(text: str, environment: Mapping[str, str]) -> str | list[str]:
    """As `target`, of a command that is on this machine.

    Raises:
        ValueError: also for a command that is not found; without the value of a variable in its message.
    """
    found = target(text, environment)
    if isinstance(found, list) and shutil.which(found[0]) is None:
        name = f"the command in {text}" if text.startswith("env:") else repr(found[0])
        raise ValueError(f"must name a command of this machine, but {name} is not found.")
    return found


def _name(text: str) -> str:
    if (found := REFERENCE.fullmatch(text)) is None:
        raise ValueError("must have the name of an environment variable after `env:`.")
    return found[1]
