"""A real Slurm on this machine: its controller here, one of its daemons on each host of `tests.support.hosts`.

Needs `apt-get install slurmctld slurmd slurm-client munge` beside what the hosts need.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.hosts import Hosts

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "salloc", "srun", "scontrol", "squeue", "munged")
CONF = """ClusterName=test
SlurmctldHost={name}({address})
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
StateSaveLocation={base}/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=bf_interval=2,sched_interval=2
SchedulerType=sched/builtin
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobRequeue=1
KillWait=10
OverTimeLimit=0
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def lacking() -> str:
    """Why there can be no Slurm here, or nothing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    absent = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return (
        f"needs {', '.join(absent)} (apt-get install slurmctld slurmd slurm-client munge)" if absent else ""
    )


class Slurm:
    """Slurm's daemons on `hosts`, and a folder that all hosts share. Use as a context manager.

    Attributes:
        base: The shared folder; jobs are submitted in `base / "work"`, with `base / "home"` as their home folder.
    """

    def __init__(self, hosts: Hosts, cpus: int = 1) -> None:
        self.hosts, self._cpus = hosts, cpus
        self.base = Path(tempfile.mkdtemp(prefix="slurm-", dir="/var/tmp"))
        self._here: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(self.base / "slurm.conf")}
        self.environment["PATH"] += ":/usr/sbin:/sbin"

    def __enter__(self) -> "Slurm":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self) -> None:
        self.base.chmod(0o755)
        for name in ("state", "work", "home"):
            (self.base / name).mkdir()
        key = self.base / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)
        address = self.hosts.addresses[0].rpartition(".")[0] + ".1"
        nodes = "\n".join(
            f"NodeName=host{number} NodeAddr={one} CPUs={self._cpus} State=UNKNOWN"
            for number, one in enumerate(self.hosts.addresses)
        )
        port = 20000 + os.getpid() % 10000
        text = CONF.format(
            name=os.uname().nodename,
            address=address,
            base=self.base,
            nodes=nodes,
            port=port,
            node_port=port + 1,
        )
        (self.base / "slurm.conf").write_text(text)
        (self.base / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        names = "".join(f"{one} host{number}\n" for number, one in enumerate(self.hosts.addresses))
        (self.base / "hosts").write_text(f"127.0.0.1 localhost\n{names}")
        munged = ["munged", "--foreground", "--force", f"--socket={self.base}/munge.socket"]
        munged += [f"--key-file={key}", f"--pid-file={self.base}/munged.pid", f"--seed-file={self.base}/seed"]
        self._run([*munged, f"--log-file={self.base}/munged.log"])
        self._run(["slurmctld", "-D", "-c", "-f", str(self.base / "slurm.conf")])
        for number in range(len(self.hosts.all)):
            mounts = f"mount -t tmpfs tmpfs /sys/fs/cgroup && mount --bind {self.base}/hosts /etc/hosts"
            start = (
                f"export SLURM_CONF={self.base}/slurm.conf && mkdir -p /run/slurmd && slurmd -N host{number}"
            )
            self.hosts.ssh(number, f"{mounts} && {start}")
        deadline = time.monotonic() + 120
        while (
            "idle" not in (said := self.said("sinfo", "--noheader", "--format=%T %D"))
            or str(len(self.hosts.all)) not in said
        ):
            if time.monotonic() > deadline:
                logs = "\n".join(path.read_text()[-1500:] for path in self.base.glob("*.log"))
                raise RuntimeError(f"Slurm does not come up: {said}\n{logs}")
            time.sleep(0.5)

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._here):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(self.base, ignore_errors=True)

    def _run(self, command: Sequence[str]) -> None:
        with (self.base / f"{command[0]}.out").open("wb") as log:
            self._here.append(subprocess.Popen(command, stdout=log, stderr=log, env=self.environment))

    def said(self, *command: str, **environment: str) -> str:
        """A command of Slurm here, in the shared folder of work; what it printed."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=self.environment_of(**environment),
            cwd=self.base / "work",
            timeout=600,
        )
        return done.stdout + done.stderr

    def environment_of(self, **environment: str) -> dict[str, str]:
        """The environment of a command, with what is given."""
        return {**self.environment, "HOME": str(self.base / "home"), **environment}

    def state(self, job: str) -> dict[str, str]:
        """What the controller says of a job."""
        text = self.said("scontrol", "--oneliner", "show", "job", job)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)
