"""moto's AWS on loopback, for the tests of clusters/aws.yaml."""

import copy
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cluster.file import ClusterFile, read_cluster

FILE = Path(__file__).resolve().parents[2] / "clusters" / "aws.yaml"
REGION = "us-west-2"


def forget_clients():
    """Ray keeps its AWS clients for the life of a process; those of another module's server lead nowhere."""
    from ray.autoscaler._private.aws import config, utils
    from ray.autoscaler._private.providers import _clear_provider_cache

    _clear_provider_cache()
    for cached in (utils.resource_cache, utils.client_cache, config._get_subnets_or_die):
        cached.cache_clear()


@pytest.fixture(scope="module")
def aws(tmp_path_factory):
    """Makes clients of moto's server, to which this process's environment points; a home folder for Ray's key."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("moto", reason="moto is not installed (pip install 'lingo-bench[test]')")
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "MOTO_IAM_LOAD_MANAGED_POLICIES": "true"}
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_MAX_ATTEMPTS": "2",
            "HOME": str(tmp_path_factory.mktemp("home")),
        }.items():
            patch.setenv(name, value)
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline and server.poll() is None
                    time.sleep(0.2)
            forget_clients()
            yield lambda service: boto3.client(service, region_name=REGION)
        finally:
            forget_clients()
            server.terminate()
            server.wait(60)


@pytest.fixture(scope="module")
def file(aws):
    """The file with an image that moto knows; its own name of an image is AWS's alone."""
    read = read_cluster(FILE)
    config = copy.deepcopy(read.config)
    image = aws("ec2").describe_images()["Images"][0]["ImageId"]
    for kind in config["available_node_types"].values():
        assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/")
        kind["node_config"]["ImageId"] = image
    return ClusterFile(path=read.path, config=config, kinds=read.kinds)
