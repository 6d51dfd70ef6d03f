"""Copies of an output folder: a folder here; a bucket where moto is installed."""

import json
import socket
import subprocess
import sys
import time

import pytest

from harness.core.errors import InputError
from harness.runs.mirror import MANIFEST, Copy, connect, copied, storage_problems


def run_folder(tmp_path):
    out = tmp_path / "run"
    for name in ("records", "data", "adapters/a"):
        (out / name).mkdir(parents=True)
    (out / "records" / "one.json").write_text("{}")
    (out / "records" / ".half.json.tmp").write_text("{")
    (out / "data" / "big").write_text("prepared")
    (out / "adapters" / "a" / "w").write_bytes(bytes(range(256)) * 50_000)
    return out


def check_round(tmp_path, uri):
    out = run_folder(tmp_path)
    assert storage_problems(uri) == []
    copy = Copy(out, uri)
    assert copy.push() == 2 and copy.push() == 0
    (out / "records" / "one.json").write_text('{"changed": 1}')
    (out / "records" / "two.json").write_text("{}")
    assert copy.push() == 2
    assert Copy(out, uri).push() == 0  # another process knows what is there
    home = tmp_path / "home" / "run"
    home.mkdir(parents=True)
    assert Copy(home, uri).pull() == 3
    for name in ("records/one.json", "records/two.json", "adapters/a/w"):
        assert (home / name).read_bytes() == (out / name).read_bytes()
    assert not (home / "data").exists()
    return out, home


def test_a_folder_as_storage(tmp_path):
    _, home = check_round(tmp_path, str(tmp_path / "store"))
    (tmp_path / "store" / "run" / "records" / "two.json").write_text("spoiled")
    with pytest.raises(InputError, match=r"two\.json"):
        Copy(home, str(tmp_path / "store")).pull()
    assert (home / "records" / "two.json").read_text() == "{}"
    manifest = tmp_path / "store" / "run" / MANIFEST
    manifest.write_text(json.dumps({"../../evil": "0"}))
    with pytest.raises(InputError, match="outside"):
        Copy(home, str(tmp_path / "store")).pull()


def test_what_is_copied_while_a_run_lasts(tmp_path):
    out = run_folder(tmp_path)
    with copied(out, str(tmp_path / "store")):
        (out / "records" / "late.json").write_text("{}")
    assert (tmp_path / "store" / "run" / "records" / "late.json").is_file()
    with copied(out, None):
        pass


def test_a_storage_that_refuses_costs_a_warning(tmp_path):
    out, said = run_folder(tmp_path), []
    (tmp_path / "file").write_text("")
    with copied(out, str(tmp_path / "file" / "below"), said.append):
        pass
    assert len(said) == 1 and "not copied to" in said[0]
    assert storage_problems(str(tmp_path / "file" / "below"))


@pytest.mark.parametrize("uri", ["nothing://x/y"])
def test_no_storage_address(uri):
    with pytest.raises(InputError, match="--storage-path"):
        connect(uri)


@pytest.fixture(scope="module")
def bucket():
    """A bucket of moto's S3 server on loopback."""
    pytest.importorskip("moto", reason="moto is not installed (pip install 'lingo-bench[test]')")
    boto3 = pytest.importorskip("boto3")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    settings = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
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
            boto3.client("s3").create_bucket(Bucket="results")
            yield "s3://results/lab"
        finally:
            server.terminate()
            server.wait(10)


@pytest.mark.slow
def test_a_bucket_as_storage(bucket, tmp_path):
    check_round(tmp_path, bucket)


@pytest.mark.slow
def test_a_bucket_that_is_not_there(bucket):
    (line,) = storage_problems("s3://nobodys-bucket/x")
    assert line.startswith("`--storage-path` s3://nobodys-bucket/x: must be writable")
