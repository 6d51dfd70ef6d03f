"""Whose trial is next: nobody starves, open lanes stay within the worker groups, the longest go first."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from harness.search.fair_share import Claim, next_claim

ROOM = {"groups": 1, "slots": 4, "spare": 1, "room": 100}


def claim(key, *, lane="a", work=1.0, total=4, **more):
    return Claim(key=key, lane=(lane, "pack"), work=work, jobs=more.pop("jobs", 1), total=total, **more)


def played(claims, *, end_after=3, **rules):
    """Keys in the order proposed; each trial ends when `end_after` younger ones have been proposed."""
    rules = {**ROOM, **rules}
    order, running = [], []
    while any(claim.left for claim in claims):
        chosen = next_claim(claims, **rules)
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
        claim(f"{index}", lane=lane, work=work, total=total, jobs=jobs)
        for index, (lane, work, total, jobs) in enumerate(rows)
    ]
)


@given(groups_of_claims, st.integers(1, 3), st.integers(1, 4))
def test_every_trial_is_proposed_once_and_nothing_stops(claims, groups, slots):
    wanted = {claim.key: claim.total for claim in claims}
    order = played(claims, groups=groups, slots=slots, room=groups * slots + 1)
    assert {key: order.count(key) for key in wanted} == wanted


@given(groups_of_claims, st.integers(1, 3))
def test_at_most_as_many_lanes_are_open_as_there_are_worker_groups(claims, groups):
    order = played(claims, groups=groups, slots=8)
    lane_of = {claim.key: claim.lane for claim in claims}
    left = {claim.key: claim.total for claim in claims}
    for step, key in enumerate(order):
        left[key] -= 1
        begun = {lane_of[name] for name in order[: step + 1]}
        unfinished = {lane_of[name] for name, count in left.items() if count}
        assert len(begun & unfinished) <= groups


def test_a_lane_stays_open_when_its_first_group_has_proposed_all():
    claims = [claim("0", total=1, work=9), claim("1", total=1), claim("2", lane="b", total=1, work=5)]
    assert played(claims, groups=1, slots=8) == ["0", "1", "2"]


@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(1, 9))
def test_groups_of_a_lane_advance_together(totals, slots):
    """No group is ahead of another by more than one of its own trials, as shares of their work."""
    claims = [claim(str(index), total=total) for index, total in enumerate(totals)]
    begun = [0] * len(totals)
    for key in played(claims, slots=slots):
        begun[int(key)] += 1
        shares = [count / total for count, total in zip(begun, totals, strict=True)]
        step = 1 / totals[int(key)]
        assert shares[int(key)] - step <= min(shares) + 1e-9


def test_the_longest_lane_and_trials_go_first():
    claims = [
        claim("short", lane="s", work=1),
        claim("long", lane="l", work=9),
        claim("mid", lane="l", work=5),
    ]
    order = played(claims)
    assert order[:2] == ["long", "mid"] and order[-4:] == ["short"] * 4
    assert set(played([replace(c, begun=0, running=0) for c in claims], groups=2)[:3]) == {
        "long",
        "mid",
        "short",
    }


def test_a_lane_that_trains_one_at_a_time_takes_one_slot_of_its_group():
    claims = [claim("full", single=True, total=9), claim("pack", lane="b", total=9)]
    chosen = []
    while (found := next_claim(claims, **{**ROOM, "groups": 2})) is not None:
        found.begun += 1
        found.running += 1
        chosen.append(found.key)
    assert chosen.count("full") == 2 and chosen.count("pack") == 5


def test_a_trial_with_more_jobs_than_there_is_room_still_starts():
    wide = claim("wide", jobs=14)
    assert next_claim([wide], groups=1, slots=2, spare=0, room=2) is wide
    wide.running = 1  # another one waits behind its last jobs, where not only one may train
    assert next_claim([wide], groups=1, slots=2, spare=0, room=1) is None
    assert next_claim([wide], groups=1, slots=2, spare=0, room=2) is wide
    wide.running = 2
    assert next_claim([wide], groups=1, slots=2, spare=0, room=2) is None
