"""Exported folders opened again predict what their slot predicts, the input built from sequences."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import expit, softmax

from lingo.adapter_folder import AdapterError
from lingo.backbones import Backbone
from lingo.data import Split, TaskData
from lingo.embeddings import add_rows, rows_of
from lingo.export import export_adapter
from lingo.foreign import PeftNetwork, peft_trial
from lingo.nucleotides import units_for
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.prompts import Prompt
from lingo.sequences import reverse_complement
from lingo.single_export import export_peft
from lingo.slot import Slot
from lingo.strands import average_strands
from lingo.target import ExportError
from lingo.tokenization import SPACER, tokenize
from tests.lingo import toy
from tests.lingo.tiny import CAUSAL, ENCODERS, Checkpoints, train
from tests.support.merged import merge

PROMPT = Prompt("GATTACA", "CAT")
RANDOM = np.random.default_rng(5)
TEXTS = ["".join(RANDOM.choice(list("ACGT"), size)) for size in RANDOM.integers(3, 40, 60)]
SHORT = {"epochs": 2, "bT": 1, "learning_rate": 5e-2}  # 30 steps, the last allocation at step 21
KINDS = [("classification", 2), ("classification", 9), ("multilabel", 5), ("regression", 1)]


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


def task(backbone: Backbone, kind: str, labels: int, *, prompt: Prompt | None, most: int | None, units=None):
    """A task of `TEXTS`, whose dev split is its train split."""
    encode = units.tokenize if units else lambda texts, *rest: tokenize(texts, backbone.tokenizer, *rest)
    values = toy.split(len(TEXTS), labels=labels, longest=5, seed=1, kind=kind).labels
    split = Split(*encode(TEXTS, prompt, most), values)
    return TaskData(
        name="toy",
        kind=kind,  # type: ignore[arg-type]
        num_labels=labels,
        metric="mcc",
        pad_id=backbone.pad_id,
        train=split,
        dev=split,
    )


def trained(backbone: Backbone, data: TaskData, method: str = "ars", steps: int = 25) -> tuple[Pack, Slot]:
    pack = Pack(backbone, max_rank=6, max_labels=data.num_labels)
    return pack, *train(pack, data, [toy.trial(method, 3, **SHORT)], steps)


def export(pack: Pack, slot: Slot, folder: Path, **options: object) -> Path:
    return export_adapter(pack, slot, folder, card={}, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "labels"), KINDS)
@pytest.mark.parametrize("method", ["lora", "ars"])
def test_each_kind_of_task(
    kind: str, labels: int, method: str, backbones: Checkpoints, tmp_path: Path
) -> None:
    backbone = backbones("opt")
    data = task(backbone, kind, labels, prompt=PROMPT, most=30)
    pack, slot = trained(backbone, data, method)
    folder = export(pack, slot, tmp_path / "x", prompt=PROMPT, max_length=30)
    predictor = open_adapter(folder)
    assert 0 < predictor.encode(TEXTS).cut < len(TEXTS), "some sequences must be cut, not all"
    logits = pack.predict(slot, data.dev)
    assert np.ptp(logits, axis=0).min() > 0.01
    np.testing.assert_allclose(predictor.logits(TEXTS), logits, atol=1e-5)
    found = predictor.predict([text.lower() for text in TEXTS], batch_size=7)
    assert found.shape == (len(TEXTS), labels) and len(predictor.labels) == labels
    link = {"classification": lambda x: softmax(x, 1), "multilabel": expit, "regression": lambda x: x}[kind]
    np.testing.assert_allclose(found, link(logits), atol=1e-5)
    assert predictor.predict([]).shape == (0, labels)


def test_letters_and_pairs_as_in_training(backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("opt")
    pack, slot = trained(backbone, task(backbone, "classification", 2, prompt=None, most=None))
    plain = export(pack, slot, tmp_path / "plain")
    known = open_adapter(plain)
    masked = open_adapter(export(pack, slot, tmp_path / "masked", case="mask"))
    assert np.array_equal(masked.logits(["acGTUr"]), known.logits(["NNGTTN"]))
    assert np.array_equal(known.logits(["acGTUr"]), known.logits(["ACGTTN"]))
    assert "Lower case was raised, U read as T" in (plain / "README.md").read_text()
    folder = export(pack, slot, tmp_path / "pairs", pair=SPACER, both_strands=True)
    text = (folder / "README.md").read_text()
    assert f"one text with `{SPACER}` between them" in text
    paired = open_adapter(folder)
    strands = known.logits([f"ACGG{SPACER}TTC", f"CCGT{SPACER}GAA"])
    np.testing.assert_allclose(
        paired.logits(["ACgg|UTC"]), average_strands("classification", strands[:1], strands[1:]), atol=1e-6
    )
    for wrong in ("ACGG", "ACGG|TT|CA", "ACGG|"):
        with pytest.raises(ValueError, match="sequence 1: "):
            paired.logits([wrong])
    with pytest.raises(ValueError, match=r"got '\|' at position 5"):
        known.logits(["ACGG|TTC"])


OTHERS = [("gpt2", "lora"), ("dnabert2", "lora")]


@pytest.mark.parametrize(("name", "method"), [*((name, "ars") for name in (*CAUSAL, *ENCODERS)), *OTHERS])
def test_each_family(name: str, method: str, backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones(name)
    data = task(backbone, "classification", 3, prompt=None, most=None)
    pack, slot = trained(backbone, data, method)
    logits = pack.predict(slot, data.dev)
    for folder in (export(pack, slot, tmp_path / "x"), merge(pack, slot, tmp_path / "merged", card={})):
        np.testing.assert_allclose(open_adapter(folder).logits(TEXTS), logits, atol=2e-5)


@pytest.mark.parametrize("method", ["lokr", "loha"])
def test_methods_of_peft(method: str, backbones: Checkpoints, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    backbone = backbones("llama")
    units = units_for("kmer", backbone.tokenizer, rows_of(backbone))
    add_rows(backbone, units.new)
    data = task(backbone, "classification", 3, prompt=PROMPT, most=20, units=units)
    one = peft_trial(backbone, toy.trial(method, 1, learning_rate=5e-2, epochs=2), data)
    while not one.done:
        one.advance()
    logits, network = one.predict(data.dev), one.network
    assert isinstance(network, PeftNetwork) and np.ptp(logits) > 0.1
    options = {"prompt": PROMPT, "max_length": 20, "tokenization": units.recipe()}
    folder = export_peft(network, one, tmp_path / "x", card={}, **options)
    np.testing.assert_allclose(open_adapter(folder).logits(TEXTS), logits, atol=5e-5)
    held = load_file(folder / "adapter_model.safetensors")
    save_file({name: held[name] for name in list(held)[1:]}, folder / "adapter_model.safetensors")
    edit(folder, files={})
    with pytest.raises(AdapterError, match="peft did not load it whole"):
        open_adapter(folder)


@pytest.mark.parametrize("steps", [0, 12])
def test_an_adapter_in_the_middle_of_training(steps: int, backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("llama")
    data = task(backbone, "classification", 2, prompt=None, most=None)
    pack, slot = trained(backbone, data, steps=steps)
    for layout in ("native", "lora"):
        folder = export(pack, slot, tmp_path / layout, layout=layout)
        np.testing.assert_allclose(
            open_adapter(folder).logits(TEXTS), pack.predict(slot, data.dev), atol=1e-5
        )


@pytest.mark.parametrize("name", ["opt", "dnabert2", "gpt2"])
@pytest.mark.parametrize("scheme", ["one_hot", "kmer"])
def test_new_tokens_travel_with_the_adapter(
    name: str, scheme: str, backbones: Checkpoints, tmp_path: Path
) -> None:
    backbone = backbones(name)
    units = units_for(scheme, backbone.tokenizer, rows_of(backbone))  # type: ignore[arg-type]
    assert (units.new > 0) == (scheme == "kmer"), "the toy vocabulary is DNA: it has bases, and no 6-mers"
    add_rows(backbone, units.new)
    data = task(backbone, "classification", 2, prompt=PROMPT, most=20, units=units)
    pack, slot = trained(backbone, data)
    folder = export(pack, slot, tmp_path / "x", prompt=PROMPT, max_length=20, tokenization=units.recipe())
    assert (folder / "embeddings.safetensors").exists() == bool(units.new)
    np.testing.assert_allclose(open_adapter(folder).logits(TEXTS), pack.predict(slot, data.dev), atol=1e-5)
    with pytest.raises(ExportError, match="embedding rows of"):
        export_adapter(
            pack,
            slot,
            tmp_path / "y",
            card={},
            tokenization={**units.recipe(), "first_id": 7, "new_tokens": 2},
        )


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_both_strands(kind: str, backbones: Checkpoints, tmp_path: Path) -> None:
    backbone, labels = backbones("opt"), 1 if kind == "regression" else 3
    data = task(backbone, kind, labels, prompt=None, most=None)
    pack, slot = trained(backbone, data)
    folder = export(pack, slot, tmp_path / "x", both_strands=True)
    turned = Split(*tokenize(reverse_complement(TEXTS), backbone.tokenizer, None, None), data.dev.labels)
    wanted = average_strands(kind, pack.predict(slot, data.dev), pack.predict(slot, turned))
    predictor = open_adapter(folder)
    np.testing.assert_allclose(predictor.logits(TEXTS), wanted, atol=1e-5)
    np.testing.assert_allclose(
        predictor.predict(reverse_complement(TEXTS)), predictor.predict(TEXTS), atol=1e-6
    )


def test_frozen_weights_in_bfloat16_are_used_as_in_training(backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("opt", dtype=torch.bfloat16)
    data = task(backbone, "classification", 2, prompt=None, most=None)
    pack, slot = trained(backbone, data)
    folder = export(pack, slot, tmp_path / "x")
    predictor = open_adapter(folder)
    assert next(predictor.backbone.model.parameters()).dtype == torch.bfloat16
    logits = pack.predict(slot, data.dev)
    np.testing.assert_allclose(predictor.logits(TEXTS), logits, atol=0.05)
    np.testing.assert_allclose(open_adapter(folder, frozen="fp32").logits(TEXTS), logits, atol=0.2)
    if not torch.cuda.is_available():
        edit(folder, backbone={**facts(folder)["backbone"], "dtype": "4bit"})
        with pytest.raises(AdapterError, match="was trained on weights in 4 bits"):
            open_adapter(folder)


@pytest.fixture
def exported(backbones: Checkpoints, tmp_path: Path) -> Path:
    backbone = backbones("opt")
    data = task(backbone, "classification", 2, prompt=None, most=None)
    return export(*trained(backbone, data, steps=2), tmp_path / "x", labels=("no", "yes"))


def test_another_backbone_is_refused(backbones: Checkpoints, exported: Path, tmp_path: Path) -> None:
    backbones("llama")
    with pytest.raises(
        AdapterError, match=r"needs the backbone .*opt with digest \w{12}, but .*llama has digest"
    ):
        open_adapter(exported, backbones.root / "llama")
    assert open_adapter(exported, backbones.root / "opt").labels == ("no", "yes")
    edit(exported, backbone={**facts(exported)["backbone"], "source": str(tmp_path / "gone")})
    with pytest.raises(
        AdapterError, match=r"cannot be loaded from .*gone; give its location with --backbone"
    ):
        open_adapter(exported)


def facts(folder: Path) -> dict:
    return json.loads((folder / "lingo.json").read_text())


def edit(folder: Path, **changes: object) -> None:
    (folder / "lingo.json").write_text(json.dumps(facts(folder) | changes))


def test_damaged_exports_are_refused(exported: Path, tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(AdapterError, match=match) as caught:
            open_adapter(exported)
        assert "\n" not in str(caught.value)

    weights = exported / "adapter_model.safetensors"
    held = load_file(weights)
    name = next(name for name in held if name.endswith("lora_A"))
    save_file({key: value for key, value in held.items() if key != name}, weights)
    refused("sha256 differs")
    edit(exported, files={})
    refused("must have .*lora_A, .*lacks some|of no use")
    save_file(held | {name: held[name] * float("nan")}, weights)
    refused("must hold finite numbers")
    save_file(held | {name: held[name][:, :3].contiguous()}, weights)
    refused("but its adapter is for")
    save_file(held, weights)
    head = load_file(exported / "head.safetensors")
    save_file({"bias": head["bias"]}, exported / "head.safetensors")
    refused("the head must have 2 outputs, but got none")
    save_file(head | {"bias": head["bias"][:1].clone()}, exported / "head.safetensors")
    refused(r"the head's bias must have 2 numbers, but got \[1\]")
    weights.write_bytes(b"half")
    refused("cannot be read as safetensors")
    edit(exported, format=99)
    refused("`format` must be at most 4, but got 99")
    (exported / "lingo.json").write_text("[]")
    refused("must be a JSON object")
    with pytest.raises(AdapterError, match=r"must be an exported adapter, but has no lingo\.json"):
        open_adapter(tmp_path)


def test_texts_that_are_no_sequences_are_refused(exported: Path) -> None:
    predictor = open_adapter(exported)
    with pytest.raises(ValueError, match=r"sequence 2: .*must hold nucleotide codes.*'-' at position 3"):
        predictor.predict(["ACGT", "AC-T"])
    with pytest.raises(ValueError, match="sequence 1: `sequence` must not be empty"):
        predictor.predict([""])


def test_a_very_long_sequence_is_cut_before_it_is_tokenised(exported: Path) -> None:
    edit(exported, max_length=60)
    predictor = open_adapter(exported)
    long = "".join(RANDOM.choice(list("ACGT"), 1000))
    encoded = predictor.encode([long])
    assert encoded.cut == 1 and encoded.split.lengths.tolist() == [60]
    ids, _ = tokenize([long], predictor.backbone.tokenizer, None, 60)
    assert np.array_equal(encoded.split.ids, ids)


def test_what_a_merged_model_needs_is_inside(backbones: Checkpoints, tmp_path: Path) -> None:
    backbone = backbones("gpt2")
    units = units_for("kmer", backbone.tokenizer, rows_of(backbone))
    add_rows(backbone, units.new)
    data = task(backbone, "classification", 2, prompt=None, most=None, units=units)
    pack, slot = trained(backbone, data, steps=3)
    folder = merge(pack, slot, tmp_path / "m", card={}, tokenization=units.recipe())
    np.testing.assert_allclose(open_adapter(folder).logits(TEXTS), pack.predict(slot, data.dev), atol=1e-5)
    with pytest.raises(AdapterError, match="merged model, which needs no backbone"):
        open_adapter(folder, backbones.root / "gpt2")
