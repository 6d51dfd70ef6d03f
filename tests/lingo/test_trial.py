"""Limits of a trial's settings: what would round to something degenerate is refused with a line."""

import math

import pytest

from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.lingo import toy


@pytest.mark.parametrize(
    ("method", "name", "value", "rule"),
    [
        (
            "lora",
            "adapter_dropout",
            0.999995,
            "at least 0 and at most 0.99998 (rates are multiples of 1/65536)",
        ),
        ("lora", "adapter_dropout", 1.0, "at least 0 and below 1"),
        ("lora", "learning_rate", 1e-50, "above 0 and below 10"),
        ("lora", "learning_rate", math.nan, "above 0 and below 10"),
        ("lora", "weight_decay", 1 - 1e-9, "at least 0 and below 1"),
        ("lora", "warmup_ratio", 1 - 1e-9, "at least 0 and below 1"),
        ("lora", "max_grad_norm", 1e-60, "above 0, or none"),
        ("lora", "alpha", math.inf, "above 0 and finite"),
        ("lora", "alpha", 1e39, "above 0 and finite"),
        ("lora", "rank", 0, "a whole number, at least 1"),
        ("lora", "batch_size", 2.5, "a whole number, at least 1"),
        ("lora", "epochs", 0, "a whole number, at least 1"),
        ("adalora", "beta1", 1 - 1e-9, "above 0 and below 1"),
        ("adalora", "beta2", 1e-60, "above 0 and below 1"),
        ("adalora", "orthogonality", math.inf, "at least 0 and finite"),
        ("adalora", "delta_T", 1.5, "a whole number, at least 1"),
        ("adalora", "rank_update", "hold", "one of in_place, held, published_code, or none"),
        ("ars", "p", math.nan, "at least 0 and at most 1"),
        ("onehot_cnn", "dropout", 1 - 1e-9, "at least 0 and below 1"),
        ("kmer_logreg", "C", 1e-60, "above 0 and below 1e9"),
        ("kmer_logreg", "k", 9, "a whole number, at least 1 and at most 8"),
    ],
)
def test_values_at_a_degenerate_limit_are_refused(method: str, name: str, value: object, rule: str) -> None:
    config = TrialConfig.from_dict({"method": method, "seed": 0, name: value})
    assert config.problems() == [f"`{name}` must be {rule}, but got {value!r}."]


@pytest.mark.parametrize("method", ["fmft", "lora", "adalora", "ars"])
def test_values_just_inside_the_limits_train(method: str) -> None:
    """The largest dropout that does not round to 1, no clipping, other methods' settings out of range."""
    settings = {"adapter_dropout": 1 - 2**-16, "max_grad_norm": math.inf, "delta_T": 1, "epochs": 2}
    settings |= {} if method == "lora" else {"rank": 0}
    pack = Pack(toy.opt_backbone(), full=method == "fmft", dtype=toy.torch.float64)
    slot = pack.admit(toy.trial(method, 1, **settings), toy.task())
    pack.step()
    assert math.isfinite(pack.take_loss(slot))


def test_a_single_step_with_a_warm_up_is_refused() -> None:
    """Its learning rate would be 0, and nothing would be trained."""
    config = toy.trial("lora", 1, warmup_ratio=0.1)
    (line,) = config.problems(total_steps=1)
    assert "must have at least 2 steps" in line and "warmup_ratio=0.1" in line
    assert not config.problems(total_steps=2)
    assert not toy.trial("lora", 1, warmup_ratio=0.0).problems(total_steps=1)
