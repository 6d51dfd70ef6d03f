"""The job source under faults, without Ray: attempts elsewhere, signs of life, a source that starts anew."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.pool.job_log import JobLog
from harness.pool.job_queue import JobSource
from harness.runs.jobs import Event, Report, StatusUpdate
from harness.runs.layout import checkpoint_folder
from tests.harness.pool.test_job_queue import World, job, names, report, run


def failed(name: str, error: str = "diverged.", *, hopeless: bool = False) -> Report:
    return Report(job=name, number=1, status="failed", error=error, hopeless=hopeless)


async def two_groups(world: World) -> None:
    await world.source.register("g", "a", None)
    await world.source.register("h", "z", None)


def test_a_failed_job_is_tried_on_another_group_and_then_fails_with_all_reasons() -> None:
    async def test() -> None:
        world = World(max_failures=2)
        await two_groups(world)
        await world.submit("x")
        assert names(await world.exchange()) == ["x"]
        assert names(await world.exchange(reports=[failed("x", "one.")], capacity=1)) == []  # h is there
        assert names(await world.exchange("z", group="h")) == ["x"]
        assert names(await world.exchange("z", group="h", reports=[failed("x", "two.")])) == [
            "x"
        ]  # both tried
        await world.exchange("z", group="h", reports=[failed("x", "three.")])
        reports, status = await world.source.follow("x", 0, 0.0)
        assert status == "failed" and reports[-1].error == "three."
        assert reports[-1].facts["failures"] == ["g: one.", "h: two.", "h: three."]
        told = [status for _, status in await world.statuses()]
        assert told == ["queued", "started", "queued", "started", "queued", "started", "failed"]

    run(test())


def test_a_job_that_recovers_names_its_earlier_attempts() -> None:
    async def test() -> None:
        world = World()
        await world.source.register("g", "a", None)
        await world.submit("x")
        await world.exchange()
        await world.exchange(reports=[report("x", 1), failed("x", "diverged.")])  # the only group: here again
        await world.exchange(reports=[report("x", 1), report("x", 2, "finished")], held=["x"])
        reports, status = await world.source.follow("x", 0, 0.0)
        assert status == "finished" and [one.number for one in reports] == [1, 2]
        assert reports[-1].facts["failures"] == ["g: diverged."]

    run(test())


def test_a_wrong_configuration_is_not_tried_again() -> None:
    async def test() -> None:
        world = World(max_failures=2)
        await two_groups(world)
        await world.submit("x")
        await world.exchange()
        await world.exchange(reports=[failed("x", "`b0` must be at least `bT`.", hopeless=True)])
        assert (await world.source.follow("x", 0, 0.0))[1] == "failed"

    run(test())


def test_a_crash_of_a_lone_job_is_an_attempt() -> None:
    async def test() -> None:
        world = World(max_failures=1)
        await two_groups(world)
        await world.submit("x")
        await world.exchange()
        await world.source.crashed("g", "a", "boom")
        assert names(await world.exchange()) == []
        assert names(await world.exchange("z", group="h")) == ["x"]
        await world.source.crashed("h", "z", "boom")
        reports, status = await world.source.follow("x", 0, 0.0)
        assert status == "failed" and reports[-1].facts["failures"] == ["g: boom", "h: boom"]

    run(test())


def test_progress_forgives_lost_workers() -> None:
    async def test() -> None:
        world = World(max_losses=2)
        await world.submit("x")
        for number, incarnation in enumerate("abcdef", 1):
            await world.source.register("g", incarnation, None)
            assert names(await world.exchange(incarnation)) == ["x"]
            await world.exchange(incarnation, reports=[report("x", number)], held=["x"])
        assert (await world.source.follow("x", 5, 0.0))[1] == "running"

    run(test())


def test_a_refused_kind_is_not_offered_again_and_never_started() -> None:
    async def test() -> None:
        world = World()
        await world.source.register("g", "a", None)
        await world.submit("x")
        assert names(await world.exchange()) == ["x"]
        for number in range(3):
            await world.submit(f"kind {number}")
        for name in ("kind 0", "kind 1", "kind 2"):
            world.source._rows[name].job.config["method"] = "fmft"
        await world.submit("y")
        assert names(await world.exchange(held=["x"])) == ["kind 0"]
        assert names(await world.exchange(held=["x"], refused=["kind 0"])) == ["y"]
        assert ("kind 0", "started") not in await world.statuses()

    run(test())


def test_jobs_handed_back_with_the_last_report_of_their_neighbour_are_not_lost() -> None:
    async def test() -> None:
        world = World()
        await world.source.register("g", "a", None)
        await world.submit("x", "y")
        await world.exchange(capacity=2)
        orders = await world.exchange(reports=[report("x", 1, "finished")], refused=["y"], capacity=2)
        assert (await world.source.follow("y", 0, 0.0))[1] == "queued" and names(orders) == ["y"]

    run(test())


def test_signs_of_life_keep_a_busy_group_and_their_end_frees_its_jobs() -> None:
    async def test() -> None:
        world = World(lease_s=90, stuck_s=1000)
        await two_groups(world)
        await world.submit("x", followed=False)
        await world.exchange()
        for now in range(60, 900, 60):  # a long evaluation: no questions, but signs of life
            world.clock.now = now
            await world.source.heartbeat("g", "a")
            assert names(await world.exchange("z", group="h")) == []
        world.clock.now = 990
        assert names(await world.exchange("z", group="h")) == ["x"]

    run(test())


def test_a_group_that_lives_but_never_asks_is_stuck() -> None:
    async def test() -> None:
        world = World(lease_s=90, stuck_s=1000)
        await two_groups(world)
        await world.submit("x", followed=False)
        await world.exchange()
        world.clock.now = 1001
        await world.source.heartbeat("g", "a")
        assert names(await world.exchange("z", group="h")) == ["x"]

    run(test())


def test_a_source_that_starts_anew_adopts_what_groups_train_and_asks_for_the_rest() -> None:
    async def test() -> None:
        source = JobSource(restartable=True)
        assert (await source.exchange(StatusUpdate("g", "a", [], ["x"], [], 0), 0.0)).register
        assert await source.follow("x", 0, 0.0) == ([], "unknown")
        assert await source.register("g", "a", None, 1, [job("x"), job("y")])
        news = StatusUpdate("g", "a", [report("x", 3), report("y", 2, "finished")], ["x"], [], 1)
        assert not (await source.exchange(news, 0.0)).release
        await source.submit(job("x"))  # its client, who was told `unknown`
        reports, status = await source.follow("x", 2, 0.0)
        assert status == "running" and [one.number for one in reports] == [3]
        assert (await source.follow("y", 0, 0.0))[1] == "finished"
        await source.submit(job("z"))
        assert names(await source.exchange(StatusUpdate("g", "a", [], ["x"], [], 1), 0.0)) == ["z"]
        events, _ = await source.events(10, 0.0)
        assert events[0].number > 1_000_000  # above all numbers of any earlier source
        assert await source.incarnation() != await JobSource().incarnation()

    run(test())


def test_a_source_that_starts_anew_gives_out_nothing_before_the_groups_have_told_what_they_train() -> None:
    async def test() -> None:
        world = World(restarted=lambda: True, settle_s=30)
        await world.source.register("h", "z", None)
        await world.submit("x", "y", followed=False)  # before the driver has said which groups there are
        assert names(await world.exchange("z", group="h", capacity=2)) == []
        await world.source.expect(["g", "h"])
        assert names(await world.exchange("z", group="h", capacity=2)) == []
        await world.source.register("g", "a", None, 1, [job("x")])  # it was amid an epoch
        assert names(await world.exchange("z", group="h", capacity=2)) == ["y"]
        assert await world.statuses() == [("x", "queued"), ("y", "queued"), ("x", "started")]

    run(test())


def test_a_group_that_died_with_the_source_is_waited_for_so_long() -> None:
    async def test() -> None:
        world = World(restarted=lambda: True, settle_s=30)
        await world.source.expect(["g", "h"])
        await world.source.register("h", "z", None)
        await world.submit("x", followed=False)
        world.clock.now = 29.0
        assert names(await world.exchange("z", group="h")) == []
        world.clock.now = 30.0
        assert names(await world.exchange("z", group="h")) == ["x"]

    run(test())


def event(number: int, name: str, status: Any, reported: int = 0) -> Event:
    return Event(number, job(name), Report(job=name, number=reported, status="running"), status)


def made(number: int, **more: Any) -> Report:
    return Report(job="x", number=number, status="running", **more)


def test_the_driver_hears_nothing_twice_and_knows_its_own_open_jobs() -> None:
    log = JobLog()
    log.submitted(job("mine"))
    first = [event(1, "mine", "queued"), event(2, "mine", "started"), event(3, "mine", "running", 1)]
    first.append(event(4, "other", "finished", 2))
    taken = log.take(first)
    assert [replace(one, reports=()) for one in taken] == first
    assert [[report.number for report in one.reports] for one in taken] == [[], [], [1], [2]]
    assert [one.id for one in log.own()] == ["mine"]
    again = [event(11, "mine", "queued"), event(12, "mine", "running", 1), event(13, "other", "queued")]
    assert [one.number for one in log.take(again)] == [11]
    last = [event(14, "mine", "running", 2), event(15, "mine", "finished", 3)]
    (_, end) = log.take(last)
    assert [report.number for report in end.reports] == [1, 2, 3]
    assert log.own() == [] and log.open == {}


def test_only_the_last_report_of_a_job_keeps_what_grows_with_its_evaluations() -> None:
    log = JobLog()
    facts = {"train_losses": {"steps": [1]}, "samples": 8}
    told = [replace(event(n, "x", "running"), report=made(n, facts=facts)) for n in (1, 2)]
    told.append(replace(event(3, "x", "finished"), report=made(3, facts=facts)))
    assert [[sorted(report.facts) for report in one.reports] for one in log.take(told)] == [
        [["samples"]] * number + [["samples", "train_losses"]] for number in range(3)
    ]


@pytest.mark.parametrize("end", ["finished", "interrupted"])
def test_checkpoints_go_with_their_jobs_and_prefixes_at_the_end(end: Any, tmp_path: Path) -> None:
    one = replace(job("x"), checkpoints=str(tmp_path / "checkpoints"))
    folder, prefix = checkpoint_folder(one.checkpoints, one.id), tmp_path / "checkpoints" / "prefixes" / "key"
    folder.mkdir(parents=True)
    prefix.mkdir(parents=True)
    log = JobLog()
    log.take([Event(1, one, Report(job="x", number=1, status="running"), end)])
    assert folder.exists()  # until the caller has had the event
    log.remove_checkpoints()
    assert folder.exists() == (end == "interrupted")
    folder.mkdir(exist_ok=True)  # a late write
    log.sweep()
    assert (tmp_path / "checkpoints").exists() == folder.exists() == prefix.exists() == (end == "interrupted")


def test_idle_time_is_counted_while_jobs_wait_and_not_otherwise() -> None:
    async def test() -> None:
        world = World()
        await world.source.register("g", "a", None)
        world.clock.now = 100  # nothing to do
        await world.submit("x", "y", followed=False)
        await world.exchange(capacity=2)
        world.clock.now = 190  # 90 s with two jobs in two slots
        await world.exchange(held=["x", "y"], capacity=0)
        await world.submit("z", followed=False)
        world.clock.now = 200
        await world.exchange(reports=[report("x", 1, "finished"), report("y", 1, "finished")], capacity=2)
        usage = await world.source.usage()
        assert (usage["busy_s"], usage["idle_s"], usage["empty_slots_share"]) == (100, 0, 0)
        news = StatusUpdate("g", "a", [], ["z"], [], 1, idle=25.0)
        world.clock.now = 210
        await world.source.exchange(news, 0.0)
        usage = await world.source.usage()
        assert usage["idle_s"] == 25 and usage["idle_share"] == 25 / (110 + 25)
        assert usage["empty_slots_share"] == 0  # nobody waits for the second slot

    run(test())
