"""Trial clients as threads of one process: Tune's manager of actors works with their seats as with actors."""

import threading
from typing import Any

import pytest

from harness.search import seats
from harness.search.trial_client import Client
from tests.harness.search.test_trial_client import Source, config


class Calls:
    """A remote method of an actor, whose calls are noted instead."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []

    def remote(self, *call: Any) -> str:
        self.noted.append(call)
        return f"future {len(self.noted)}"


def test_an_actor_that_tune_asks_for_is_a_seat_and_its_end_ends_no_process() -> None:
    calls = Calls()
    manager = seats.SeatManager(calls)
    request = seats.ResourceRequest([{"CPU": 0.001}])
    for number in range(2):
        manager.add_actor(Client, {"config": number}, request)
    assert manager._try_start_actors() == 2 and manager.num_live_actors == 2
    ready = [(number, "__ray_ready__", (), {"config": number}) for number in range(2)]
    assert calls.noted == ready
    first, second = manager.live_actors
    manager.schedule_actor_task(second, "train")
    assert calls.noted[2:] == [(1, "train", (), {})]
    manager.remove_actor(first, kill=True)
    assert manager._try_kill_actor() and manager.live_actors == [second]
    manager.cleanup()
    assert manager.num_total_actors == 0 and len(calls.noted) == 3


def test_calls_of_a_client_follow_each_other_and_those_of_another_do_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    ended: list[str] = []

    def step(client: Client) -> dict[str, Any]:
        if client._place["trial"] == "suite/1":
            begun.set()
            assert go_on.wait(30)
        ended.append(client._place["trial"])
        return {"done": True}

    monkeypatch.setattr(Client, "step", step)
    table = seats.Seats(Source())
    for number in (1, 2):
        assert table.call(number, "__ray_ready__", (), {"config": config(number)})
    first = threading.Thread(target=table.call, args=(1, "train", (), {}))
    first.start()
    assert begun.wait(30)
    second = threading.Thread(target=table.call, args=(1, "stop", (), {}))
    second.start()
    assert table.call(1, "get_auto_filled_metrics", (), {"debug_metrics_only": True}) == {}
    assert table.call(2, "train", (), {})["done"] and ended == ["suite/2"]
    assert second.is_alive()
    go_on.set()
    first.join(30)
    second.join(30)
    assert ended == ["suite/2", "suite/1"] and list(table._clients) == [2]
