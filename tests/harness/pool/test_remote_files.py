"""Files between hosts: blocks, digests, one copy a host, whole or not at all."""

import os
import shutil
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from harness.pool.remote_files import BLOCK, Entry, FileHost, ShippedFiles, entries, serve_files


def folder_with(path, **files):
    path.mkdir(parents=True)
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def tree(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in Path(path).rglob("*") if p.is_file()}


def put(host, name, token, source):
    for entry in entries(source):
        content = (source / entry.name).read_bytes()
        for start in range(0, max(len(content), 1), BLOCK):
            host.write(name, token, entry.name, start, content[start : start + BLOCK])


def test_a_folder_arrives_whole_and_repeating_does_no_harm(tmp_path):
    source = folder_with(tmp_path / "from", big=os.urandom(2 * BLOCK + 7), empty=b"", small=b"x")
    host = FileHost(str(tmp_path))
    wanted = entries(source)
    for _ in range(2):
        put(host, "to/here", "t", source)
    assert not (tmp_path / "to/here").exists()
    host.finish("to/here", "t", wanted)
    host.finish("to/here", "t", wanted)
    assert tree(tmp_path / "to/here") == tree(source)
    assert [p.name for p in (tmp_path / "to").iterdir()] == ["here"]


@pytest.mark.parametrize("fault", ["flipped", "short", "missing", "more"])
def test_what_did_not_arrive_whole_replaces_nothing(tmp_path, fault):
    source = folder_with(tmp_path / "from", a=b"a" * 100, b=b"b")
    old = folder_with(tmp_path / "to", a=b"old")
    host, wanted = FileHost(str(tmp_path)), entries(source)
    put(host, "to", "t", source)
    staged = tmp_path / ".to.t.part"
    if fault == "flipped":
        (staged / "a").write_bytes(b"a" * 99 + b"b")
    elif fault == "short":
        (staged / "a").write_bytes(b"a" * 99)
    elif fault == "missing":
        (staged / "b").unlink()
    else:
        (staged / "c").write_bytes(b"")
    with pytest.raises(OSError, match="completely"):
        host.finish("to", "t", wanted)
    assert tree(old) == {"a": b"old"}


def test_a_file_an_empty_folder_and_names(tmp_path):
    host = FileHost(str(tmp_path))
    (tmp_path / "one").write_bytes(b"1")
    host.write("new/one", "t", "", 0, b"1")
    host.finish("new/one", "t", entries(tmp_path / "one"))
    host.finish("new/none", "u", [])
    assert host.names("new") == ["none", "one"] and host.names("absent") == []
    assert host.entries("new/one") == [
        Entry("", 1, "6b86b273ff34fce19d6b804eff5a3f5747ada4eaa22f1d49c01e52ddb7875b4b")
    ]
    assert host.entries("facebook/opt-125m") is None  # a name of the hub, no path
    with pytest.raises(OSError):
        host.entries(str(tmp_path / "absent"))
    host.remove("new")
    assert host.names("new") == []


@ray.remote(num_cpus=0)
def at_work(files, data, out):
    """A worker on another host: reads what the driver has, sends what it made."""
    node = ray.get_runtime_context().get_node_id()
    copy = files.fetch(data)
    again = files.fetch(data)
    made = files.place(out)
    made.mkdir()
    (made / "adapter").write_bytes((copy / "big").read_bytes()[::-1])
    files.send(made, out)
    single = files.place(f"{out}.parquet")
    single.write_bytes(b"scores")
    files.send(single, f"{out}.parquet")
    said = []
    for absent in (f"{data}/absent",):
        try:
            files.fetch(absent)
        except OSError as error:
            said.append(str(error))
    names = files.names(str(Path(out).parent))
    files.remove(f"{out}.parquet")
    hub = str(files.fetch("opt-125m"))
    return str(copy), copy == again, names, said, hub, node, made.exists()


@pytest.fixture(scope="module")
def two_nodes():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        ray.init(cluster.address, log_to_driver=False, logging_level="ERROR")
        other = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield other.node_id
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.ray
def test_a_worker_on_another_host(two_nodes, tmp_path):
    data = folder_with(tmp_path / "data", big=os.urandom(3 * BLOCK + 1), recipe=b"{}")
    (data / "deep").mkdir()
    (data / "deep" / "file").write_bytes(b"deep")
    files = serve_files(ray.get_runtime_context().get_node_id())
    there = NodeAffinitySchedulingStrategy(two_nodes, soft=False)
    out = tmp_path / "out" / "adapters" / "final"
    copies = None
    try:
        work = at_work.options(scheduling_strategy=there)
        results = ray.get([work.remote(files, str(data), f"{out}-{n}") for n in range(2)], timeout=120)
        for number, (copy, same, names, said, hub, node, left) in enumerate(results):
            copies = Path(copy).parents[2]
            assert same and Path(copy) != data and tree(copy) == tree(data) and node == two_nodes
            assert tree(f"{out}-{number}") == {"adapter": (data / "big").read_bytes()[::-1]}
            assert {f"final-{number}", f"final-{number}.parquet"} <= set(names)
            assert "absent" in said[0] and hub == "opt-125m" and not left
        assert results[0][0] == results[1][0]  # one copy a host
        assert not list(out.parent.glob("*.parquet"))
    finally:
        if copies is not None:
            shutil.rmtree(copies, ignore_errors=True)


@pytest.mark.ray
def test_on_the_drivers_own_host_paths_are_what_they_are(two_nodes, tmp_path):
    files = ShippedFiles(None, ray.get_runtime_context().get_node_id(), "run")
    assert files.fetch(str(tmp_path)) == tmp_path
    assert files.place(str(tmp_path / "a" / "b")) == tmp_path / "a" / "b" and (tmp_path / "a").is_dir()
    files.send(tmp_path / "a" / "b", str(tmp_path / "a" / "b"))
    with pytest.raises(ValueError, match="driver's host"):
        files.send(tmp_path / "a", str(tmp_path / "b"))
