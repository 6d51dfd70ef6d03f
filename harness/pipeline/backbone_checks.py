"""Whether studies fit their backbones: prompts, new tokens, matrices and pooling; by `plan` and before preparation."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from harness.config.benchmark import NO_BACKBONE, Benchmark
from harness.config.studies import Study
from lingo.families import Pooling
from lingo.methods import METHODS
from lingo.nucleotides import bare_bases, units_for
from lingo.trial import TrialConfig
from lingo.vocabulary import reads_language

if TYPE_CHECKING:
    from lingo.backbones import Backbone


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What preparation needs of a backbone, without its weights.

    Attributes:
        tokenizer: Its tokenizer, or the bases themselves for methods without a backbone.
        rows: Rows of its token embedding.
        max_length: Maximum number of tokens of an input; `None` for any number.
        language: Whether its vocabulary is of language, and not of DNA alone.
        grows: Whether new tokens can be added to it.
        matrices, causal, pooling: As in `lingo.backbones.Backbone`.
    """

    tokenizer: Any
    rows: int
    pad_id: int
    max_length: int | None
    digest: str
    trained: bool
    source: str
    language: bool
    grows: bool = True
    matrices: Mapping[str, Sequence[str]] = field(default_factory=dict)
    causal: bool = False
    pooling: Pooling | None = None

    @classmethod
    def of(cls, backbone: "Backbone", source: str) -> "Tokens":
        """Those of a backbone, whose weights need not have values; `source` is what to load."""
        from lingo.embeddings import rows_of

        return cls(
            tokenizer=backbone.tokenizer,
            rows=rows_of(backbone),
            pad_id=backbone.pad_id,
            max_length=backbone.max_length,
            digest=backbone.digest,
            trained=backbone.trained,
            source=source,
            language=reads_language(backbone.tokenizer),
            grows=getattr(backbone.model, "takes_new_tokens", True),
            matrices=backbone.matrices,
            causal=backbone.causal,
            pooling=backbone.pooling,
        )


BARE = Tokens(
    tokenizer=bare_bases(),
    rows=0,
    pad_id=0,
    max_length=None,
    digest=NO_BACKBONE,
    trained=True,
    source=NO_BACKBONE,
    language=False,
)
"""What methods without a backbone read: whole sequences, base by base."""


def prompted(study: Study, tokens: Tokens, benchmark: Benchmark) -> bool:
    """Whether sequences stand in the language prefix: as `--prompt` asks, or by method, if the backbone reads language
    at all."""
    if not tokens.language or benchmark.prompt == "off":
        return False
    return benchmark.prompt == "on" or METHODS[study.method].prompt


def misfits(studies: Sequence[Study], benchmark: Benchmark, backbones: Mapping[str, Tokens]) -> list[str]:
    """Why studies cannot be trained on their backbones, one line each; empty if all can.

    Args:
        backbones: By `Study.source`; studies of others are not checked.
    """
    known = [study for study in studies if study.source in backbones]
    used = {
        source: backbones[source]
        for source in dict.fromkeys(s.source for s in known)
        if source != NO_BACKBONE
    }
    found = [*_prompt_problems(benchmark, used), *new_token_problems(benchmark.tokenization, used)]
    for study in known:
        found += _target_problems(study, backbones[study.source])
        found += _pooling_problems(study, backbones[study.source])
    return list(dict.fromkeys(found))


def _prompt_problems(benchmark: Benchmark, backbones: Mapping[str, Tokens]) -> Iterator[str]:
    """`--prompt on` with a vocabulary of DNA alone."""
    for source, tokens in backbones.items():
        if benchmark.prompt == "on" and not tokens.language:
            yield (
                f"`--prompt on` requires a language model, but the vocabulary of {source} is DNA only; use "
                "`--prompt auto`."
            )


def new_token_problems(
    scheme: Literal["bbpe", "one_hot", "kmer"], backbones: Mapping[str, Tokens]
) -> Iterator[str]:
    """`--tokenization` with tokens that cannot be added to a backbone."""
    for source, tokens in backbones.items():
        if scheme != "bbpe" and not tokens.grows and units_for(scheme, tokens.tokenizer, tokens.rows).new:
            yield (
                f"`--tokenization {scheme}` must be used with backbones that take new tokens, but in {source} every "
                "token has a complement; use `--tokenization bbpe`."
            )


def _target_problems(study: Study, tokens: Tokens) -> Iterator[str]:
    """Targets that the backbone does not have."""
    from lingo.sites import resolve

    if "targets" not in METHODS[study.method].settings or not tokens.matrices:
        return
    try:
        resolve(study.backbone, tokens.matrices, study.space.fixed.get("targets", TrialConfig.targets))
    except ValueError as error:
        yield str(error)


def _pooling_problems(study: Study, tokens: Tokens) -> Iterator[str]:
    """A pooled state that the backbone does not have, or that does not depend on the sequence."""
    from lingo.heads import pooling_of

    leaf, fixed = study.space.leaves.get("pooling"), study.space.fixed
    if tokens.pooling is None or METHODS[study.method].engine == "probe":
        return
    for how in leaf.choices if leaf else [fixed.get("pooling", "auto")]:
        try:
            pooling_of(how, tokens.pooling)
        except ValueError as error:
            yield f"{study.backbone} {study.method}: {error}"
    if tokens.causal and fixed.get("pooling") == "first":
        yield (
            f"{study.backbone} {study.method}: `pooling` must not be first on a backbone whose first token sees "
            "nothing of what follows; use auto, mean or last."
        )
