"""Rules without biology: predictions from composition, position, or artefacts of the data's construction.

A task whose best rule scores as high as adapted backbones does not measure their knowledge of DNA. A rule is fitted on
train only and has no settings to search.
"""

from dataclasses import dataclass

from lingo.methods.base import Baseline


@dataclass(frozen=True, kw_only=True)
class Rule(Baseline):
    """A rule of `lingo.rules.RULES`, by its name."""

    own: frozenset[str] = frozenset()


METHODS = (
    Rule(name="rule_composition", title="rule: composition"),
    Rule(name="rule_markov", title="rule: Markov"),
    Rule(name="rule_twin", title="rule: shuffle twin"),
    Rule(name="rule_positions", title="rule: positions"),
    Rule(name="rule_neighbour", title="rule: nearest neighbour"),
)

RULES = tuple(rule.name for rule in METHODS)
"""Names of all rules; `--methods rules` selects them."""
