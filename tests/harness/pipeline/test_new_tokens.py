"""Backbones that take no new tokens."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.core.errors import InputError
from harness.pipeline.prepare import BARE, _refuse_new_tokens
from lingo.dna_tokenizers import letters

CADUCEUS = replace(BARE, tokenizer=letters(upper=True), rows=16, source="ps", grows=False)


@pytest.mark.parametrize("scheme", ["bbpe", "one_hot"])
def test_tokens_that_are_there_are_taken(scheme):
    _refuse_new_tokens(SimpleNamespace(tokenization=scheme), {"ps": CADUCEUS, "none": BARE})


def test_new_ones_are_refused_before_anything_is_tokenised():
    with pytest.raises(InputError, match=r"`--tokenization kmer` .* but in ps every token has a complement"):
        _refuse_new_tokens(SimpleNamespace(tokenization="kmer"), {"ps": CADUCEUS})
    _refuse_new_tokens(SimpleNamespace(tokenization="kmer"), {"ph": replace(CADUCEUS, grows=True)})
