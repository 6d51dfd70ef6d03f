"""Several hosts on one machine: network namespaces on a bridge, each with its own sshd, processes and files.

Needs root, Linux, iproute2, util-linux and openssh-server. Each host sees only its own processes (`ray stop` kills
every one that it sees) and has its own /root, /tmp, /run and /dev/shm; Python and the checkout are shown to it
where they are. Run as a script it sets hosts up until Ctrl-C:

    python tests/support/hosts.py 3
"""

import argparse
import functools
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ("ip", "unshare", "sshd", "ssh", "ssh-keygen", "rsync", "mount", "pgrep")
NAMESPACES = ("--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--mount-proc")
PROBE = """mount --make-rprivate / && mount -t tmpfs tmpfs /run && echo probe >/proc/sys/kernel/hostname
ip link add probe0 type bridge && ip link add probe1 type veth peer name probe2 && ip netns add probe"""
"""What a host needs, in a place that goes with the command."""

MADE = itertools.count()
PRIVATE = ("/root", "/run", "/dev/shm", "/tmp")  # in this order: the hosts' own folders lie below /tmp


def lacking() -> str:
    """Why there can be no hosts here, or nothing. Costs a fraction of a second."""
    if os.geteuid() != 0:
        return "needs root"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if absent:
        return f"needs {', '.join(absent)} (apt-get install openssh-server iproute2 rsync procps)"
    shared_nothing = ["unshare", "--net", *NAMESPACES, "sh", "-ec", PROBE]
    tried = subprocess.run(shared_nothing, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if tried.returncode:
        return f"needs the right to make namespaces, bridges and mounts ({tried.stderr.strip()[-200:]})"
    return ""


def skip_unless_possible() -> None:
    """Skip the test that asks for hosts where there can be none."""
    import pytest

    if why := lacking() or separated():
        pytest.skip(f"several hosts on this machine: {why}")


@functools.cache
def separated() -> str:
    """Why hosts do not reach each other, or nothing."""
    with Hosts(2) as pair:
        try:
            pair.ssh(1, f"timeout 20 bash -c '</dev/tcp/{pair.addresses[0]}/22'")
        except AssertionError:
            return "its bridges pass nothing on (a firewall for bridged traffic, as Docker's?)"
    return ""


@dataclass(frozen=True)
class Host:
    """One host: its address and the process that holds it."""

    name: str
    address: str
    process: subprocess.Popen[bytes]
    root: Path


class Hosts:
    """A bridge and its hosts. Use as a context manager.

    Args:
        count: Hosts; `hosts[0].address` ends in .2, the bridge itself (this machine) in .1.
        environment: Variables that every login shell on a host has.

    Attributes:
        home: Home folder of the account that `public` keys open.
        private: Folders that every host has for itself, in an order in which none hides the one before.
        length: Bits of the network's address.
    """

    home, private, length = "/root", PRIVATE, 24

    def __init__(self, count: int, environment: dict[str, str] | None = None) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="hosts-", dir="/tmp"))
        self.key = self.base / "key"
        made = next(MADE)  # names of its own: the last one's processes may still be dying
        number = (os.getpid() + 100 * made) % 500  # of 198.18.0.0/15, which is for tests of networks
        self._bridge, self._net = f"h{os.getpid()}n{made}", f"198.{18 + number // 250}.{number % 250}"
        self._count, self._environment = count, environment or {}
        self.all: list[Host] = []

    def __enter__(self) -> "Hosts":
        try:
            run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key))
            run("ip", "link", "add", self._bridge, "type", "bridge")
            run("ip", "addr", "add", f"{self.gateway}/{self.length}", "dev", self._bridge)
            run("ip", "link", "set", self._bridge, "up")
            for number in range(self._count):
                self.all.append(self._start(number, f"{self._net}.{number + 2}"))
            for host in self.all:
                self._wait(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self.all)):
            self.end(number)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)

    @property
    def gateway(self) -> str:
        """Address of this machine on the bridge."""
        return f"{self._net}.1"

    @property
    def public(self) -> str:
        """Keys that open an account of a host, as in `authorized_keys`."""
        return Path(f"{self.key}.pub").read_text()

    def end(self, number: int) -> None:
        """End a host with all its processes, as a cloud ends a machine."""
        host = self.all[number]
        if host.process.poll() is None:
            os.killpg(host.process.pid, signal.SIGKILL)  # unshare --kill-child takes the whole host along
        host.process.wait()
        subprocess.run(["ip", "link", "del", f"{self._bridge}v{number}"], capture_output=True)
        subprocess.run(["ip", "netns", "del", f"{self._bridge}h{number}"], capture_output=True)

    @property
    def addresses(self) -> list[str]:
        """Of every host, in order."""
        return [host.address for host in self.all]

    def ssh(self, number: int, command: str, timeout: float = 120) -> str:
        """Run a command in a login shell of a host and return what it printed."""
        options = [
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "LogLevel=ERROR",
        ]
        line = f"bash --login -c {shlex.quote(command)}"
        done = subprocess.run(
            ["ssh", *options, "-i", str(self.key), f"root@{self.all[number].address}", line],
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def cut_off(self, number: int) -> None:
        """Take a host off the network, as a pulled cable would."""
        run("ip", "link", "set", f"{self._bridge}v{number}", "down")

    def plug_in(self, number: int) -> None:
        """Bring a host back onto the network."""
        run("ip", "link", "set", f"{self._bridge}v{number}", "up")

    def kill(self, number: int, pattern: str) -> int:
        """SIGKILL processes of a host alone whose command line has `pattern`; how many."""
        found = self.ssh(number, f"pgrep -f {shlex.quote(pattern)} || true").split()
        if found:
            self.ssh(number, f"kill -9 {' '.join(found)} 2>/dev/null || true")
        return len(found)

    def _start(self, number: int, address: str) -> Host:
        name = f"{self._bridge}h{number}"
        outer, inner = f"{self._bridge}v{number}", f"{self._bridge}w{number}"
        run("ip", "netns", "add", name)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
        run("ip", "link", "set", inner, "netns", name)
        run("ip", "link", "set", outer, "master", self._bridge, "up")
        inside = ["ip", "netns", "exec", name]
        run(*inside, "ip", "addr", "add", f"{address}/{self.length}", "dev", inner)
        run(*inside, "ip", "link", "set", inner, "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "route", "add", "default", "via", self.gateway)  # Ray learns its address by it
        root = self.base / f"host{number}"
        script = root / "start.sh"
        root.mkdir()
        script.write_text(self._script(root, f"host{number}"))
        with (root / "log").open("wb") as log:
            process = subprocess.Popen(
                [*inside, "unshare", *NAMESPACES, "bash", "-eu", str(script)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Host(name, address, process, root)

    def _script(self, root: Path, name: str) -> str:
        """What a host does as its first process: its own folders, its key, sshd."""
        lines = ["mount --make-rprivate /", f"echo {name} >/proc/sys/kernel/hostname"]
        shown = shown_folders(self.private)
        for private in self.private:
            own = root / private.strip("/").replace("/", "-")
            lines.append(f"mkdir -p {own}")
            for folder in shown:
                if folder.is_relative_to(private):
                    inside = own / folder.relative_to(private)
                    lines.append(f"mkdir -p {inside} && mount --bind {folder} {inside}")
        home = root / self.home.strip("/")
        exports = "".join(f"export {key}={shlex.quote(value)}\n" for key, value in self.variables().items())
        lines += [
            f"mkdir -p -m 700 {home}/.ssh",
            f"cat >{home}/.ssh/authorized_keys <<'END'\n{self.public}END",
            f"cat >{home}/.bashrc <<'END'\n{exports}END",
            f"cp {home}/.bashrc {home}/.profile",
            *self._more(root, home),
            f"mkdir -p {root}/run/sshd",
            f"cp {self.key} {root}/run/host_key && chmod 600 {root}/run/host_key",
            f"mkdir -p {root}/dev-shm && mount -t tmpfs -o size=1g tmpfs {root}/dev-shm",
            *(f"mount --rbind {root}/{p.strip('/').replace('/', '-')} {p}" for p in self.private),
            "chmod 1777 /tmp /dev/shm",
            "exec /usr/sbin/sshd -D -e -f /dev/null -h /run/host_key -o UsePAM=no -o StrictModes=no "
            "-o PidFile=none -o MaxStartups=100 -o PermitRootLogin=yes "
            f"-o AuthorizedKeysFile={self.home}/.ssh/authorized_keys",
        ]
        return "\n".join(lines) + "\n"

    def variables(self) -> dict[str, str]:
        """What every login shell of a host exports."""
        path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {"PATH": path, "OMP_NUM_THREADS": "1", **self._environment}

    def _more(self, root: Path, home: Path) -> list[str]:
        """Further lines of the script, before the host's own folders take their places."""
        return []

    def _wait(self, host: Host) -> None:
        deadline = time.monotonic() + 120  # a busy machine
        while True:
            try:
                self.ssh(self.all.index(host), "true", timeout=30)
                return
            except (AssertionError, subprocess.TimeoutExpired) as error:
                if time.monotonic() > deadline or host.process.poll() is not None:
                    raise RuntimeError(f"{host.name}: {(host.root / 'log').read_text()}") from error
                time.sleep(0.1)


def shown_folders(private: Sequence[str] = PRIVATE) -> list[Path]:
    """Folders that hosts must see although they lie in one of their private ones."""
    wanted = {Path(sys.prefix), Path(sys.base_prefix), ROOT}
    wanted = {Path(os.path.realpath(folder)) for folder in wanted} | wanted
    return sorted(folder for folder in wanted if any(folder.is_relative_to(p) for p in private))


def run(*command: str) -> None:
    """Run a command that must work."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}: {done.stderr.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("count", type=int, nargs="?", default=3)
    if why := lacking():
        raise SystemExit(why)
    with Hosts(parser.parse_args().count) as hosts:
        print(
            f"ssh -i {hosts.key} root@ADDRESS, ADDRESS being one of {', '.join(hosts.addresses)}; Ctrl-C ends"
        )
        signal.pause()


if __name__ == "__main__":
    main()
