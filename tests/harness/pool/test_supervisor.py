"""What a supervisor removes: places that ended runs of its own groups have left, and nobody else's."""

from types import SimpleNamespace

import pytest

from harness.pool import supervisor

MINE, OTHERS = "07000000", "08000000"


def places(*bundles: dict[str, float], state: str = "CREATED") -> dict[str, object]:
    return {"state": state, "bundles": dict(enumerate(bundles))}


def test_a_sweep_takes_what_ended_runs_have_left_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    run = {"cpus": 1, "gpus": 0}
    shape, other = supervisor.bundle(run, "group-0"), supervisor.bundle(run, "group-1")
    assert shape != other and supervisor.bundle({"cpus": 1, "gpus": 1}, "group-0") == {**shape, "GPU": 1}
    table = {
        "left" + MINE: places(shape),
        "left too" + MINE: places(shape, shape, state="PENDING"),
        "before" + MINE: places(shape),
        "neighbour" + MINE: places(other),
        "gone" + MINE: places(shape, state="REMOVED"),
        "another benchmark" + OTHERS: places(shape),
        "a client" + MINE: places({"CPU": 0.001}),
    }
    removed: list[str] = []
    monkeypatch.setattr(supervisor, "placement_group_table", lambda: table)
    monkeypatch.setattr(supervisor, "_remove", removed.append)
    context = SimpleNamespace(get_job_id=lambda: MINE)
    monkeypatch.setattr(supervisor.ray, "get_runtime_context", lambda: context)
    supervisor.sweep([shape], {"before" + MINE})
    assert removed == ["left" + MINE, "left too" + MINE]


def test_a_node_is_gone_when_it_is_dead_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}]
    monkeypatch.setattr(supervisor.ray, "nodes", lambda: rows)
    assert not supervisor.gone(["a", "a"]) and not supervisor.gone([])
    assert supervisor.gone(["a", "b"]) and supervisor.gone(["c"])
