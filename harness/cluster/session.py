"""Session of a benchmark on a cluster, stored in its local output folder: enough to reconnect, without secrets."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness.cluster.jobs_api import Jobs
from harness.cluster.ssh import Remote, Tunnels
from harness.core.atomic_files import write_whole
from harness.core.errors import InputError
from lingo.text_files import read_json

FILE = "cluster.json"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A benchmark on a cluster.

    Attributes:
        out: Its local output folder.
        address: Of the Jobs API of an existing cluster; empty for a started one.
        file: The cluster file as used, in the output folder; empty for an existing cluster.
        source: The cluster file given by the user.
        name, provider: Of the cluster.
        nodes: Maximum number of nodes, including the head.
        always: Number of nodes when idle.
        hourly: Maximum cost per hour, in US dollars; `None` if unknown.
        head_price, worker_price: Price per hour of the head, and of the most expensive other machine type.
        started: When the first machine was requested, in seconds since 1970.
        host, user, key: SSH access to the head; empty before it is up.
        folder: Output folder on the head.
        job: Job id; empty before submission.
        teardown: Whether to terminate the cluster at the end, as given at the start; `None` asks.
    """

    out: Path
    address: str = ""
    file: str = ""
    source: str = ""
    name: str = ""
    provider: str = ""
    nodes: int = 0
    always: int = 1
    hourly: float | None = None
    head_price: float | None = None
    worker_price: float | None = None
    started: float = 0.0
    host: str = ""
    user: str = ""
    key: str | None = None
    folder: str = ""
    job: str = ""
    teardown: bool | None = None

    @property
    def remote(self) -> Remote:
        """The head."""
        return Remote(
            host=self.host, user=self.user, key=self.key, known_hosts=self.out / "cluster" / "known_hosts"
        )

    def save(self, **changes: Any) -> "Session":
        """This session with changes, saved."""
        changed = replace(self, **changes)
        self.out.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**asdict(changed), "out": str(self.out)}, indent=1) + "\n"
        write_whole(self.out / FILE, text, mode=0o600)
        return changed


def load_session(out: Path) -> Session:
    """The session of an output folder.

    Raises:
        InputError: If there is none.
    """
    path = out / FILE
    try:
        values = read_json(path)
        return Session(**{**values, "out": out.resolve()})
    except OSError:
        raise InputError(
            f"{out}: is not the output folder of a benchmark on a cluster (no {FILE})."
        ) from None
    except (ValueError, TypeError):
        raise InputError(f"{path}: cannot be read.") from None


def use_token(*, of_its_own: bool = False) -> None:
    """Let this process and its children use the token; create one if this account has none.

    Ray reads these settings when it is imported, so this must come first.

    Args:
        of_its_own: For an existing cluster, whose token may be in `RAY_AUTH_TOKEN`; machines started here receive the
            token of the file.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    if not of_its_own:
        os.environ.pop("RAY_AUTH_TOKEN", None)
    elif os.environ.get("RAY_AUTH_TOKEN"):
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    path = token_path()
    if not path.is_file():
        ray = Path(sys.executable).parent / "ray"
        subprocess.run([str(ray), "get-auth-token", "--generate"], check=True, capture_output=True)
    path.chmod(0o600)


def token_path() -> Path:
    """Path where Ray looks for the token."""
    return Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))


DASHBOARD, MLFLOW = 8265, 5000


class connection:
    """The Jobs API of a session and the local ports of its tunnels. Use as a context manager."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._tunnels: Tunnels | None = None

    def __enter__(self) -> tuple[Jobs, dict[int, int]]:
        if self._session.address:
            return Jobs(self._session.address), {}
        self._tunnels = Tunnels(self._session.remote, (DASHBOARD, MLFLOW))
        ports = self._tunnels.__enter__().ports
        try:
            return Jobs(f"http://127.0.0.1:{ports[DASHBOARD]}"), ports
        except BaseException:
            self._tunnels.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        if self._tunnels is not None:
            self._tunnels.__exit__()
