"""An AWS of one machine: moto answers its API, and for every instance that it starts a host of namespaces comes up.

What is replaced: AWS by moto, machines by hosts (see hosts.py) with the instance's private address and an account
`ubuntu`, `uv` and `nvidia-smi` by programs that find everything there already, and GPUs by CPUs.
"""

import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import parse_qs, urlencode

from tests.support.hosts import Hosts

REGION, ACCOUNT, UID = "us-west-2", "123456789012", 61000
KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_MAX_ATTEMPTS": "1",
}
IMAGE = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
UV = """#!/bin/sh
if [ "$1" = venv ]; then mkdir -p ~/lingo && ln -sfn {prefix} ~/lingo/venv; else test -s ~/lingo/requirements.txt; fi
"""
NO_CAPACITY = (
    "<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>"
    "<Message>There is no Spot capacity available that matches your request.</Message></Error></Errors>"
    "<RequestID>0</RequestID></Response>"
)


class Cloud(Hosts):
    """The bridge, moto on it, and the machines. Use as a context manager.

    Args:
        environment: Variables that every login shell on a machine has.

    Attributes:
        spot: Whether there is capacity for spot machines.
        asked: Market (`spot`, `on demand`), time and answer of every request for machines.
    """

    home, length = "/home/ubuntu", 16
    private = ("/root", "/home", "/run", "/dev/shm", "/tmp")

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        super().__init__(0, environment)
        self._net = "172.31"  # moto's default network; its subnets end at 172.31.63.255
        self.spot = True
        self.asked: list[tuple[str, float, bool]] = []
        self.hosts: dict[str, int] = {}
        self._over = threading.Event()
        self._server: Any = None
        self._threads: list[threading.Thread] = []

    @property
    def gateway(self) -> str:
        return "172.31.255.254"

    def __enter__(self) -> "Cloud":
        super().__enter__()
        try:
            self._server = _served(self._application(), self.gateway)
            self._image()
            for work in (self._server.serve_forever, self._keep_up):
                self._threads.append(threading.Thread(target=work, daemon=True))
                self._threads[-1].start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
        for thread in self._threads:
            thread.join(30)
        super().__exit__()

    @property
    def address(self) -> str:
        """Of the API."""
        return f"http://{self.gateway}:{self._server.port}"

    @property
    def ec2(self) -> Any:
        """moto's own state."""
        from moto.ec2.models import ec2_backends

        return ec2_backends[ACCOUNT][REGION]

    def instances(self, *states: str) -> list[Any]:
        """Machines in these states, in the order of their starts."""
        rows = [one for held in self.ec2.reservations.values() for one in held.instances]
        return [one for one in rows if one.state in (states or ("running",))]

    def workers(self, market: str) -> list[Any]:
        """Running machines beside the head: `spot` or `on demand`."""
        wanted = market == "spot"
        rows = [one for one in self.instances() if kind_of(one) == "worker"]
        return [one for one in rows if (one.lifecycle == "spot") == wanted]

    def volumes(self) -> list[str]:
        """Disks that cost money."""
        return [one.id for one in self.ec2.volumes.values() if one.status not in ("deleting", "deleted")]

    def logs(self) -> str:
        """What the head's autoscaler and keeper said last."""
        files = "/tmp/ray/session_latest/logs/monitor.* ~ubuntu/lingo/keep_head.log"
        return self.ssh(self.head(), f"tail -n 60 {files} 2>&1 || true")

    def head(self) -> int:
        """Number of the head's host."""
        (head,) = [one for one in self.instances() if kind_of(one) == "head"]
        return self.hosts[head.id]

    def take_away(self, instance: Any) -> None:
        """End a machine without notice, as AWS ends a spot machine."""
        self.ec2.terminate_instances([instance.id])

    def variables(self) -> dict[str, str]:
        return {"OMP_NUM_THREADS": "1", **KEYS, "AWS_ENDPOINT_URL": self.address, **self._environment}

    @property
    def public(self) -> str:
        return super().public + "".join(
            f"{pair.public_key.strip()}\n" for pair in self.ec2.key_pairs.values()
        )

    def _keep_up(self) -> None:
        """A host for every running instance, and none for others."""
        while not self._over.wait(0.3):
            there = {one.id: one for one in self.instances()}
            for name, instance in there.items():
                if name not in self.hosts:
                    self.all.append(self._start(len(self.all), instance.private_ip))
                    self.hosts[name] = len(self.all) - 1
            for name in self.hosts.keys() - there.keys():
                if self.all[self.hosts[name]].process.poll() is None:
                    self.end(self.hosts[name])

    def _more(self, root: Path, home: Path) -> list[str]:
        files = ("passwd", "group", "shadow")
        ids = f"{UID}:{UID}"
        rows = (f"ubuntu:x:{ids}::{self.home}:/bin/bash", f"ubuntu:x:{UID}:", "ubuntu:*:20000:0:99999:7:::")
        lines = [f"mkdir -p {home}/.local/bin"]
        for name, text in (("uv", UV.format(prefix=sys.prefix)), ("nvidia-smi", "#!/bin/sh\nexit 0\n")):
            lines.append(
                f"cat >{home}/.local/bin/{name} <<'END'\n{text}END\nchmod 755 {home}/.local/bin/{name}"
            )
        for name in (".bashrc", ".profile"):
            lines.append(f"echo 'export PATH=$HOME/.local/bin:$PATH' >>{home}/{name}")
        for name, row in zip(files, rows, strict=True):
            lines.append(
                f"{{ grep -v ^ubuntu: /etc/{name} || true; echo {shlex.quote(row)}; }} >{root}/{name}"
            )
            lines.append(f"mount --bind {root}/{name} /etc/{name}")
        return [*lines, f"chown -R {ids} {home}"]

    def _application(self) -> Any:
        from moto.server import DomainDispatcherApplication, create_backend_app

        moto = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start: Any) -> Any:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            form = parse_qs(body.decode(errors="replace"))
            if form.get("Action") == ["RunInstances"]:
                market = "spot" if form.get("InstanceMarketOptions.MarketType") == ["spot"] else "on demand"
                given = self.spot or market != "spot"
                self.asked.append((market, time.time(), given))
                if not given:
                    start("500 Internal Server Error", [("Content-Type", "text/xml")])
                    return [NO_CAPACITY.encode()]
                # AWS starts as many as there are up to MaxCount, moto MinCount
                form["MinCount"] = form["MaxCount"]
                body = urlencode(form, doseq=True).encode()
            return moto({**environ, "wsgi.input": BytesIO(body), "CONTENT_LENGTH": str(len(body))}, start)

        return answer

    def _image(self) -> None:
        """The name of AWS's image, which moto lacks, for one of moto's own."""
        from moto.ssm.models import Parameter, ssm_backends

        image = next(iter(self.ec2.amis))
        parameter = Parameter(
            account_id=ACCOUNT,
            name=IMAGE,
            value=image,
            parameter_type="String",
            description=None,
            allowed_pattern=None,
            keyid=None,
            last_modified_date=datetime.now(),
            version=1,
            data_type="text",
        )
        ssm_backends[ACCOUNT][REGION]._parameters[IMAGE] = [parameter]


def skip_unless_free() -> None:
    """Skip the test where this machine is in a network of moto's addresses, such as AWS's own default network."""
    import pytest

    listed = subprocess.run(["ip", "-o", "-4", "addr"], capture_output=True, text=True).stdout
    if " 172.31." in listed:
        pytest.skip("this machine has an address in 172.31.0.0/16, the network of moto's machines")


def kind_of(instance: Any) -> str:
    """`head` or `worker`."""
    return {tag["key"]: tag["value"] for tag in instance.get_tags()}.get("ray-node-type", "")


def _served(application: Any, address: str) -> Any:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Silent(WSGIRequestHandler):
        def log(self, *_: Any) -> None:
            pass

    return make_server(address, 0, application, threaded=True, request_handler=Silent)


@contextmanager
def cloud(environment: dict[str, str] | None = None) -> Iterator[Cloud]:
    """A fresh AWS: moto keeps its state for the life of a process."""
    with mock.patch.dict(os.environ, {"MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}):
        from moto.core.models import reset_model_data

        with Cloud(environment) as made:
            try:
                yield made
            finally:
                reset_model_data()
