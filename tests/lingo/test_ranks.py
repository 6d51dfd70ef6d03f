"""Budget, importance and sampling of the ranks: properties, and a plain implementation beside them."""

import math
import re
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lingo.pack import Pack
from lingo.parameters import rank_pattern
from lingo.ranks import Allocation, BudgetSchedule, draw
from lingo.slot import Slot
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.plain import PlainTrial

TASK = toy.task(rows=28, longest=8)
UPDATES = ("in_place", "held", "published_code")
quick = settings(deadline=None, max_examples=60, derandomize=True)


def trial(method: str = "ars", seed: int = 0, **values: object) -> TrialConfig:
    """28 steps: allocations after 3, 6 … 18 and, the last, 20."""
    return toy.trial(method, seed, **{"adapter_dropout": 0.0, **values})


def packed(*configs: TrialConfig, max_rank: int = 6) -> tuple[Pack, list[Slot]]:
    pack = Pack(toy.opt_backbone(), capacity=len(configs), max_rank=max_rank, dtype=torch.float64)
    return pack, [pack.admit(config, TASK) for config in configs]


def lam_and_keep(pack: Pack, slot: Slot) -> tuple[np.ndarray, np.ndarray]:
    where = slot.positions(pack.layout)
    lam = pack.layout.lam(pack.bank.theta)[slot.row]
    return lam[where].numpy().copy(), pack.bank.keep[slot.row, where].numpy().copy()


# --- the budget -------------------------------------------------------------------------------------------


@st.composite
def configurations(draw_: st.DrawFn) -> tuple[TrialConfig, int]:
    """Any schedule, good or bad, with T_total."""
    ratio = st.floats(0, 0.99)
    config = toy.trial(
        draw_(st.sampled_from(["adalora", "ars", "lingo"])),
        b0=draw_(st.integers(1, 16)),
        bT=draw_(st.integers(1, 16)),
        delta_T=draw_(st.integers(1, 400)),
        initial_warmup_ratio=draw_(ratio),
        final_finetune_ratio=draw_(ratio),
    )
    return config, draw_(st.integers(1, 300))


def repaired(config: TrialConfig, total: int, problems: list[str]) -> tuple[TrialConfig, int]:
    """What a user makes of the messages, by their numbers alone."""
    values = config.to_dict()
    for text in problems:
        if match := re.search(r"`b0` must be at least `bT`, but got b0=(\d+), bT=(\d+)", text):
            values["b0"] = int(match[2])
        elif match := re.search(r"`delta_T` of at most (\d+), more", text):
            values["delta_T"] = int(match[1])
        elif match := re.search(r"at least (\d+) steps", text):
            total = int(match[1])
        elif match := re.search(r"together at most ([\d.]+) and `delta_T` of at most (\d+)", text):
            share = float(match[1]) / max(1e-9, config.initial_warmup_ratio + config.final_finetune_ratio)
            values["initial_warmup_ratio"] *= min(1.0, share)
            values["final_finetune_ratio"] *= min(1.0, share)
            values["delta_T"] = int(match[2])
        else:
            pytest.fail(f"no numbers to use in: {text}")
    return TrialConfig.from_dict(values), total


@settings(quick, max_examples=400)
@given(configurations(), st.integers(1, 80))
def test_a_schedule_is_valid_or_refused_with_the_numbers_that_make_it_so(
    drawn: tuple[TrialConfig, int], matrices: int
) -> None:
    config, total = drawn
    problems = config.problems(total_steps=total)
    first, last = config.budget_phase(total)
    never = not any(t % config.delta_T == 0 for t in range(first + 1, last))
    assert bool(problems) == (never or config.b0 < config.bT)
    if problems:
        with pytest.raises(ValueError, match="must"):
            BudgetSchedule.of(config, matrices=matrices, total_steps=total)
    for _ in range(2):  # one message may hide behind another: too few steps behind too large a share
        config, total = repaired(config, total, config.problems(total_steps=total))
    assert config.problems(total_steps=total) == []
    schedule = BudgetSchedule.of(config, matrices=matrices, total_steps=total)
    events = [t for t in range(1, total + 1) if schedule.allocates(t)]
    assert len(events) >= 2
    assert events[-1] == schedule.last <= total
    assert events[0] == schedule.first_allocation() > schedule.first
    assert all(t % config.delta_T == 0 for t in events[:-1])


@quick
@given(st.integers(1, 60), st.integers(0, 60), st.integers(0, 100), st.integers(2, 200))
def test_the_budget_falls_as_a_cubic(end: int, more: int, first: int, length: int) -> None:
    schedule = BudgetSchedule(end + more, end, first, first + length, 1)
    budgets = [schedule.budget(t) for t in range(first + length + 3)]
    assert all(later <= earlier for earlier, later in pairwise(budgets))
    assert set(budgets[: first + 1]) == {end + more}
    assert set(budgets[first + length :]) == {end}
    for t in range(first, first + length):
        exact = end + more * (1 - Fraction(t - first, length)) ** 3
        assert abs(budgets[t] - math.floor(exact)) <= (exact % 1 > 1 - 1e-9 or exact % 1 < 1e-9)


# --- equation 4 -------------------------------------------------------------------------------------------


def event(
    budgets: list[int], drawn: torch.Tensor, *, update: str = "in_place", final: bool = False
) -> Allocation:
    column = torch.ones(len(budgets), 1)
    return Allocation(
        now=column,
        budget=torch.tensor(budgets, dtype=torch.float32)[:, None],
        drawn=drawn,
        regrow=column * (update != "published_code"),
        zero=column * (update != "held"),
        mask=column * (update == "held" or final),
    )


@quick
@given(st.data())
def test_without_sampling_exactly_the_budget_is_kept(data: st.DataObject) -> None:
    slots, ranks = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    # Few different values: ties are broken, but never change the count.
    score = st.floats(0, 1, width=32) | st.sampled_from([0.0, 0.5])
    rows = st.lists(score, min_size=ranks, max_size=ranks)
    scores = torch.tensor(data.draw(st.lists(rows, min_size=slots, max_size=slots)))
    own = [data.draw(st.integers(1, ranks)) for _ in range(slots)]
    valid = (torch.arange(ranks) < torch.tensor(own)[:, None]).float()
    budgets = [data.draw(st.integers(0, count)) for count in own]
    lam, keep = torch.ones(slots, ranks), valid.clone()
    scores = scores.masked_fill(valid == 0, -math.inf)
    event(budgets, torch.zeros(slots, ranks)).apply(scores, lam=lam, keep=keep, valid=valid)
    for i, budget in enumerate(budgets):
        kept, dropped = scores[i][(lam[i] > 0)], scores[i][(lam[i] == 0)]
        assert len(kept) == budget
        assert not len(kept) or not len(dropped) or kept.min() >= dropped.max()
    assert torch.equal(keep, valid)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.9])
@pytest.mark.parametrize("update", UPDATES)
def test_values_stay_and_return_with_the_frequencies_of_equation_4(p: float, update: str) -> None:
    config, ranks, budget, events = trial(p=p, rank_update=update), 200, 80, 100
    scores = torch.arange(ranks, 0, -1.0)[None]
    inside = outside = 0
    for step in range(events):
        drawn = draw(config, step, ranks=ranks)[None].float()
        lam, keep = torch.ones(1, ranks), torch.ones(1, ranks)
        event([budget], drawn, update=update).apply(scores, lam=lam, keep=keep, valid=torch.ones(1, ranks))
        used = lam * keep
        inside += int(used[:, :budget].sum())
        outside += int(used[:, budget:].sum())
    within(inside, budget * events, 1 - p)
    within(outside, (ranks - budget) * events, 0.0 if update == "published_code" else p)


def within(count: int, of: int, probability: float) -> None:
    """Four standard deviations; exact where the probability is 0 or 1."""
    assert abs(count - of * probability) <= 4 * math.sqrt(of * probability * (1 - probability))


def test_draws_belong_to_the_seed_and_the_step_alone() -> None:
    def bits(seed: int, step: int, **values: object) -> list[bool]:
        return draw(trial(seed=seed, **{"p": 0.5, **values}), step, ranks=64).tolist()

    assert bits(1, 3) == bits(1, 3, learning_rate=1e-4, bT=1)
    assert len({tuple(bits(seed, step)) for seed in (1, 2) for step in (3, 4, 5)}) == 6
    assert not any(bits(1, 3, p=0.0))
    assert all(bits(1, 3, p=1.0))
    few, many = bits(1, 3, p=0.2), bits(1, 3, p=0.7)
    assert all(b or not a for a, b in zip(few, many, strict=True))


# --- whole trainings ----------------------------------------------------------------------------------------

AGAINST_PLAIN = [
    trial("ars", 1, p=0.3, beta1=0.6, beta2=0.9),
    trial("ars", 2, p=0.3, rank_update="held", b0=6, bT=1),
    trial("lingo", 3, p=0.3, rank_update="published_code", max_grad_norm=0.5, targets=("W_q", "W_o", "W_f2")),
    trial("adalora", 4, delta_T=2, max_grad_norm=None, orthogonality=0.1),
    trial("adalora", 5, rank_update="held", weight_decay=0.1),
    trial("lora", 6),
]


def test_training_follows_a_plain_implementation() -> None:
    """Equations 1 to 4, budget, orthogonality, clipping, AdamW, schedule: each step, all variants at once."""
    pack, slots = packed(*AGAINST_PLAIN)
    plain = [PlainTrial(toy.opt_backbone(), pack, slot) for slot in slots]
    events = 0
    for step in range(slots[0].total_steps):
        rows = [slot.batch() for slot in slots]
        pack.step()
        for slot, single, batch in zip(slots, plain, rows, strict=True):
            assert pack.take_loss(slot) == pytest.approx(single.step(batch), abs=1e-10), (slot.config, step)
            compare(pack, slot, single)
            events += slot.svd and slot.schedule.allocates(slot.step)
    assert events >= 5 * 7
    single = plain[1]
    assert any((mask == 0).any() for mask in single.masks.values())


def compare(pack: Pack, slot: Slot, single: PlainTrial) -> None:
    row, rank = slice(slot.row, slot.row + 1), slot.rank
    for path, parts in single.factors.items():
        site = pack.layout.site(path)
        keep = pack.layout.of_group(pack.bank.keep[row], pack.layout.groups[site.group])[0, site.index, :rank]
        if slot.svd:
            np.testing.assert_array_equal(keep, single.masks[path])
        pairs = [(pack.bank.theta, [part.detach().numpy() for part in parts])]
        if slot.svd:
            pairs.append((pack.importance.sensitivity, single.sensitivity[path]))
            pairs.append((pack.importance.uncertainty, single.uncertainty[path]))
        for flat, expected in pairs:
            p, lam, q = pack.layout.parts(flat[row], site)
            np.testing.assert_allclose(p[:, :rank], expected[0], rtol=0, atol=1e-10)
            np.testing.assert_allclose(q[:rank], expected[2], rtol=0, atol=1e-10)
            if slot.svd:
                np.testing.assert_allclose(lam[:rank], expected[1], rtol=0, atol=1e-10)
                np.testing.assert_array_equal(lam[:rank] == 0, expected[1] == 0)


@pytest.mark.parametrize("update", UPDATES)
def test_without_sampling_the_training_is_that_of_adalora(update: str) -> None:
    sampled = trial("ars", 7, p=0.0, rank_update=update, adapter_dropout=0.2)
    ends = []
    for config in (sampled, TrialConfig.from_dict(sampled.to_dict() | {"method": "adalora", "p": 0.7})):
        pack, (slot,) = packed(config)
        while not slot.done:
            pack.step()
        ends.append({name: tensor.clone() for name, tensor in pack.tensors().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert (ends[0]["keep"] != ends[0]["valid"]).any()


@settings(quick, max_examples=6)
@given(st.data())
def test_the_final_ranks_are_exactly_the_budget(data: st.DataObject) -> None:
    configs = []
    for update in UPDATES:
        b0 = data.draw(st.integers(1, 6))
        configs.append(
            trial(
                seed=data.draw(st.integers(0, 99)),
                b0=b0,
                bT=data.draw(st.integers(1, b0)),
                delta_T=data.draw(st.integers(1, 15)),
                p=data.draw(st.floats(0, 1)),
                rank_update=update,
            )
        )
    pack, slots = packed(*configs)
    while not slots[0].done:
        pack.step()
        for slot in slots:
            if slot.step >= slot.schedule.last:
                pattern = rank_pattern(pack, slot)
                assert sum(map(sum, pattern.values())) == slot.config.bT * len(slot.paths)


def test_a_held_value_keeps_learning_behind_its_mask() -> None:
    pack, (slot,) = packed(trial(rank_update="held", p=0.3))
    learned = returned = 0
    before = None
    while not slot.done:
        pack.step()
        lam, keep = lam_and_keep(pack, slot)
        if before is not None and slot.step < slot.schedule.last:
            masked = before[1] == 0
            assert (lam[masked] != before[0][masked]).all()
            learned += masked.sum()
            returned += (masked & (keep == 1)).sum()
        before = (lam, keep)
    assert learned and returned
    assert (lam[keep == 0] != 0).all()


def test_the_published_code_never_reintroduces() -> None:
    """At p = 0.5 equation 4 brings back half of what lies outside the budget; the published code nothing."""
    pack, slots = packed(*(trial(seed=3, p=0.5, b0=6, bT=1, rank_update=update) for update in UPDATES))
    above = dict.fromkeys(UPDATES, 0)
    while not slots[0].done:
        pack.step()
        for slot in slots:
            if slot.schedule.allocates(slot.step):
                lam, keep = lam_and_keep(pack, slot)
                above[slot.rank_update] += int((lam * keep != 0).sum() > slot.schedule.budget(slot.step))
    assert above["published_code"] == 0
    assert above["in_place"] > 0 and above["held"] > 0
