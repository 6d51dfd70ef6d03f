"""Cut splits against the rule written row by row, on tables with many equal sequences."""

import numpy as np
import pytest

from harness.data.cut_splits import MOST, SHARE, deal
from harness.data.hashes import strand_hashes
from lingo.sequences import reverse_complement


def plainly(sequences, strata, parts, rng):
    names = [min(text, reverse_complement([text])[0]) for text in sequences]
    first = list(dict.fromkeys(names))
    groups = [[row for row, name in enumerate(names) if name == one] for one in first]
    shuffled = [groups[i] for i in rng.permutation(len(groups))]
    place, staying = [0] * len(names), 0
    for stratum in sorted({strata[group[0]] for group in groups}):
        mine = [group for group in shuffled if strata[group[0]] == stratum]
        every = sum(map(len, mine))
        quota = max(1, round(SHARE * every))
        for part in range(1, parts + 1):
            taken = 0
            while taken < quota and len(mine) > 1:
                group = mine.pop()
                if len(group) > 1 and taken + len(group) > quota + MOST * every:
                    staying += len(group)
                    continue
                for row in group:
                    place[row] = part
                taken += len(group)
    return place, staying


@pytest.mark.parametrize("seed", range(60))
def test_against_the_rule_row_by_row(seed):
    rng = np.random.default_rng(seed)
    rows = int(rng.integers(10, 150))
    pool = ["".join(rng.choice(list("ACGT"), rng.integers(3, 7))) for _ in range(rng.integers(1, rows + 1))]
    shares = rng.dirichlet(np.full(len(pool), rng.choice([0.05, 0.3, 5])))
    sequences = [pool[i] for i in rng.choice(len(pool), rows, p=shares)]
    strata, parts = rng.integers(0, 3, rows) * 4, int(rng.integers(1, 3))
    together, shares = np.minimum(*strand_hashes(sequences)), [SHARE] * parts
    found, staying = deal(together, strata, shares, np.random.default_rng(seed))
    assert (found.tolist(), staying) == plainly(
        sequences, strata.tolist(), parts, np.random.default_rng(seed)
    )
