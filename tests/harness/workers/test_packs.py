"""Room for the largest trial that a benchmark holds."""

import pytest

from harness.config.search_space import Leaf, SearchSpace, largest
from harness.workers.packs import Room


def space(method: str, *, first: int | None = None, **leaves: Leaf) -> SearchSpace:
    points = ({"b0": first},) if first else ()
    return SearchSpace(method=method, leaves=leaves, fixed={"rank": 24, "b0": 3}, first_points=points)


def test_the_room_is_that_of_the_largest_trial() -> None:
    searched = space("ars", b0=Leaf(type="int", low=2, high=20))
    assert largest([searched, space("lora")], [2, 104]) == {
        "max_rank": 24,
        "max_labels": 104,
        "outputs": False,
    }
    assert largest([searched], [2]) == {"max_rank": 20, "max_labels": 2, "outputs": False}
    assert largest([searched, space("dora")], [2])["outputs"]
    assert largest([space("adalora", first=30)], [3])["max_rank"] == 30
    chosen = space("adalora", b0=Leaf(type="choice", choices=(4, 8)))
    assert largest([chosen, space("fmft"), space("kmer_logreg")], [2])["max_rank"] == 8


def test_a_room_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="`pack` must be at least 1, but got 0"):
        Room(pack=0)
    with pytest.raises(ValueError, match="`frozen` must be one of fp32, bf16"):
        Room(frozen="int3")  # type: ignore[arg-type]
