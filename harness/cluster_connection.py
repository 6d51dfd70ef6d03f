"""The way to a running cluster: its Jobs API, through SSH tunnels on loopback where this program started it."""

from harness.cluster_jobs import Jobs
from harness.cluster_session import Session
from harness.cluster_shell import Tunnels

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
