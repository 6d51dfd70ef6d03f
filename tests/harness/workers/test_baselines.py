"""Methods without a backbone in plans and prepared data, and the prompt apart from the method."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from harness.config.benchmark import NO_BACKBONE, TINY_MODEL
from harness.config.build import build
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.data.prepared import open_prepared
from harness.data.quickstart import make_backbone
from harness.pipeline.backbone_checks import BARE, Tokens
from harness.pipeline.backbone_checks import prompted as is_prompted
from harness.pipeline.prepare import prepare_studies, read_backbones
from harness.workers.determinism import Exact
from harness.workers.single_engine import Held, SimpleEngine
from lingo.methods import DEFAULT_METHODS, METHODS
from lingo.vocabulary import reads_language

TASK = "quickstart/promoter"


def checked(tmp_path: Path, **options: Any) -> Any:
    given = {"tasks": (TASK,), "out": tmp_path / "out", "limit": 32} | options
    return plan(build(given))


def test_a_baseline_is_studied_once_per_task(tmp_path: Path) -> None:
    other = make_backbone(tmp_path / "other")
    found = checked(
        tmp_path, models=(TINY_MODEL, str(other)), methods=("kmer_logreg", "lora", "onehot_cnn", "ars")
    )
    assert [study.key for study in found.studies] == [
        f"{TASK}|{model}|{method}" for model in (TINY_MODEL, "other") for method in ("lora", "ars")
    ] + [f"{TASK}|none|{method}" for method in ("kmer_logreg", "onehot_cnn")]


def test_baselines_alone_need_no_backbone(tmp_path: Path) -> None:
    found = checked(tmp_path, methods=("kmer_logreg", "onehot_cnn"))
    assert {study.source for study in found.studies} == {NO_BACKBONE}
    with pytest.raises(InputError, match="`--models` is needed"):
        checked(tmp_path, methods=("kmer_logreg", "lora"))


def test_without_methods_the_paper_s_baselines_and_rules_are_compared() -> None:
    others = {"rslora", "lora_plus", "pissa", "dora", "vera"}
    others |= {name for name, row in METHODS.items() if row.engine == "peft"}
    assert set(METHODS) - set(DEFAULT_METHODS) == others
    assert {"lora", "adalora", "ars", "lingo", "kmer_logreg", "onehot_cnn", "fmft"} <= set(DEFAULT_METHODS)


def test_a_baseline_reads_bases_whatever_the_benchmark_asks_of_tokens(tmp_path: Path) -> None:
    found = checked(
        tmp_path,
        models=(TINY_MODEL,),
        methods=("lora", "onehot_cnn", "kmer_logreg"),
        tokenization="kmer",
        max_length=16,
    )
    folder = make_backbone(tmp_path / "model")
    backbones = {TINY_MODEL: read_backbones([str(folder)])[str(folder)]}
    lora, cnn, counts = prepare_studies(found, backbones, lambda line: None)
    assert cnn.data == counts.data != lora.data
    assert [cell.facts["tokenization"] for cell in (lora, cnn, counts)] == ["kmer", "bases", "bases"]
    assert lora.tokens <= 16 < 60 == cnn.tokens
    assert set(open_prepared(cnn.data).train.ids.tolist()) <= {1, 2, 3, 4, 5}
    assert (cnn.source, cnn.backbone_digest) == (NO_BACKBONE, NO_BACKBONE)
    assert "untrained backbone" in lora.marks and "untrained backbone" not in cnn.marks


@pytest.mark.parametrize(
    ("asked", "language", "prompted"),
    [
        ("auto", True, {"lingo"}),
        ("auto", False, set()),
        ("on", True, {"lingo", "lora", "fmft"}),
        ("off", True, set()),
    ],
)
def test_the_prompt_is_the_methods_own_or_as_asked(
    tmp_path: Path, asked: str, language: bool, prompted: set[str]
) -> None:
    found = checked(
        tmp_path, models=(TINY_MODEL,), methods=("lingo", "lora", "fmft"), prompt=asked, limit=400
    )
    tokens: Tokens = replace(BARE, language=language)
    assert {s.method for s in found.studies if is_prompted(s, tokens, found.benchmark)} == prompted


def test_vocabularies_of_dna_have_no_words(shared: Path) -> None:
    from transformers import AutoTokenizer

    folder = shared / "data/tokenizers"
    found = {
        name: reads_language(AutoTokenizer.from_pretrained(folder / name)) for name in ("opt", "dnabert2")
    }
    assert found == {"opt": True, "dnabert2": False}


def test_a_fit_in_its_own_thread_has_the_threads_of_exact_arithmetic() -> None:
    """OpenMP counts threads for each thread: the order of a fit's sums must not depend on the machine's cores."""
    seen: list[int] = []

    class Fit:
        total_steps = 1

        def advance(self) -> bool:
            seen.extend(
                int(pool["num_threads"])
                for pool in threadpool_info()
                if pool["user_api"] in ("openmp", "blas")
            )
            return True

    exact, engine = Exact(), SimpleEngine()
    exact.set(True)
    try:
        engine._threads.submit(threadpool_limits, 2).result()  # as where OMP_NUM_THREADS is not set
        held = Held(job=None, trial=Fit(), started=0.0)  # type: ignore[arg-type]
        while not engine._slow(held):
            pass
    finally:
        exact.set(False)
        engine.close()
    assert seen and set(seen) == {1}
