"""Whose trial is next: nobody starves, open queues stay within the worker groups, the longest go first."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harness.search.fair_share import Request, next_request

ROOM = {"groups": 1, "slots": 4, "spare": 1, "capacity": 100}


def request(key, *, queue="a", cost=1.0, total=4, **more):
    return Request(key=key, queue=(queue, "pack"), cost=cost, jobs=more.pop("jobs", 1), total=total, **more)


def played(requests, *, end_after=3, **rules):
    """Keys in the order proposed; each trial ends when `end_after` younger ones have been proposed."""
    rules = {**ROOM, **rules}
    order, running = [], []
    while any(request.left for request in requests):
        chosen = next_request(requests, **rules)
        if chosen is None or len(running) > end_after:
            ended = running.pop(0)
            ended.running -= 1
            continue
        chosen.begun += 1
        chosen.running += 1
        running.append(chosen)
        order.append(chosen.key)
    return order


groups_of_claims = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(1, 50), st.integers(1, 12), st.integers(1, 3)),
    min_size=1,
    max_size=7,
).map(
    lambda rows: [
        request(f"{index}", queue=queue, cost=cost, total=total, jobs=jobs)
        for index, (queue, cost, total, jobs) in enumerate(rows)
    ]
)


@given(groups_of_claims, st.integers(1, 3), st.integers(1, 4))
def test_every_trial_is_proposed_once_and_nothing_stops(requests, groups, slots):
    wanted = {request.key: request.total for request in requests}
    order = played(requests, groups=groups, slots=slots, capacity=groups * slots + 1)
    assert {key: order.count(key) for key in wanted} == wanted


@given(groups_of_claims, st.integers(1, 3))
def test_at_most_as_many_lanes_are_open_as_there_are_worker_groups(requests, groups):
    order = played(requests, groups=groups, slots=8)
    lane_of = {request.key: request.queue for request in requests}
    left = {request.key: request.total for request in requests}
    for step, key in enumerate(order):
        left[key] -= 1
        begun = {lane_of[name] for name in order[: step + 1]}
        unfinished = {lane_of[name] for name, count in left.items() if count}
        assert len(begun & unfinished) <= groups


def test_a_lane_stays_open_when_its_first_group_has_proposed_all():
    requests = [
        request("0", total=1, cost=9),
        request("1", total=1),
        request("2", queue="b", total=1, cost=5),
    ]
    assert played(requests, groups=1, slots=8) == ["0", "1", "2"]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(1, 9))
def test_groups_of_a_lane_advance_together(totals, slots):
    """No group is ahead of another by more than one of its own trials, as shares of their work."""
    requests = [request(str(index), total=total) for index, total in enumerate(totals)]
    begun = [0] * len(totals)
    for key in played(requests, slots=slots):
        begun[int(key)] += 1
        shares = [count / total for count, total in zip(begun, totals, strict=True)]
        step = 1 / totals[int(key)]
        assert shares[int(key)] - step <= min(shares) + 1e-9


def test_the_longest_lane_and_trials_go_first():
    requests = [
        request("short", queue="s", cost=1),
        request("long", queue="l", cost=9),
        request("mid", queue="l", cost=5),
    ]
    order = played(requests)
    assert order[:2] == ["long", "mid"] and order[-4:] == ["short"] * 4
    assert set(played([replace(c, begun=0, running=0) for c in requests], groups=2)[:3]) == {
        "long",
        "mid",
        "short",
    }


def test_a_lane_that_trains_one_at_a_time_takes_one_slot_of_its_group():
    requests = [request("full", single=True, total=9), request("pack", queue="b", total=9)]
    chosen = []
    while (found := next_request(requests, **{**ROOM, "groups": 2})) is not None:
        found.begun += 1
        found.running += 1
        chosen.append(found.key)
    assert chosen.count("full") == 2 and chosen.count("pack") == 5


def test_a_trial_with_more_jobs_than_there_is_room_still_starts():
    wide = request("wide", jobs=14)
    assert next_request([wide], groups=1, slots=2, spare=0, capacity=2) is wide
    wide.running = 1  # another one waits behind its last jobs, where not only one may train
    assert next_request([wide], groups=1, slots=2, spare=0, capacity=1) is None
    assert next_request([wide], groups=1, slots=2, spare=0, capacity=2) is wide
    wide.running = 2
    assert next_request([wide], groups=1, slots=2, spare=0, capacity=2) is None
