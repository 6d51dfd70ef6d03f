"""The registry of methods. A method is one module, one row here, one search space, one test."""

from lingo.methods import (
    adalora,
    ars,
    dora,
    fmft,
    kmer_logreg,
    lingo,
    loha,
    lokr,
    lora,
    lora_plus,
    onehot_cnn,
    pissa,
    probe,
    rslora,
    rules,
    vera,
)
from lingo.methods.base import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        fmft.METHOD,
        lora.METHOD,
        adalora.METHOD,
        ars.METHOD,
        lingo.METHOD,
        kmer_logreg.METHOD,
        onehot_cnn.METHOD,
        lokr.METHOD,
        loha.METHOD,
        dora.METHOD,
        *rules.METHODS,
        probe.METHOD,
        rslora.METHOD,
        lora_plus.METHOD,
        pissa.METHOD,
        vera.METHOD,
    )
}

GROUPS: dict[str, tuple[str, ...]] = {"rules": rules.RULES}
"""Names of groups of methods on the command line."""

DEFAULT_METHODS: tuple[str, ...] = tuple(name for name, row in METHODS.items() if row.by_default)
"""Methods of a benchmark without `--methods`: the paper's methods, baselines and rules."""

__all__ = ["DEFAULT_METHODS", "GROUPS", "METHODS", "Method"]
