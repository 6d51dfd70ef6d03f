"""Running programs locally and on other hosts: SSH to a cluster's head, tunnels on loopback, rsync."""

import io
import logging
import os
import shlex
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.errors import InputError

OPTIONS = (
    "-oStrictHostKeyChecking=accept-new",
    "-oBatchMode=yes",
    "-oConnectTimeout=15",
    "-oServerAliveInterval=15",
    "-oServerAliveCountMax=4",
    "-oLogLevel=ERROR",
)

TUNNEL_TRIES = 3


class ShellError(RuntimeError):
    """A program failed; the message is one line for the user."""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """An account on another host.

    Attributes:
        key: File of the private key; with `None` ssh selects it.
        known_hosts: File of host keys; the first key of a host is stored and must not change.
        prefix: Commands at the start of every remote shell.
    """

    host: str
    user: str
    key: str | None
    known_hosts: Path
    prefix: str = "export RAY_AUTH_MODE=token PATH=$HOME/lingo/venv/bin:$PATH; "

    @property
    def ssh(self) -> list[str]:
        """The ssh command, up to the host name."""
        options = [*OPTIONS, f"-oUserKnownHostsFile={self.known_hosts}"]
        return ["ssh", *options, *(["-i", str(Path(self.key).expanduser())] if self.key else [])]

    @property
    def name(self) -> str:
        return f"{self.user}@{self.host}"

    def command(self, line: str) -> list[str]:
        """The command that runs `line` in a remote login shell."""
        return [*self.ssh, self.name, f"bash --login -c {shlex.quote(self.prefix + line)}"]

    def run(self, line: str, *, timeout: float = 300, what: str | None = None) -> str:
        """Run a command line there and return its output.

        Args:
            what: Description of the line for error messages; by default the line itself.

        Raises:
            ShellError: If it fails or takes longer than `timeout` seconds.
        """
        return run(self.command(line), timeout=timeout, what=what or f"{self.host}: {line}")

    def push(self, local: Path, folder: str, *, exclude: Sequence[str] = (), exact: bool = False) -> None:
        """Copy the contents of a local folder, or a file, into the remote `folder`; links by what they point to.

        Args:
            exact: Make the folder a copy of the local one, without other files, and compare every file's content.

        Raises:
            ShellError: If it fails, or if with `exact` a file is not the same afterwards.
        """
        source = f"{local}/" if local.is_dir() else str(local)
        self.run(f"mkdir -p {shlex.quote(folder)}")
        options = ["--copy-links", *(f"--exclude={pattern}" for pattern in exclude)]
        options += ["--delete"] if exact and local.is_dir() else []
        ends = [source, f"{self.name}:{folder}/"]
        self._rsync([*options, *ends])
        if exact:
            compare = ["--checksum", "--dry-run", "--omit-dir-times", "--out-format=%n"]
            if differing := self._rsync([*options, *compare, *ends]).split("\n", 1)[0]:
                raise ShellError(
                    f"{local}: {differing} differs on {self.host} after it was sent; send it again."
                )

    def pull(self, folder: str, local: Path, *, exclude: Sequence[str] = ()) -> None:
        """Copy the contents of the remote `folder` into a local folder; additional local files are kept."""
        local.mkdir(parents=True, exist_ok=True)
        skip = [f"--exclude={pattern}" for pattern in exclude]
        self._rsync([*skip, f"{self.name}:{folder}/", f"{local}/"])

    def _rsync(self, arguments: list[str]) -> str:
        """Run rsync and return its output; files belong to the account that receives them."""
        shell = " ".join(shlex.quote(part) for part in self.ssh)
        usual = ["--archive", "--no-owner", "--no-group", "--compress", "--partial"]
        odd = any(
            shlex.quote(end) != end for end in arguments[-2:]
        )  # versions before 3.2.4 split such names there
        usual += ["--protect-args"] if odd else []
        return run(["rsync", *usual, "-e", shell, *arguments], timeout=3600, what="rsync")


def run(
    command: Sequence[str],
    *,
    timeout: float,
    what: str = "",
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program locally and return its output.

    Raises:
        ShellError: If it does not exist, fails, or takes longer than `timeout` seconds.
    """
    what = what or shlex.join(command[:2])
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            env=None if environment is None else {**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        raise ShellError(f"{what}: no end within {timeout:.0f} s.") from None
    except OSError as error:
        raise ShellError(f"{what}: {error.strerror}.") from None
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1]
        raise ShellError(f"{what}: {last[:300]} (exit code {done.returncode})")
    return done.stdout


def stream(
    command: Sequence[str], log: Path, environment: Mapping[str, str], on_line: Callable[[str], None]
) -> int:
    """Run a program, writing its output to a file and, line by line, to `on_line`; returns its exit code."""
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**os.environ, **environment},
        )
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            on_line(line.rstrip())
        return process.wait()


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the logs and output of Ray's launcher, which are irrelevant to users here."""
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)


@dataclass
class Tunnels:
    """Forwards ports of a remote host's loopback to the local one. Use as a context manager.

    Attributes:
        ports: Remote port to local port, once entered.
    """

    remote: Remote
    wanted: Sequence[int]
    ports: dict[int, int] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Tunnels":
        for _ in range(TUNNEL_TRIES):
            if self._open():
                return self
            self.__exit__()
        raise ShellError(f"no SSH tunnel to {self.remote.name} could be opened.")

    def _open(self) -> bool:
        """Start ssh, and wait until a port answers; another program may have taken one meanwhile."""
        self.ports = {port: free_port(port) for port in self.wanted}
        pairs = [f"-L127.0.0.1:{here}:127.0.0.1:{there}" for there, here in self.ports.items()]
        command = [*self.remote.ssh, "-N", "-oExitOnForwardFailure=yes", *pairs, self.remote.name]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches only this program, which ends the tunnel itself
        )
        deadline = time.monotonic() + 30
        first = next(iter(self.ports.values()))
        while time.monotonic() < deadline and self.alive():
            with suppress(OSError), socket.create_connection(("127.0.0.1", first), timeout=1):
                return self.alive()  # and not another program's port
            time.sleep(0.1)
        return False

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(5)

    def alive(self) -> bool:
        """Whether the tunnel is open."""
        return self._process is not None and self._process.poll() is None


def quoted(word: str) -> str:
    """A word for the shell of another host; `~/` at its start is the home folder there."""
    return f"~/{shlex.quote(word[2:])}" if word.startswith("~/") else shlex.quote(word)


def free_port(wanted: int) -> int:
    """The port itself if it is free on loopback, else any free one."""
    for port in (wanted, 0):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise InputError("there is no free port on this machine's loopback address.")
