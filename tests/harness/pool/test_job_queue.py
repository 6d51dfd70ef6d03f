"""The job source alone, without Ray: leases, refusals, expiry, what survives a lost worker."""

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.pool.job_queue import JobSource
from harness.runs.jobs import Commands, Job, Report, StatusUpdate


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A job source with short words for what clients and groups do."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.source = JobSource(clock=self.clock, **options)
        self.read = 0

    async def submit(self, *names: str, **options: Any) -> None:
        for name in names:
            await self.source.submit(job(name), **options)

    async def exchange(
        self,
        incarnation: str = "a",
        *,
        reports: Sequence[Report] = (),
        held: Sequence[str] = (),
        refused: Sequence[str] = (),
        capacity: int = 1,
        group: str = "g",
    ) -> Commands:
        return await self.source.exchange(
            StatusUpdate(group, incarnation, reports, held, refused, capacity), 0.0
        )

    async def statuses(self) -> list[tuple[str, str]]:
        events, _ = await self.source.events(self.read, 0.0)
        self.read = events[-1].number if events else self.read
        return [(event.job.id, event.status) for event in events]


def job(name: str) -> Job:
    config = {"method": name if "kind" in name else "m"}
    return Job(id=name, study="s", stage="search", backbone="b", data="d", config=config)


def report(name: str, number: int, status: Any = "running") -> Report:
    return Report(job=name, number=number, status=status, epoch=number, dev={"mcc": number / 10})


def names(orders: Commands) -> list[str]:
    return [job.id for job in orders.admit]


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_jobs_go_out_by_priority_then_age_and_within_the_room_and_the_limit() -> None:
    async def test() -> None:
        world = World()
        await world.submit("late", priority=2)
        await world.submit("first", "second", priority=1)
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=2)) == ["first", "second"]
        await world.source.begin(2)
        assert names(await world.exchange(held=["first", "second"], capacity=5)) == []
        await world.source.begin(3)
        assert names(await world.exchange(held=["first", "second"], capacity=5)) == ["late"]

    run(test())


def test_members_of_a_trial_wait_for_those_behind_after_the_epochs_of_their_turns() -> None:
    async def test() -> None:
        world = World()
        turns = {"trial": "t", "sync_epochs": (1, 2)}
        await world.submit("x", "y", priority=1, **turns)
        await world.submit("other", priority=2, trial="u", sync_epochs=(1, 2))
        await world.source.register("g", "a", None)
        assert names(await world.exchange()) == ["x"]
        order, held, done = [], "x", {"x": 0, "y": 0, "other": 0}
        while held:
            done[held] += 1
            order.append((held, done[held]))
            last = report(held, done[held], "finished" if done[held] == 4 else "running")
            still = [held] if done[held] < 4 else []
            orders = await world.exchange(reports=[last], held=still, capacity=1 - len(still))
            if orders.release:
                assert list(orders.release) == [held] and not orders.admit
                orders = await world.exchange()
            held = names(orders)[0] if orders.admit else still[0] if still else ""
        behind = [("y", 1), ("y", 2), ("x", 2), ("x", 3), ("x", 4), ("y", 3), ("y", 4)]
        assert order == [("x", 1), *behind, *(("other", number) for number in range(1, 5))]

    run(test())


def test_nobody_waits_for_a_job_that_has_a_slot_or_is_of_another_trial() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "y", trial="t", sync_epochs=(1,))
        await world.submit("other", priority=1, trial="u", sync_epochs=(1,))
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=2)) == ["x", "y"]
        orders = await world.exchange(reports=[report("x", 1)], held=["x", "y"], capacity=0)
        assert not orders.release and not orders.admit

    run(test())


def test_a_known_id_is_not_queued_again() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "x")
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=5)) == ["x"]
        await world.exchange(reports=[report("x", 1, "finished")])
        await world.submit("x")
        assert names(await world.exchange(capacity=5)) == []
        assert [status for _, status in await world.statuses()] == ["queued", "started", "finished"]

    run(test())


def test_a_lost_life_requeues_its_jobs_and_their_repeated_reports_are_dropped() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x")
        await world.source.register("g", "a", "placement")
        await world.exchange()
        await world.exchange(reports=[report("x", 1), report("x", 2)], held=["x"])
        await world.source.register("g", "b", None)
        assert (await world.exchange("a", held=["x"])).close  # the dead incarnation is told nothing else
        assert names(await world.exchange("b")) == ["x"]
        await world.exchange("b", reports=[report("x", 1), report("x", 2), report("x", 3, "finished")])
        reports, status = await world.source.follow("x", 0, 0.0)
        assert [one.number for one in reports] == [1, 2, 3] and status == "finished"
        assert [status for _, status in await world.statuses()] == [
            "queued", "started", "running", "running", "queued", "started", "finished"
        ]  # fmt: skip

    run(test())


def test_a_job_that_loses_its_worker_too_often_fails_with_one_line() -> None:
    async def test() -> None:
        world = World(max_losses=2)
        await world.submit("x")
        for incarnation in "abc":
            await world.source.register("g", incarnation, None)
            await world.exchange(incarnation)
        reports, status = await world.source.follow("x", 0, 0.0)
        assert status == "failed" and "lost its worker 2 times" in str(reports[-1].error)

    run(test())


def test_what_is_lost_with_its_machine_counts_against_nobody() -> None:
    async def test() -> None:
        gone: set[str] = set()
        world = World(max_losses=1, max_silent_lives=1, gone=lambda nodes: bool(gone & set(nodes)))
        await world.submit("x")
        for incarnation in ("a", "b", "c", "d"):
            assert await world.source.register("g", incarnation, None, nodes=[f"spot-{incarnation}"])
            assert names(await world.exchange(incarnation)) == ["x"]
            gone.add(f"spot-{incarnation}")
        await world.source.register("g", "e", None, nodes=["stays"])
        await world.exchange("e")
        await world.exchange("e", reports=[report("x", 1)], held=["x"])
        await world.source.register("g", "f", None, nodes=["stays"])  # this time the worker died by itself
        assert (await world.statuses())[-1] == ("x", "failed")

    run(test())


def test_a_group_that_leaves_its_machine_hands_its_jobs_on_and_is_heard_to_the_end() -> None:
    async def test() -> None:
        world = World(max_losses=1)
        await world.submit("x", "y")
        await world.source.register("g", "a", None)
        await world.source.register("h", "b", None, nodes=["other"])
        assert names(await world.exchange(capacity=2)) == ["x", "y"]
        last = [report("x", 1), report("y", 1, "finished")]
        await world.source.leave(StatusUpdate("g", "a", last, ["x"], (), 0))
        assert (await world.exchange(held=["x"])).register and await world.source.wanted()
        assert names(await world.exchange("b", group="h")) == ["x"]
        await world.source.leave(StatusUpdate("g", "a", [], ["x"], (), 0))  # said twice, it changes nothing
        await world.exchange("b", group="h", reports=[report("x", 1), report("x", 2, "finished")])
        told = await world.statuses()
        assert [status for name, status in told if name == "y"] == ["queued", "started", "finished"]
        assert [status for name, status in told if name == "x"] == [
            "queued", "started", "running", "queued", "started", "finished"
        ]  # fmt: skip

    run(test())


def test_a_failure_earlier_than_the_first_attempt_got_still_ends_the_job() -> None:
    async def test() -> None:
        world = World(max_failures=0)
        await world.submit("x")
        await world.source.register("g", "a", None)
        await world.exchange()
        await world.exchange(reports=[report("x", 1), report("x", 2)], held=["x"])
        await world.source.register("g", "b", None)
        await world.exchange("b")
        await world.exchange("b", reports=[report("x", 1, "failed")])
        reports, status = await world.source.follow("x", 2, 0.0)
        assert status == "failed" and [one.number for one in reports] == [3]

    run(test())


def test_a_refused_job_waits_until_the_group_has_changed() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "other kind", "y")
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=2)) == ["x", "other kind"]
        orders = await world.exchange(held=["x"], refused=["other kind"], capacity=1)
        assert names(orders) == ["y"]
        assert names(await world.exchange(held=["x", "y"], capacity=1)) == []
        orders = await world.exchange(reports=[report("x", 1, "finished")], held=["y"], capacity=1)
        assert names(orders) == ["other kind"]

    run(test())


def test_a_job_refused_in_the_last_words_of_the_others_is_offered_again() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "other kind")
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=2)) == ["x", "other kind"]
        orders = await world.exchange(reports=[report("x", 1, "finished")], refused=["other kind"])
        assert names(orders) == ["other kind"]

    run(test())


def test_a_job_refused_beside_one_that_its_client_just_stopped_is_offered_again() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "other kind")
        await world.source.register("g", "a", None)
        await world.exchange(capacity=2)
        await world.source.release("x")
        orders = await world.exchange(held=["x"], refused=["other kind"], capacity=1)
        assert list(orders.release) == ["x"] and names(orders) == ["other kind"]

    run(test())


def test_a_job_refused_by_an_empty_group_fails() -> None:
    async def test() -> None:
        world = World()
        await world.submit("huge")
        await world.source.register("g", "a", None)
        await world.exchange()
        await world.exchange(refused=["huge"])
        assert (await world.statuses())[-1] == ("huge", "failed")

    run(test())


def test_a_crash_fails_a_lone_job_and_separates_several() -> None:
    async def test() -> None:
        world = World(max_failures=0)
        await world.submit("bad", "good", "next")
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=2)) == ["bad", "good"]
        await world.source.crashed("g", "a", "boom")
        assert names(await world.exchange(capacity=2)) == ["bad"]  # alone: no neighbour beside it
        assert names(await world.exchange(held=["bad"], capacity=1)) == []
        await world.source.crashed("g", "a", "boom")
        assert ("bad", "failed") in await world.statuses()
        assert names(await world.exchange(capacity=2)) == ["good"]

    run(test())


def test_a_release_reaches_the_group_and_frees_the_slot() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "y")
        await world.source.register("g", "a", None)
        await world.exchange(capacity=1)
        await world.source.release("x")
        orders = await world.exchange(held=["x"], capacity=0)
        assert list(orders.release) == ["x"]
        assert names(await world.exchange(capacity=1)) == ["y"]
        await world.exchange(reports=[report("x", 1)], held=["y"], capacity=0)  # too late: nobody wants it
        assert [event for event in await world.statuses() if event[0] == "x"][-1] == ("x", "stopped")

    run(test())


@pytest.mark.parametrize("state", ["queued", "held"])
def test_the_slot_of_a_vanished_client_expires(state: str) -> None:
    async def test() -> None:
        world = World(client_s=60)
        await world.submit("x")
        await world.submit("final", followed=False)
        await world.source.register("g", "a", None)
        held = ["x"] if state == "held" else []
        await world.exchange(capacity=len(held))
        world.clock.now = 59
        await world.source.follow("x", 0, 0.0)
        world.clock.now = 100
        await world.exchange(held=held, capacity=0)
        assert (await world.source.follow("x", 0, 0.0))[1] in ("queued", "started")
        world.clock.now = 161
        orders = await world.exchange(held=held, capacity=0)
        assert list(orders.release) == held
        _, status = await world.source.follow("x", 0, 0.0)
        assert status == "failed"
        assert (await world.source.follow("final", 0, 0.0))[1] == "queued"

    run(test())


def test_a_group_that_stays_silent_loses_its_jobs_to_another() -> None:
    async def test() -> None:
        world = World(lease_s=600)
        await world.submit("x", followed=False)
        await world.source.register("g", "a", None)
        await world.source.register("h", "z", None)
        await world.exchange()
        world.clock.now = 601
        assert names(await world.exchange("z", group="h")) == ["x"]
        assert list((await world.exchange("a", held=["x"], capacity=0)).release) == ["x"]

    run(test())


def test_when_no_group_can_start_jobs_fail_with_its_reason() -> None:
    async def test() -> None:
        world = World()
        await world.source.expect(["g", "h"])
        await world.submit("early")
        assert await world.source.could_not_start("g", "no weights", tries=2)  # try again
        assert not await world.source.could_not_start("g", "no weights", tries=2)
        assert (await world.statuses())[-1] == ("early", "queued")  # h may still come
        await world.source.could_not_start("h", "no weights", tries=1)
        await world.submit("late")
        reports, status = await world.source.follow("late", 0, 0.0)
        assert status == "failed" and "no weights" in str(reports[0].error)
        assert ("early", "failed") in await world.statuses()

    run(test())


def test_an_interrupt_ends_what_is_open_and_what_comes_until_the_next_round() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x", "y")
        await world.source.register("g", "a", None)
        await world.exchange()
        await world.source.interrupt()
        await world.submit("z")
        assert list((await world.exchange(held=["x"])).release) == ["x"]
        assert {name for name, status in await world.statuses() if status == "interrupted"} == {"x", "y", "z"}
        await world.source.begin(None)
        await world.submit("again")
        assert names(await world.exchange()) == ["again"]

    run(test())


def test_events_are_kept_until_they_are_acknowledged() -> None:
    async def test() -> None:
        world = World()
        await world.submit("x")
        assert [event.number for event in (await world.source.events(0, 0.0))[0]] == [1]
        assert [event.number for event in (await world.source.events(0, 0.0))[0]] == [1]
        assert await world.source.events(1, 0.0) == ([], [])
        assert not world.source._events

    run(test())


def test_a_question_is_answered_when_something_happens_and_closing_ends_it() -> None:
    async def test() -> None:
        source = JobSource()
        await source.register("g", "a", None)
        question = asyncio.create_task(source.exchange(StatusUpdate("g", "a", [], [], [], 1), 15.0))
        await asyncio.sleep(0.05)
        assert not question.done()
        await source.submit(job("x"))
        assert names(await question) == ["x"]
        question = asyncio.create_task(source.follow("x", 0, 15.0))
        await asyncio.sleep(0.05)
        await source.close()
        assert (await question)[1] == "interrupted"
        assert (await source.exchange(StatusUpdate("g", "a", [], ["x"], [], 0), 15.0)).close

    run(test())


def test_idle_groups_of_an_autoscaled_cluster_go_and_the_last_stays() -> None:
    async def test() -> None:
        world = World(idle_s=60.0)
        for group in ("g", "h"):
            await world.source.register(group, group, None)
            assert not (await world.exchange(group, group=group)).close
        world.clock.now = 59.0
        assert not (await world.exchange("g", group="g")).close
        world.clock.now = 61.0
        assert (await world.exchange("g", group="g")).close
        assert not (await world.exchange("h", group="h")).close
        assert not await world.source.wanted()
        await world.submit("x", "y")
        assert names(await world.exchange("h", group="h")) == ["x"]
        assert await world.source.wanted()  # the other comes back for what waits
        await world.source.register("g", "new", None)
        assert names(await world.exchange("new", group="g")) == ["y"]
        assert not await world.source.wanted()

    run(test())


def waiting(name: str, trial: str, **more: Any) -> tuple[Job, str]:
    return replace(job(name), alone=True, rungs=(1, 2), **more), trial


def test_a_job_at_a_rung_keeps_its_slot_until_it_may_go_on() -> None:
    async def test() -> None:
        world = World()
        first, trial = waiting("a", "g/0")
        await world.source.submit(first, trial=trial)
        await world.source.register("g", "a", None)
        assert names(await world.exchange()) == ["a"]

        async def ask(waits: int) -> Sequence[str]:
            news = StatusUpdate("g", "a", [report("a", waits)], ["a"], [], 0, waiting={"a": waits})
            return (await world.source.exchange(news, 0.0)).proceed

        assert await ask(1) == []
        await world.source.proceed({"a": 1, "unknown": 1})
        assert await ask(1) == ["a"]
        assert await ask(2) == []  # the first rung's answer is none for the second
        await world.source.proceed({"a": 2})
        await world.source.proceed({"a": 1})  # told again, late
        assert await ask(2) == ["a"]

    run(test())


def test_a_job_at_a_rung_makes_room_for_one_that_it_waits_for_and_waits_in_the_queue() -> None:
    async def test() -> None:
        world = World()
        for name, trial in (("late", "g/1"), ("early", "g/0"), ("other", "h/0")):
            one, trial = waiting(name, trial)
            await world.source.submit(one, trial=trial, priority=1 if name == "other" else 0)
        await world.source.register("g", "a", None)
        assert names(await world.exchange(capacity=5)) == ["late"]  # it trains alone
        news = StatusUpdate("g", "a", [report("late", 1)], ["late"], [], 0, waiting={"late": 1})
        orders = await world.source.exchange(news, 0.0)
        assert (orders.release, names(orders)) == (["late"], [])
        assert names(await world.exchange()) == ["early"]
        early = StatusUpdate("g", "a", [report("early", 1)], ["early"], [], 0, waiting={"early": 1})
        assert (
            await world.source.exchange(early, 0.0)
        ).release == []  # nobody that it waits for is in the queue
        await world.source.proceed({"early": 1})
        assert (await world.source.exchange(early, 0.0)).proceed == ["early"]
        assert names(await world.exchange(reports=[report("early", 2, "finished")])) == ["other"]
        await world.source.proceed({"late": 1})
        assert names(await world.exchange(reports=[report("other", 1, "finished")])) == ["late"]

    run(test())


def test_a_source_that_was_started_anew_lets_nobody_pass_a_rung_unasked() -> None:
    async def test() -> None:
        world = World()
        one, trial = waiting("a", "g/3")
        await world.source.register("g", "a", None, held=[one])
        news = StatusUpdate("g", "a", [], ["a"], [], 0, waiting={"a": 1})
        assert (await world.source.exchange(news, 0.0)).proceed == []
        await world.source.submit(one, trial=trial)
        await world.source.proceed({"a": 1})
        assert (await world.source.exchange(news, 0.0)).proceed == ["a"]

    run(test())


def test_a_job_that_is_trained_alone_gets_no_neighbour_and_becomes_none() -> None:
    async def test() -> None:
        world = World()
        await world.submit("first")
        await world.source.submit(replace(job("alone"), alone=True), priority=1)
        await world.submit("third", priority=2)
        await world.source.register("g", "a", None)
        await world.source.register("h", "b", None)
        assert names(await world.exchange(capacity=5)) == ["first", "third"]
        assert names(await world.exchange("b", group="h", capacity=5)) == ["alone"]
        await world.submit("fourth", priority=3)
        assert names(await world.exchange("b", group="h", held=["alone"], capacity=4)) == []
        assert names(await world.exchange(held=["first", "third"], capacity=3)) == ["fourth"]

    run(test())
