"""Backbones that take no new tokens."""

from dataclasses import replace

import pytest

from harness.pipeline.backbone_checks import BARE, new_token_problems
from lingo.dna_tokenizers import letters

CADUCEUS = replace(BARE, tokenizer=letters(upper=True), rows=16, source="ps", grows=False)


@pytest.mark.parametrize("scheme", ["bbpe", "one_hot"])
def test_tokens_that_are_there_are_taken(scheme):
    assert list(new_token_problems(scheme, {"ps": CADUCEUS})) == []


def test_new_ones_are_refused_before_anything_is_tokenised():
    (line,) = new_token_problems("kmer", {"ps": CADUCEUS, "ph": replace(CADUCEUS, grows=True)})
    assert line.startswith("`--tokenization kmer` ") and "but in ps every token has a complement" in line
