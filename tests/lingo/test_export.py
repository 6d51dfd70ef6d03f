"""Exported slots give the logits of `Pack.predict` when peft and transformers load them.

The programs that load them are those of the exported model cards themselves.
"""

import dataclasses
import itertools
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as tr
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers

import lingo.folder
from lingo.backbones import Backbone, load_backbone
from lingo.data import Split, TaskData
from lingo.export import export_adapter, factors_of
from lingo.merge import merge_adapter
from lingo.pack import Pack
from lingo.prompts import Prompt
from lingo.slot import Slot
from lingo.target import ExportError
from lingo.trial import TrialConfig
from tests.lingo import toy

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "initializer_range": 0.3,
}
ENCODER = {"intermediate_size": 32}
CAUSAL: dict[str, Callable[[], tr.PreTrainedModel]] = {
    "opt": lambda: tr.OPTForCausalLM(tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16)),
    "opt with a projection": lambda: tr.OPTModel(
        tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, do_layer_norm_before=False)
    ),
    "llama": lambda: tr.LlamaForCausalLM(
        tr.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=False)
    ),
    # Like the real GPT-2, without a padding token.
    "gpt2": lambda: tr.GPT2LMHeadModel(tr.GPT2Config(**SMALL | {"pad_token_id": None})),
}
ENCODERS: dict[str, Callable[[], tr.PreTrainedModel]] = {
    "bert": lambda: tr.BertForMaskedLM(tr.BertConfig(**SMALL, **ENCODER)),
    "roberta": lambda: tr.RobertaModel(tr.RobertaConfig(**SMALL, **ENCODER)),
    "esm": lambda: tr.EsmForMaskedLM(
        tr.EsmConfig(**SMALL, **ENCODER, mask_token_id=2, position_embedding_type="absolute")
    ),
}
SHORT = {"epochs": 2, "bT": 1, "learning_rate": 5e-2}  # 30 steps, budget phase 3 to 21
TRIALS = [
    toy.trial("lora", 1, **SHORT),
    toy.trial("adalora", 2, **SHORT, alpha=6.5),
    toy.trial("ars", 3, **SHORT, targets=("W_q", "W_o", "W_f2")),
    toy.trial("ars", 4, **SHORT, rank_update="held", b0=6),
]
DURING, AFTER = 12, 25
CARD = {"dev": {"mcc": 0.4375, "auroc": 0.75}, "seconds": 12.5}


def save_tokenizer(folder: Path, *, pad: bool) -> None:
    words = ["<unk>", "<pad>", "A", "C", "G", "T"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"unk_token": "<unk>"} | ({"pad_token": "<pad>"} if pad else {"eos_token": "<pad>"})
    tr.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names).save_pretrained(folder)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Backbone]:
    """A small random backbone of each kind by name, loaded from its folder."""
    folders: dict[str, Path] = {}

    def load(name: str, **options: object) -> Backbone:
        if name not in folders:
            folder = folders[name] = tmp_path_factory.mktemp("models") / name.replace(" ", "-")
            with torch.random.fork_rng():
                torch.manual_seed(0)
                (CAUSAL | ENCODERS)[name]().save_pretrained(folder)
            save_tokenizer(folder, pad=name != "gpt2")
        return load_backbone(folders[name], **options)  # type: ignore[arg-type]

    return load


def task_for(backbone: Backbone, **options: object) -> TaskData:
    return dataclasses.replace(toy.task(**options), pad_id=backbone.pad_id)  # type: ignore[arg-type]


def train(pack: Pack, data: TaskData, trials: list[TrialConfig], steps: int) -> list[Slot]:
    slots = [pack.admit(config, data) for config in trials]
    for _ in range(steps):
        pack.step()
    return slots


def padded(split: Split, pad_id: int) -> tr.BatchEncoding:
    ids, lengths = split.padded(range(len(split)), pad_id)
    mask = np.arange(ids.shape[1]) < lengths[:, None]
    assert not mask.all(), "the test must see padding"
    return tr.BatchEncoding(
        {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask.astype(np.int64))}
    )


def loaded(folder: Path, slot: Slot, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, dict]:
    """Logits of the dev split, and the variables, of the program in the folder's model card."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    scope: dict = {"inputs": padded(slot.data.dev, slot.data.pad_id)}
    monkeypatch.chdir(folder)
    with torch.no_grad():
        exec(code, scope)
    return scope["logits"].double().numpy(), scope


def assert_equal(
    pack: Pack, slot: Slot, folder: Path, monkeypatch: pytest.MonkeyPatch, atol: float = 1e-5
) -> dict:
    logits, scope = loaded(folder, slot, monkeypatch)
    np.testing.assert_allclose(logits, pack.predict(slot, slot.data.dev), rtol=0, atol=atol)
    return scope


def assert_adapters_matter(pack: Pack, slot: Slot) -> None:
    """Nothing above would be shown by adapters that change nothing."""
    before, lam = pack.predict(slot, slot.data.dev), pack.bank.unit + pack.layout.lam(pack.bank.theta)
    head = pack.layout.head_start
    theta = pack.bank.theta[slot.row].clone()
    pack.bank.theta[slot.row, :head] = 0
    without = pack.predict(slot, slot.data.dev)
    pack.bank.theta[slot.row] = theta
    assert lam[slot.row].abs().max() > 0 and np.abs(before - without).max() > 0.01


def test_exports_of_the_real_small_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = shared / "models/stories260K"
    if not source.exists():
        pytest.skip(f"no {source}")
    backbone = load_backbone(source)
    pack = Pack(backbone, capacity=2, max_rank=4)
    for i, slot in enumerate(train(pack, task_for(backbone), [TRIALS[0], TRIALS[2]], AFTER)):
        assert_adapters_matter(pack, slot)
        assert_equal(pack, slot, export_adapter(pack, slot, tmp_path / f"a{i}", card=CARD), monkeypatch)
        assert_equal(pack, slot, merge_adapter(pack, slot, tmp_path / f"m{i}", card=CARD), monkeypatch)
    assert load_backbone(tmp_path / "m1").digest != backbone.digest


@pytest.mark.parametrize(("name", "steps"), [("opt", 0), *itertools.product(CAUSAL, (DURING, AFTER))])
def test_peft_and_transformers_give_the_same_logits(
    name: str, steps: int, backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones(name)
    pack = Pack(backbone, capacity=4, max_rank=7, max_labels=6)
    slots = train(pack, task_for(backbone, labels=5), TRIALS, steps)
    theta = pack.bank.theta.clone()
    for i, slot in enumerate(slots):
        if steps:
            assert_adapters_matter(pack, slot)
        for layout in ("native", "lora"):
            folder = export_adapter(pack, slot, tmp_path / f"{i}-{layout}", card=CARD, layout=layout)  # type: ignore[arg-type]
            scope = assert_equal(pack, slot, folder, monkeypatch)
            assert_is_pefts_own(folder, scope["model"])
        folder = merge_adapter(pack, slot, tmp_path / f"{i}-merged", card=CARD)
        assert assert_equal(pack, slot, folder, monkeypatch)["model"].config.num_labels == 5
    assert torch.equal(pack.bank.theta, theta)


def assert_is_pefts_own(folder: Path, model: object) -> None:
    """What peft itself would save of the loaded model is what the file holds, name by name."""
    from peft import get_peft_model_state_dict

    ours, theirs = load_file(folder / "adapter_model.safetensors"), get_peft_model_state_dict(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_masked_ranks_are_left_out_once_they_are_final(
    backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("opt")
    pack = Pack(backbone, capacity=2, max_rank=6)
    slots = train(pack, task_for(backbone), [TRIALS[1], TRIALS[3]], DURING)
    for slot in slots:
        during = export_adapter(pack, slot, tmp_path / "during", card={})
        tensors = load_file(during / "adapter_model.safetensors")
        values = torch.cat([tensor for name, tensor in tensors.items() if name.endswith("lora_E")])
        assert len(values) == slot.rank * len(slot.paths) and not values.all(), "step 12 allocates"
        assert json.loads((during / "adapter_config.json").read_text())["rank_pattern"] is None
    for _ in range(AFTER - DURING):
        pack.step()
    for slot in slots:
        ranks = [site.rank for site in factors_of(pack, slot).values()]
        assert sum(ranks) == len(slot.paths) and 0 in ranks, "a matrix without any rank must be among them"
        after = export_adapter(pack, slot, tmp_path / "after", card={})
        tensors = load_file(after / "adapter_model.safetensors")
        assert [len(t) for n, t in tensors.items() if n.endswith("lora_E")] == [
            rank for _, rank in sorted(zip(slot.paths, ranks, strict=True))
        ]
        pattern = json.loads((after / "adapter_config.json").read_text())["rank_pattern"]
        assert [sum(kept) for kept in pattern.values()] == ranks
        folded = export_adapter(pack, slot, tmp_path / "folded", card={}, layout="lora")
        config = json.loads((folded / "adapter_config.json").read_text())
        assert len(config["target_modules"]) == np.count_nonzero(ranks)
        assert config["alpha_pattern"] == config["rank_pattern"] != {}


def test_a_compact_pack_exports_the_same(
    backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("opt")
    pack = Pack(backbone, capacity=2, max_rank=6, compact=True)
    for i, slot in enumerate(train(pack, task_for(backbone), TRIALS[1:3], AFTER)):
        assert_equal(pack, slot, export_adapter(pack, slot, tmp_path / f"{i}", card=CARD), monkeypatch)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_merging_is_exact_in_float64(
    name: str, backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones(name, dtype=torch.float64)
    pack = Pack(backbone, capacity=4, max_rank=6, dtype=torch.float64)
    for i, slot in enumerate(train(pack, task_for(backbone), TRIALS, AFTER)):
        folder = merge_adapter(pack, slot, tmp_path / f"{i}", card=CARD)
        assert_equal(pack, slot, folder, monkeypatch, atol=1e-12)


def test_frozen_weights_in_bfloat16_are_merged_without_rounding(
    backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones("opt", dtype=torch.bfloat16)
    pack = Pack(backbone, max_rank=6)
    (slot,) = train(pack, task_for(backbone), TRIALS[2:3], AFTER)
    merged = load_file(merge_adapter(pack, slot, tmp_path / "merged", card=CARD) / "model.safetensors")
    for path, site in factors_of(pack, slot).items():
        base = merged[f"model.{path}.weight"] - site.delta(slot.scale).t()
        frozen = backbone.model.get_submodule(path).weight.float()
        torch.testing.assert_close(base, frozen, rtol=0, atol=1e-6)
    half = merge_adapter(pack, slot, tmp_path / "half", card=CARD, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in load_file(half / "model.safetensors").values()} == {torch.bfloat16}
    assert_equal(pack, slot, half, monkeypatch, atol=0.2)


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_kinds_of_task(
    kind: str, backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, labels = backbones("opt"), 3 if kind == "multilabel" else 1
    pack = Pack(backbone, max_rank=6, max_labels=4)
    (slot,) = train(pack, task_for(backbone, labels=labels, kind=kind), TRIALS[2:3], 5)
    folder = merge_adapter(pack, slot, tmp_path / "merged", card=CARD)
    model = assert_equal(pack, slot, folder, monkeypatch)["model"]
    targets = torch.from_numpy(slot.data.dev.labels)
    loss = model(**padded(slot.data.dev, slot.data.pad_id), labels=targets).loss
    assert float(loss) == pytest.approx(pack.evaluate(slot, slot.data.dev)["loss"], abs=1e-5)


@pytest.mark.parametrize("name", ["opt", "gpt2"])
def test_full_fine_tuning_is_exported_whole(
    name: str, backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones(name)
    pack = Pack(backbone, full=True)
    (slot,) = train(pack, task_for(backbone), [toy.trial("fmft", 1, learning_rate=1e-3)], 5)
    assert_equal(pack, slot, merge_adapter(pack, slot, tmp_path / "model", card=CARD), monkeypatch)
    with pytest.raises(ExportError, match="`merge_adapter`"):
        export_adapter(pack, slot, tmp_path / "adapter", card=CARD)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_keep_their_head_apart(
    name: str, backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = backbones(name)
    pack = Pack(backbone, capacity=3, max_rank=6)
    slots = train(pack, task_for(backbone), TRIALS[:3], AFTER)
    for write in (export_adapter, merge_adapter):
        with pytest.raises(
            ExportError, match=r"^the head of \w+ must be one linear layer.*dense.*'separate'"
        ) as caught:
            write(pack, slots[0], tmp_path / "refused", card=CARD)
        assert "\n" not in str(caught.value) and not (tmp_path / "refused").exists()
        for i, slot in enumerate(slots):
            folder = write(pack, slot, tmp_path / f"{write.__name__}{i}", card=CARD, head="separate")
            assert_equal(pack, slot, folder, monkeypatch)


def test_heads_apart_with_other_pooling(
    backbones: Callable[..., Backbone], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, pooling in (("opt", "last"), ("llama", "mean"), ("bert", "mean")):
        backbone = dataclasses.replace(backbones(name), pooling=pooling)
        pack = Pack(backbone, max_rank=6)
        (slot,) = train(pack, task_for(backbone), TRIALS[2:3], 5)
        folder = export_adapter(pack, slot, tmp_path / name, card=CARD, head="separate")
        assert_equal(pack, slot, folder, monkeypatch)
        if pooling == "mean" and backbone.causal:
            with pytest.raises(ExportError, match="pools mean"):
                export_adapter(pack, slot, tmp_path / "refused", card=CARD)


def test_sequences_that_end_with_the_padding_id_are_refused(
    backbones: Callable[..., Backbone], tmp_path: Path
) -> None:
    backbone = backbones("opt")
    data = task_for(backbone)
    ids = data.dev.ids.copy()
    ids[-1] = backbone.pad_id
    data = dataclasses.replace(data, dev=dataclasses.replace(data.dev, ids=ids))
    pack = Pack(backbone, max_rank=6)
    with pytest.raises(ExportError, match="padding id 1"):
        export_adapter(pack, pack.admit(TRIALS[0], data), tmp_path / "refused", card=CARD)


@pytest.fixture
def trained(backbones: Callable[..., Backbone]) -> tuple[Pack, Slot]:
    backbone = backbones("opt")
    pack = Pack(backbone, max_rank=6)
    return pack, *train(pack, task_for(backbone), [toy.trial("lingo", 1, **SHORT)], DURING)


PROMPT = Prompt("Domain: DNA\nSequence: ", "\nAnnotation:")


def test_card_and_facts(trained: tuple[Pack, Slot], tmp_path: Path) -> None:
    pack, slot = trained
    facts = CARD | {"marks": ["smoke", "a|b"], "note": "two\nlines"}
    folder = export_adapter(
        pack, slot, tmp_path / "x", card=facts, prompt=PROMPT, max_length=60, labels=("no", "yes")
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == pack.backbone.source and card.data.library_name == "peft"
    for row in ("| dev.mcc | 0.4375 |", "| dev.auroc | 0.75 |", "| seconds | 12.5 |", "| marks | smoke, a\\|b |",
                "| note | two<br>lines |", "| learning_rate | 0.05 |", "| p | 0.2 |", "| rank_update | in_place |", "| steps | 12 of 30 |",
                f"| backbone digest | {pack.backbone.digest} |"):  # fmt: skip
        assert row in card.text.splitlines()
    assert "step 12 of 30" in card.text and "single_label_classification: no, yes" in card.text
    about = json.loads((folder / "lingo.json").read_text())
    assert about["prompt"] == {"prefix": PROMPT.prefix, "suffix": PROMPT.suffix}
    assert (about["pooling"], about["pad_token_id"], about["max_length"]) == ("last", 1, 60)
    assert TrialConfig.from_dict(about["config"]) == slot.config
    merged = merge_adapter(pack, slot, tmp_path / "m", card=CARD, prompt=PROMPT, labels=("no", "yes"))
    assert tr.AutoConfig.from_pretrained(merged).id2label == {0: "no", 1: "yes"}
    files = {path.name for root in (folder, merged) for path in root.rglob("*")}
    assert files >= {"adapter_model.safetensors", "adapter_config.json", "model.safetensors", "config.json"}
    assert {Path(name).suffix for name in files} == {".json", ".md", ".safetensors"}, "no pickle"


def test_random_weights_and_hub_sources_show(trained: tuple[Pack, Slot], tmp_path: Path) -> None:
    pack, slot = trained
    pack.backbone = dataclasses.replace(
        pack.backbone, trained=False, name="opt-125m", source="facebook/opt-125m@27dcfa7"
    )
    folder = export_adapter(pack, slot, tmp_path / "x", card={}, prompt=PROMPT)
    text = (folder / "README.md").read_text()
    assert "random weights" in text and "non-commercial" in text
    assert "from_pretrained('facebook/opt-125m', revision='27dcfa7', num_labels=2" in text
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("facebook/opt-125m", "27dcfa7")


@pytest.mark.parametrize("write", [export_adapter, merge_adapter])
def test_what_prediction_cannot_do_without_is_asked_for(
    write: Callable[..., Path], trained: tuple[Pack, Slot], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match="`prompt` must be given for lingo"):
        write(*trained, tmp_path / "x", card=CARD)
    with pytest.raises(ExportError, match="`labels` must name the 2 outputs of toy, but got 3"):
        write(*trained, tmp_path / "x", card=CARD, prompt=PROMPT, labels=("a", "b", "c"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("precious")
    with pytest.raises(ExportError, match="must be new, empty or an earlier export"):
        write(*trained, tmp_path / "thesis", card=CARD, prompt=PROMPT)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.tex"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("failing", ["tensors", "card", "rename"])
@pytest.mark.parametrize("write", [export_adapter, merge_adapter])
def test_nothing_is_half_written(
    write: Callable[..., Path],
    failing: str,
    earlier: bool,
    trained: tuple[Pack, Slot],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def disk_full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    def half_a_file(_: object, path: Path, **__: object) -> None:
        path.write_bytes(b"half")
        disk_full()

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    folder = tmp_path / "export"
    if earlier:
        write(*trained, folder, card={"run": "earlier"}, prompt=PROMPT)
    before = content()
    assert bool(before) == earlier
    with monkeypatch.context() as patch:
        if failing == "tensors":
            patch.setattr(lingo.folder, "save_file", half_a_file)
        elif failing == "card":
            patch.setattr("lingo.card._table", disk_full)
        else:
            real = Path.rename
            patch.setattr(
                Path, "rename", lambda self, to: real(self, to) if "old" in f"{self}{to}" else disk_full()
            )
        with pytest.raises(OSError, match="No space"):
            write(*trained, folder, card=CARD, prompt=PROMPT)
    assert content() == before and set(tmp_path.iterdir()) == ({folder} if earlier else set())
    write(*trained, folder, card=CARD, prompt=PROMPT)
    assert "0.4375" in (folder / "README.md").read_text() and [*tmp_path.iterdir()] == [folder]


def test_peft_is_not_needed(
    trained: tuple[Pack, Slot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["peft", *(name for name in sys.modules if name.startswith("peft."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        import peft  # noqa: F401
    export_adapter(*trained, tmp_path / "adapter", card=CARD, prompt=PROMPT)
    merge_adapter(*trained, tmp_path / "model", card=CARD, prompt=PROMPT)
