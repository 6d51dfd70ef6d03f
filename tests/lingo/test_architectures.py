"""Architectures without a row: what the probe finds, trains and refuses."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers as tr
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from lingo.backbones import Backbone, load_backbone
from lingo.checkpoint import BackboneError
from lingo.data import Split, TaskData
from lingo.export import export_adapter
from lingo.families import FAMILIES
from lingo.heads import pool
from lingo.pack import Pack
from lingo.predict import open_adapter
from lingo.probe import probe
from lingo.sites import target_paths
from lingo.tokenization import tokenize
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints
from tests.support.architectures import ARCHITECTURES, save_checkpoint
from tests.support.merged import merge

REFUSED = {
    "albert": "is called 2 times a pass, not once",
    "squeezebert": "none of its linear layers can be adapted (there are none in layers)",
    "xlnet": "reads [13, 2, 16] from 2 rows of 13 tokens",
    "fnet": "what stands in the padding changes the states before it",
    "nystromformer": "what stands in the padding changes the states before it",
    "convbert": "what stands in the padding changes the states before it",
    "mobilebert": "what stands in the padding changes the states before it",
    "canine": "has no embedding of token ids",
    "ibert": "has no embedding of token ids",
    "longformer": "reads [16, 2, 16] from 2 rows of 13 tokens",
    "bart": "transformers has no class of its encoder alone",
}
LOADED = [name for name in ARCHITECTURES if name not in REFUSED]
SOME = ("gpt_neox", "gemma3_text", "mamba", "mixtral", "modernbert", "t5")
NO_PAPER_NAMES = ("mamba", "mamba2", "falcon_mamba")
BOTH_WAYS = LOADED[LOADED.index("modernbert") :]
RANDOM = np.random.default_rng(5)
TEXTS = ["".join(RANDOM.choice(list("ACGT"), size)) for size in RANDOM.integers(3, 40, 24)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("models")
    return lambda name: save_checkpoint(name, root / name)


def task(backbone: Backbone) -> TaskData:
    labels = toy.split(len(TEXTS), labels=3, longest=5, seed=1).labels
    split = Split(*tokenize(TEXTS, backbone.tokenizer, None, None), labels)
    return TaskData(
        name="toy", kind="classification", num_labels=3, metric="mcc", pad_id=backbone.pad_id, train=split, dev=split
    )  # fmt: skip


def chosen(backbone: Backbone) -> tuple[str, ...]:
    """The paper's names where there are any, else all."""
    paper = tuple(name for name in backbone.matrices if name.startswith("W_"))
    return paper or tuple(backbone.matrices)


def trained(backbone: Backbone, trials: list[TrialConfig]) -> tuple[Pack, list]:
    data = task(backbone)
    pack = Pack(backbone, capacity=len(trials), max_rank=4, max_labels=3)
    slots = [pack.admit(trial, data) for trial in trials]
    for _ in range(6):
        pack.step()
    return pack, slots


def trials(backbone: Backbone) -> list[TrialConfig]:
    given = {
        "targets": chosen(backbone),
        "batch_size": 4,
        "epochs": 1,
        "learning_rate": 3e-2,
        "adapter_dropout": 0.1,
    }
    return [
        TrialConfig.from_dict({"method": "lora", "seed": 1, "rank": 3, **given}),
        TrialConfig.from_dict(
            {"method": "ars", "seed": 2, "b0": 3, "bT": 1, "delta_T": 2, "initial_warmup_ratio": 0.0, "p": 0.3}
            | {"final_finetune_ratio": 0.2, **given}
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SOME else pytest.mark.slow) for name in LOADED]
)
def test_loaded_and_trained_packed_as_alone_exported_and_predicted(name, folder, tmp_path):
    backbone = load_backbone(folder(name))
    assert backbone.causal is (name not in BOTH_WAYS)
    assert backbone.pooling == ("last" if backbone.causal else "mean" if name == "xlm" else "first")
    assert name not in FAMILIES and backbone.hidden_size == 16 and backbone.pad_id == 1
    assert ("W_f2" in backbone.matrices) is (name not in (*NO_PAPER_NAMES, "mixtral", "qwen3_moe", "rwkv"))
    whole = torch.full((1, min(backbone.max_length, 100)), 5)
    assert backbone.states(whole, torch.tensor([whole.shape[1]])).isfinite().all()

    pack, slots = trained(backbone, trials(backbone))
    together = [pack.predict(slot, slot.data.dev) for slot in slots]
    folders = [
        (export_adapter(pack, slots[0], tmp_path / "lora", card={}), 0),
        (export_adapter(pack, slots[1], tmp_path / "ars", card={}), 1),
        (merge(pack, slots[1], tmp_path / "merged", card={}), 1),
    ]
    pack.close()
    for trial, expected in zip(trials(backbone), together, strict=True):
        pack, (slot,) = trained(backbone, [trial])
        np.testing.assert_allclose(pack.predict(slot, slot.data.dev), expected, atol=1e-4)
        pack.close()
    for export, number in folders:
        predictor = open_adapter(export)
        np.testing.assert_allclose(predictor.logits(TEXTS), together[number], atol=1e-4)
    assert np.ptp(together[0], axis=0).min() > 1e-3


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in LOADED])
def test_peft_reads_what_is_exported(name, folder, tmp_path):
    peft = pytest.importorskip("peft")
    backbone = load_backbone(folder(name))
    pack, (slot,) = trained(backbone, trials(backbone)[:1])
    logits = pack.predict(slot, slot.data.dev)
    export = export_adapter(pack, slot, tmp_path / "lora", card={})
    facts = json.loads((export / "lingo.json").read_text())
    pack.close()
    load = facts["load"]
    model = getattr(tr, load["auto"]).from_pretrained(folder(name), **load["options"])
    adapted = peft.PeftModel.from_pretrained(model, str(export)).eval()
    read = Backbone(**{**backbone.__dict__, "model": adapted.base_model.model})
    ids, lengths = (
        torch.from_numpy(part) for part in slot.data.dev.padded(range(len(TEXTS)), backbone.pad_id)
    )
    head = load_file(export / "head.safetensors")
    with torch.no_grad():
        pooled = pool(read.states(ids, lengths), lengths, backbone.pooling)
    np.testing.assert_allclose(pooled @ head["weight"].T + head["bias"], logits, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", LOADED)
def test_sites_hold_what_peft_adapts_by_default(name, folder):
    constants = pytest.importorskip("peft.utils.constants")
    usual = constants.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(name)
    if not isinstance(usual, list):
        pytest.skip("peft has no default")
    backbone = load_backbone(folder(name))
    sites = {path.rpartition(".")[2] for paths in backbone.matrices.values() for path in paths}
    left_out = {"query_proj"} if name == "deberta-v2" else set()  # called once more for positions
    assert set(usual) - left_out <= sites


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in ("albert", "fnet", "bart") else pytest.mark.slow)
                                  for n in REFUSED])  # fmt: skip
def test_refused_in_one_line_that_says_why(name, folder):
    with pytest.raises(BackboneError) as caught:
        load_backbone(folder(name))
    (line,) = caught.value.problems
    assert REFUSED[name] in line and "; take a" in line and "\n" not in line


def test_mamba_reads_a_weight_itself_which_no_adapter_may_stand_before(folder):
    matrices = load_backbone(folder("mamba")).matrices
    assert list(matrices) == ["in_proj", "x_proj"]
    with pytest.raises(ValueError, match=r"among the in_proj, x_proj of .* got \['W_q'\]"):
        target_paths(load_backbone(folder("mamba")), ["W_q", "in_proj"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["gpt_neox", "modernbert"])
def test_the_same_is_found_in_other_types(name, dtype, folder):
    usual, other = load_backbone(folder(name)), load_backbone(folder(name), dtype=dtype)
    assert (usual.causal, usual.matrices) == (other.causal, other.matrices)


def test_no_padding_token(folder, tmp_path):
    shutil.copytree(folder("gpt_neox"), tmp_path / "m")
    for file in ("config.json", "tokenizer_config.json"):
        fields = json.loads((tmp_path / "m" / file).read_text())
        (tmp_path / "m" / file).write_text(
            json.dumps({k: v for k, v in fields.items() if not k.startswith("pad_token")})
        )
    assert load_backbone(tmp_path / "m").pad_id == 2  # that of the end


class Sequence(nn.Module):
    """A causal layer with a fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault, self.calls = fault, 0
        self.embed = nn.Embedding(20, 8)
        self.layers = nn.ModuleList([nn.ModuleDict({"one": nn.Linear(8, 8), "two": Conv1D(8, 8)})])

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embed

    def forward(self, input_ids, attention_mask):
        x, (layer,) = self.embed(input_ids), self.layers
        self.calls += 1
        if self.fault == "neighbours":
            x = x + 0.1 * x.mean(0)
        if self.fault == "changes":
            x = x + self.calls
        if self.fault == "mask" and attention_mask is None:
            x = -x
        if self.fault == "shape":
            return AutoModelOutput(x[:, :5])
        if self.fault == "nan":
            x = x / 0
        y = layer["one"](x).detach() if self.fault == "cut" else layer["one"](x)
        if self.fault == "unused":
            y = x @ layer["one"].weight.T
        return AutoModelOutput(x + layer["two"](y.cumsum(1)))


class AutoModelOutput:
    def __init__(self, states: torch.Tensor) -> None:
        self.last_hidden_state = states


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("neighbours", "a row depends on the rows beside it"),
        ("changes", "the same rows twice give different states"),
        ("mask", "a mask of ones changes the states"),
        ("shape", "must give one state a token"),
        ("nan", "are not finite"),
    ],
)
def test_faults_are_found(fault, reason, folder):
    tokenizer = load_backbone(folder("gpt_neox")).tokenizer
    with pytest.raises(BackboneError, match=reason):
        probe("m", Sequence(fault).requires_grad_(False), tokenizer, pad_id=1, rows=20)


@pytest.mark.parametrize(
    ("fault", "names"), [("none", ["one", "two"]), ("cut", ["two"]), ("unused", ["two"])]
)
def test_layers_that_no_gradient_reaches_are_left_out(fault, names, folder):
    tokenizer = load_backbone(folder("gpt_neox")).tokenizer
    found = probe("m", Sequence(fault).requires_grad_(False), tokenizer, pad_id=1, rows=20)
    assert list(found.matrices) == names and found.causal and found.pooling == "last"


def test_the_rows_of_families_agree_with_the_probe(tmp_path):
    """Where both know a class, they say the same."""
    checkpoints = Checkpoints(tmp_path)
    for name in ("opt", "opt with a projection", "llama", "gpt2", "bert", "roberta", "esm"):
        backbone = checkpoints(name)
        rows = backbone.model.get_input_embeddings().num_embeddings
        found = probe(name, backbone.model, backbone.tokenizer, pad_id=backbone.pad_id, rows=rows)
        assert (found.causal, found.hidden_size) == (backbone.causal, backbone.hidden_size)
        paper = {key: paths for key, paths in found.matrices.items() if key.startswith("W_")}
        assert {k: sorted(v) for k, v in paper.items()} == {
            k: sorted(v) for k, v in backbone.matrices.items()
        }, name


def test_attention_is_that_which_the_class_has(folder):
    kinds = {
        name: load_backbone(folder(name)).model.config._attn_implementation for name in ("gpt_neox", "gemma2")
    }
    assert kinds == {"gpt_neox": "sdpa", "gemma2": "eager"}  # softcapping is not in sdpa
    model = tr.AutoModel.from_pretrained(folder("gpt_neox"), attn_implementation="eager").eval()
    ids = torch.randint(4, 9, (2, 20), generator=torch.Generator().manual_seed(0))
    states = load_backbone(folder("gpt_neox")).states(ids, torch.tensor([20, 20]))
    torch.testing.assert_close(states, model(ids).last_hidden_state)


def test_blocks_drawn_at_random_are_set_to_full_attention(folder):
    path = folder("big_bird")
    assert tr.AutoConfig.from_pretrained(path).attention_type == "block_sparse"
    assert load_backbone(path).model.config.attention_type == "original_full"
