"""`run_benchmark.py --cluster aws.yaml` itself against moto's AWS: what it refuses, all at once, and how it ends."""

import copy
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from harness.cli.main import app
from harness.cluster import launch
from harness.cluster.session import load_session

pytestmark = pytest.mark.slow
QUICK = ["--suite", "quickstart"]
MADE = """
import sys, boto3, yaml
config = yaml.safe_load(open(sys.argv[-1]))
head = config["available_node_types"]["head"]["node_config"]
tags = [{{"Key": "ray-cluster-name", "Value": config["cluster_name"]}}]
boto3.client("ec2", region_name="us-west-2").run_instances(
    ImageId=head["ImageId"], InstanceType=head["InstanceType"], MinCount=1, MaxCount=1,
    BlockDeviceMappings=[{{"DeviceName": "/dev/sda1", "Ebs": {{"VolumeSize": 8, "DeleteOnTermination": {gone}}}}}],
    TagSpecifications=[{{"ResourceType": "instance", "Tags": tags}}],
)
print("Error: the head did not answer")
sys.exit(1)
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty folder to work in."""
    folder = tmp_path / "place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr("harness.cluster.providers.aws.my_address", lambda: "203.0.113.7")
    return folder


def written(file, folder, change=lambda config: None):
    config = copy.deepcopy(file.config)
    change(config)
    path = folder.parent / "mine.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def done(*arguments, text=""):
    """Exit code and all that was printed, by the command itself; a traceback fails."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result.exit_code, result.output


@pytest.fixture
def answering():
    """A server that answers everything with one code and text; its address."""
    servers = []

    def serve(code, text, kind="text/xml"):
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()


def refusal(code, text):
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>{text}</Message></Error></ErrorResponse>"


def test_everything_that_is_wrong_at_once(file, place, monkeypatch, answering):
    def spoil(config):
        types = config["available_node_types"]
        types["head"]["node_config"]["ImageId"] = "ami-0000000000"
        types["gpu-spot"]["node_config"].update(InstanceType="g99.huge", KeyNam="x")
        config["provider"].update(availability_zone="us-east-1a", regoin="x")
        config["idle_timeout_minutes"] = "soon"
        config["upscaling_sped"] = 1
        config["file_mounts"]["~/x"] = "nowhere/x"

    quota = '{"Quota": {"QuotaCode": "L-1216C47A", "Value": 4.0}}'
    monkeypatch.setenv("AWS_ENDPOINT_URL_SERVICE_QUOTAS", answering(200, quota, "application/x-amz-json-1.1"))
    path = written(file, place, spoil)
    options = ["--tasks", "EMP/H33", "--models", "quickstart-opt", "--epochs", "0"]
    code, printed = done("--cluster", path, *options, "--storage-path", "s3://no-such-bucket-here/x", "--yes")
    assert code == 2, printed
    for part in (
        "`--tasks` must name known tasks",
        "`--epochs` must be at least 1",
        "`idle_timeout_minutes` must be a number, but got 'soon'",
        "`upscaling_sped` is not a setting of Ray. Nearest known: upscaling_speed",
        "`provider.regoin` is not a setting of Ray. Nearest known: region",
        "nowhere/x does not exist",
        "node_config.KeyNam` is not a setting of EC2 instances. Nearest known: KeyName",
        "no price for g99.huge spot",
        "us-west-2 has no zone us-east-1a",
        "image ami-0000000000 does not exist in us-west-2",
        "us-west-2 does not offer machine type g99.huge",
        "8 vCPUs of m6i.2xlarge, but the account's on-demand quota (L-1216C47A) is 4",
        "the bucket does not exist",
    ):
        assert part in printed, printed
    count = int(re.match(r"(\d+) problems; nothing was started", printed)[1])
    assert count == len(printed.strip().splitlines()) - 1 and not list(place.iterdir())


@pytest.mark.parametrize(
    "code,says",
    [
        ("ExpiredToken", "are expired"),
        ("InvalidClientTokenId", "are refused"),
        ("AccessDenied", "are refused"),
    ],
)
def test_credentials_that_are_no_good(file, place, monkeypatch, answering, code, says):
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", answering(403, refusal(code, "The security token …")))
    exit_code, printed = done("--cluster", written(file, place), *QUICK, "--yes")
    assert exit_code == 2 and f"AWS: these credentials {says} ({code}" in printed, printed
    assert printed.count("AWS:") == 1 and not list(place.iterdir())


@pytest.mark.parametrize(
    "changes,says",
    [
        ({"AWS_PROFILE": "nobody"}, "The config profile (nobody) could not be found"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, "no credentials on this machine"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "us-west-2 does not answer"),
    ],
)
def test_no_account_to_ask(file, place, monkeypatch, changes, says):
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name, value in changes.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    code, printed = done("--cluster", written(file, place), *QUICK, "--yes")
    assert code == 2 and says in printed and printed.startswith("1 problem;"), printed


def test_an_unknown_region_is_told_without_asking(file, place):
    path = written(file, place, lambda config: config["provider"].update(region="us-wset-2"))
    for more in (["--dry-run"], ["--yes"]):
        code, printed = done("--cluster", path, *QUICK, *more)
        assert code == 2 and "us-wset-2 is not an AWS region. Nearest known: us-west-2" in printed, printed
        assert printed.startswith("1 problem;")


def test_a_right_no_is_asked_for_by_its_name(file, place, monkeypatch, answering):
    error = "<Error><Code>UnauthorizedOperation</Code><Message>no</Message></Error>"
    denied = f"<Response><Errors>{error}</Errors></Response>"
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", answering(403, denied))
    code, printed = done("--cluster", written(file, place), *QUICK, "--yes")
    assert code == 2 and "UnauthorizedOperation" in printed and "Traceback" not in printed, printed


def test_up_to_the_question_nothing_is_asked_for(aws, file, place):
    before = len(running(aws))
    code, printed = done("--cluster", written(file, place), *QUICK, text="n\n")
    assert code == 1 and "Start? [y/N]" in printed and "Nothing was started" in printed, printed
    assert "at most $8.21 an hour" in printed and len(running(aws)) == before and not list(place.iterdir())


def running(aws):
    rows = aws("ec2").describe_instances()["Reservations"]
    return [one for row in rows for one in row["Instances"] if one["State"]["Name"] in ("pending", "running")]


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    """In place of `ray`: `up` starts the head's machine and breaks off, `down` does nothing but break off."""

    def put(disks_go=True):
        (tmp_path / "up.py").write_text(MADE.format(gone=disks_go))
        script = tmp_path / "ray"
        lines = [
            "#!/bin/sh",
            f'if [ "$1" = up ]; then exec {sys.executable} {tmp_path}/up.py "$@"; fi',
            'if [ "$1" = down ]; then echo "Error: cut off in the middle"; exit 3; fi',
            "exit 0",
        ]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        monkeypatch.setattr(launch, "RAY", str(script))
        monkeypatch.setattr(launch, "GONE_S", 1.0)
        monkeypatch.setattr(launch, "DISKS_S", 1.0)
        monkeypatch.setattr(launch, "POLL_S", 0.3)

    return put


@pytest.mark.parametrize("wish", [["--teardown"], []])
def test_a_start_that_fails_leaves_no_bill(aws, file, place, launcher, wish):
    launcher()
    out = place / "run"
    code, printed = done("--cluster", written(file, place), *QUICK, "--out", out, "--yes", *wish)
    assert code == 1 and "`ray up` failed: Error: the head did not answer" in printed, printed
    for part in ("`ray down` ended with exit code 3", "terminating them again", "nothing is left"):
        assert part in printed, printed
    assert running(aws) == [] and load_session(out).host == "" and load_session(out).file == ""
    code, printed = done("stop", out, "--teardown")
    assert code == 2 and "already terminated" in printed


def test_ctrl_c_in_the_middle_of_a_start_says_how_to_end_it(aws, file, place, monkeypatch):
    def pressed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "stream", pressed)
    code, printed = done("--cluster", written(file, place), *QUICK, "--out", place / "run", "--yes")
    assert code == 130 and f"stop {place}/run --teardown" in printed.replace("\n", ""), printed


def test_kept_as_wished_and_ended_by_stop(aws, file, place, launcher):
    launcher()
    out = place / "run"
    code, printed = done("--cluster", written(file, place), *QUICK, "--out", out, "--yes", "--no-teardown")
    assert code == 1 and f"stop {out} --teardown" in printed and len(running(aws)) == 1, printed
    code, printed = done("stop", out, "--teardown")
    assert code == 0 and "nothing is left" in printed and running(aws) == [], printed


def test_a_disk_that_stays_is_named(aws, file, place, launcher):
    launcher(disks_go=False)
    command = ["--cluster", written(file, place), *QUICK, "--out", place / "run", "--yes", "--teardown"]
    code, printed = done(*command)
    volumes = [row["VolumeId"] for row in aws("ec2").describe_volumes()["Volumes"]]
    assert code == 1 and any(f"disk {name} still exists" in printed for name in volumes), printed
    assert "nothing is left" not in printed
    for name in volumes:
        aws("ec2").delete_volume(VolumeId=name)


def test_without_an_address_nothing_is_started(aws, file, place, monkeypatch):
    from harness.core.errors import InputError

    def nowhere():
        raise InputError("the public address of this machine cannot be determined")

    monkeypatch.setattr("harness.cluster.providers.aws.my_address", nowhere)
    code, printed = done("--cluster", written(file, place), *QUICK, "--out", place / "run", "--yes")
    assert code == 2 and "nothing was started" in printed and not list(place.iterdir()), printed
    assert running(aws) == [] and Path(place).is_dir()
