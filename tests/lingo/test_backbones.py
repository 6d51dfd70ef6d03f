import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers as tr
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers.pytorch_utils import Conv1D

from lingo import backbone_folder, backbones
from lingo.backbone_folder import inspect_backbone
from lingo.backbones import load_backbone
from lingo.checkpoint import BackboneError
from lingo.known_models import KNOWN

SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 34,
    "pad_token_id": 1,
}
MODELS = {
    "opt": lambda: tr.OPTForCausalLM(tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=16)),
    "opt with a projection": lambda: tr.OPTForCausalLM(
        tr.OPTConfig(**SMALL, ffn_dim=32, word_embed_proj_dim=8, do_layer_norm_before=False)
    ),
    "llama": lambda: tr.LlamaForCausalLM(
        tr.LlamaConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, tie_word_embeddings=False)
    ),
    "mistral": lambda: tr.MistralForCausalLM(
        tr.MistralConfig(**SMALL, intermediate_size=24, num_key_value_heads=1, sliding_window=4)
    ),
    "qwen2": lambda: tr.Qwen2ForCausalLM(
        tr.Qwen2Config(**SMALL, intermediate_size=24, num_key_value_heads=1)
    ),
    "qwen3": lambda: tr.Qwen3ForCausalLM(
        tr.Qwen3Config(**SMALL, intermediate_size=24, num_key_value_heads=1, head_dim=8)
    ),
    "gpt2": lambda: tr.GPT2LMHeadModel(tr.GPT2Config(**SMALL)),
    "bert": lambda: tr.BertForMaskedLM(tr.BertConfig(**SMALL, intermediate_size=32)),
    "roberta": lambda: tr.RobertaModel(tr.RobertaConfig(**SMALL, intermediate_size=32)),
    "esm": lambda: tr.EsmForMaskedLM(
        tr.EsmConfig(
            **SMALL,
            intermediate_size=32,
            mask_token_id=2,
            token_dropout=True,
            position_embedding_type="absolute",
        )
    ),
}
NAMES = ["W_q", "W_k", "W_v", "W_o", "W_f1", "W_f2"]


def small_tokenizer(folder):
    words = ["<unk>", "<pad>", "<mask>", "<cls>", "A", "C", "G", "T"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", 3)])
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<mask>", "cls_token": "<cls>"}
    tr.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=64, **names).save_pretrained(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Folder of a small random model of each kind, by name."""
    folders: dict[str, Path] = {}

    def save(name):
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("models") / name
            with torch.random.fork_rng():
                torch.manual_seed(0)
                MODELS[name]().save_pretrained(folders[name])
            small_tokenizer(folders[name])
        return folders[name]

    return save


@pytest.fixture
def stories(shared, tmp_path):
    """A writable copy of the real small model."""
    source = shared / "models/stories260K"
    if not source.exists():
        pytest.skip(f"no {source}")
    folder = tmp_path / "stories"
    folder.mkdir()
    for file in source.iterdir():
        shutil.copyfile(file, folder / file.name)
    return folder


def edit_weights(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "new.safetensors", metadata={"format": "pt"})
    (folder / "new.safetensors").replace(folder / "model.safetensors")  # models may still map the old file


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refusal(folder, **options):
    with pytest.raises(BackboneError) as caught:
        load_backbone(folder, **options)
    assert caught.value.problems and all("\n" not in line for line in caught.value.problems)
    assert all(str(folder) in line for line in caught.value.problems)
    return str(caught.value)


@pytest.mark.parametrize("name", MODELS)
def test_headless_model_holds_the_checkpoint(saved, name):
    backbone = load_backbone(saved(name))
    reference = type(backbone.model).from_pretrained(saved(name)).eval()
    ids = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 7, 1, 1]])
    mask = (ids != 1).long()
    with torch.no_grad():
        outputs = backbone.model(ids, attention_mask=mask).last_hidden_state
        expected = reference(ids, attention_mask=mask).last_hidden_state
        alone = backbone.model(ids[1:, :3], attention_mask=mask[1:, :3]).last_hidden_state
    assert outputs.shape == (2, 5, backbone.hidden_size)
    torch.testing.assert_close(outputs[0], expected[0])
    torch.testing.assert_close(outputs[1, :3], alone[0])
    assert not backbone.model.training and not any(p.requires_grad for p in backbone.model.parameters())
    assert backbone.model.config.use_cache is False
    assert backbone.model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("name", MODELS)
def test_matrices_are_linear_layers_in_layer_order(saved, name):
    backbone = load_backbone(saved(name))
    assert list(backbone.matrices) == NAMES
    linear = {
        path
        for path, module in backbone.model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and not path.endswith(("project_in", "project_out"))
    }
    assert linear - {"contact_head.regression"} == {
        path for paths in backbone.matrices.values() for path in paths
    }
    for paths in backbone.matrices.values():
        layers = [int(next(part for part in path.split(".") if part.isdigit())) for path in paths]
        assert layers == sorted(layers) and set(layers) == {0, 1}
        assert len(set(paths)) == len(paths)


def test_names_of_each_family(saved):
    first = {
        name: {k: v[0] for k, v in load_backbone(saved(name)).matrices.items()}
        for name in ("opt", "gpt2", "esm")
    }
    assert first["opt"]["W_o"] == "decoder.layers.0.self_attn.out_proj" and first["opt"]["W_f2"].endswith(
        "fc2"
    )
    assert first["gpt2"]["W_q"] == first["gpt2"]["W_k"] == first["gpt2"]["W_v"] == "h.0.attn.c_attn"
    assert first["esm"]["W_o"] == "encoder.layer.0.attention.output.dense"
    assert first["esm"]["W_f2"] == "encoder.layer.0.output.dense"
    gated = load_backbone(saved("llama")).matrices["W_f1"]
    assert [path.split(".", 1)[1] for path in gated] == [
        f"{i}.mlp.{n}" for i in (0, 1) for n in ("gate_proj", "up_proj")
    ]


@pytest.mark.parametrize(
    ("name", "causal", "pooling", "hidden", "length"),
    [
        ("opt", True, "last", 16, 34),
        ("opt with a projection", True, "last", 8, 34),
        ("llama", True, "last", 16, 34),
        ("mistral", True, "last", 16, 34),
        ("qwen2", True, "last", 16, 34),
        ("qwen3", True, "last", 16, 34),
        ("gpt2", True, "last", 16, 34),
        ("bert", False, "first", 16, 34),
        ("roberta", False, "first", 16, 32),
        ("esm", False, "first", 16, 32),
    ],
)
def test_facts_of_each_family(saved, name, causal, pooling, hidden, length):
    backbone = load_backbone(saved(name))
    facts = (backbone.causal, backbone.pooling, backbone.hidden_size, backbone.max_length, backbone.pad_id)
    assert facts == (causal, pooling, hidden, length, 1)
    ids = torch.full((1, backbone.max_length), 4)
    assert backbone.model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.isfinite().all()


def test_real_model(stories):
    backbone = load_backbone(stories, dtype=torch.bfloat16)
    assert backbone.hidden_size == 64 and backbone.max_length == 512 and backbone.trained
    assert {p.dtype for p in backbone.model.parameters()} == {torch.bfloat16}
    assert [len(paths) for paths in backbone.matrices.values()] == [5, 5, 5, 5, 10, 5]
    assert backbone.tokenizer.padding_side == "right"
    assert inspect_backbone(stories) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype(saved, dtype):
    assert {p.dtype for p in load_backbone(saved("opt"), dtype=dtype).model.parameters()} == {dtype}


def test_training_in_place_leaves_the_checkpoint_alone(stories):
    before = (stories / "model.safetensors").read_bytes()
    model = load_backbone(stories).model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    assert (stories / "model.safetensors").read_bytes() == before


def test_untrained_models_say_so(saved, tmp_path):
    shutil.copytree(saved("opt"), tmp_path / "random")
    edit_config(tmp_path / "random", untrained=True)
    assert load_backbone(saved("opt")).trained and not load_backbone(tmp_path / "random").trained


def test_digest_follows_weights_config_and_tokenizer_alone(stories):
    first = load_backbone(stories).digest
    (stories / "README.md").write_text("other words")
    assert load_backbone(stories).digest == first
    edit_weights(stories, lambda tensors: tensors["model.norm.weight"].mul_(2))
    second = load_backbone(stories).digest
    edit_config(stories, rms_norm_eps=1e-6)
    assert len({first, second, load_backbone(stories).digest}) == 3 and len(first) == 64


def test_missing_tensor_is_named(stories):
    edit_weights(stories, lambda tensors: tensors.pop("model.layers.3.mlp.up_proj.weight"))
    assert "lacks tensors: layers.3.mlp.up_proj.weight." in refusal(stories)


def test_unknown_tensor_is_named(stories):
    edit_weights(stories, lambda tensors: tensors.update({"model.layers.0.extra.weight": torch.ones(2)}))
    assert "has unknown tensors: layers.0.extra.weight." in refusal(stories)


def test_wrong_shape_is_named(stories):
    edit_weights(stories, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    expected = "another shape: norm.weight (config.json says [64], the checkpoint has [63])."
    assert expected in refusal(stories)


def test_too_few_layers_in_the_config_leave_tensors_over(stories):
    edit_config(stories, num_hidden_layers=4)
    assert "has unknown tensors: layers.4." in refusal(stories)


def test_too_many_layers_in_the_config_lack_tensors(stories):
    edit_config(stories, num_hidden_layers=6)
    text = refusal(stories)
    assert "lacks tensors: layers.5." in text and "and 3 more" in text


def test_values_that_are_not_finite_are_named(stories):
    edit_weights(stories, lambda tensors: tensors["model.norm.weight"].fill_(float("nan")))
    assert "not finite in: norm.weight." in refusal(stories)


def test_tensor_that_the_library_leaves_untouched_is_named(stories, monkeypatch):
    loaded = backbones._read_model

    def spoiled(*args):
        model = loaded(*args)
        with torch.no_grad():
            model.layers[2].self_attn.q_proj.weight[0, 0] += 1e-3
        return model

    monkeypatch.setattr(backbones, "_read_model", spoiled)
    assert "was not loaded into: layers.2.self_attn.q_proj.weight." in refusal(stories)


@pytest.mark.parametrize("name", ["gpt2", "opt", "bert"])
def test_every_tensor_but_the_head_is_compared(saved, tmp_path, name):
    folder = tmp_path / "broken"
    for key in load_file(saved(name) / "model.safetensors"):
        if key.startswith(("lm_head", "cls.")) or ".1." in key:
            continue
        shutil.copytree(saved(name), folder, dirs_exist_ok=True)
        edit_weights(folder, lambda tensors, key=key: tensors.pop(key))
        assert "lacks tensors" in refusal(folder), key


def test_another_architecture(stories, saved, tmp_path):
    edit_config(stories, model_type="opt", architectures=["OPTForCausalLM"])
    text = refusal(stories)
    assert "lacks tensors: decoder." in text and "has unknown tensors: embed_tokens.weight" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mambo"}, "`model_type` must be one that transformers"),
        (
            {"model_type": "bart", "is_encoder_decoder": True},
            "an encoder with a decoder, and transformers has no",
        ),
        ({"model_type": "vit"}, "lacks tensors"),
        ({"model_type": None}, "but got None."),
        (
            {"model_type": "own", "auto_map": {"AutoModel": "layers.Model"}},
            "but got 'own'; code of its own ({'AutoModel': 'layers.Model'}) is never run.",
        ),
        (
            {"auto_map": {"AutoModel": "layers.Model"}, "use_rotary_gates": True},
            "which is never run, and config.json says use_rotary_gates, which LlamaConfig of transformers does not",
        ),
        (
            {"auto_map": {"AutoModel": "layers.Model"}, "pre_layer_norm": True},
            "and config.json says pre_layer_norm, which LlamaConfig of transformers does not compute",
        ),
        ({"quantization_config": {"bits": 4}}, "has a `quantization_config`."),
        ({"hidden_size": "wide"}, "does not describe a model"),
        ({"hidden_size": 48}, "has tensors of another shape"),
        ({"vocab_size": 511}, "has tensors of another shape: embed_tokens.weight"),
    ],
)
def test_config_that_cannot_be_used(stories, changes, message):
    edit_config(stories, **changes)
    assert message in refusal(stories)


def test_code_of_its_own_is_no_reason_where_the_native_class_computes_it(stories):
    """GenomeOcean is a Mistral, DNABERT-1 a BERT: what their code adds is a tokenizer or a head."""
    before = load_backbone(stories).model.state_dict()
    edit_config(stories, auto_map={"AutoModel": "layers.Model"}, rnn="lstm", split=10, num_rnn_layer=1)
    (stories / "layers.py").write_text("raise SystemExit")
    assert inspect_backbone(stories) == []
    after = load_backbone(stories).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("length", [0, -1, "many"])
def test_no_position_left_for_a_token(saved, tmp_path, length):
    shutil.copytree(saved("llama"), tmp_path / "m")
    path = tmp_path / "m" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": length}))
    assert f"must leave at least one position, but got 34 and {length!r}." in refusal(tmp_path / "m")


def test_an_encoder_that_reads_one_direction(saved, tmp_path):
    shutil.copytree(saved("bert"), tmp_path / "m")
    edit_config(tmp_path / "m", is_decoder=True)
    assert "must read both directions, but config.json says `is_decoder`" in refusal(tmp_path / "m")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_config_that_cannot_be_read(stories, content):
    (stories / "config.json").write_bytes(content)
    assert "config.json: must be" in refusal(stories)
    assert inspect_backbone(stories)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("config.json", "must have a config.json"),
        ("model.safetensors", "must have weights (model.safetensors or pytorch_model.bin"),
        ("tokenizer.json", "must have a tokenizer"),
    ],
)
def test_missing_file(stories, name, message):
    (stories / name).unlink()
    assert message in refusal(stories)
    assert any(message in line for line in inspect_backbone(stories))


def test_all_missing_files_are_listed_at_once(tmp_path):
    lines = inspect_backbone(tmp_path)
    assert len(lines) == 3 and lines == refusal(tmp_path).split("\n")


def test_no_folder(tmp_path):
    assert "must be a folder, but there is none." in refusal(tmp_path / "absent")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1044992\n", "damaged"),
        (None, "damaged"),
    ],
    ids=["zero bytes", "lfs pointer", "cut short"],
)
def test_damaged_weights(stories, content, message):
    path = stories / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500_000] if content is None else content)
    assert message in refusal(stories)
    assert [message in line for line in inspect_backbone(stories)] == [True]


def shard(folder):
    model = tr.AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="400KB")
    return sorted(folder.glob("model-*.safetensors"))


def test_shards_are_read_and_a_missing_one_is_named(stories):
    whole = load_backbone(stories)
    shards = shard(stories)
    assert len(shards) > 1
    parts = load_backbone(stories).model.state_dict()
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.model.state_dict().items())
    shards[-1].unlink()
    assert f"{shards[-1]}: the checkpoint's file is missing." in refusal(stories)


@pytest.mark.parametrize(
    "content", ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}']
)
def test_bad_index(stories, content):
    shard(stories)
    (stories / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json: must" in refusal(stories)


def test_pickled_weights_are_read_as_weights_only(stories):
    whole = load_backbone(stories)
    path = stories / "pytorch_model.bin"
    torch.save(load_file(stories / "model.safetensors"), path)
    (stories / "model.safetensors").unlink()
    again = load_backbone(stories).model.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.model.state_dict().items())
    torch.save(
        {f"model.{name}": tensor.clone() for name, tensor in again.items()},
        path.with_suffix(".new"),
        _use_new_zipfile_serialization=False,
    )
    path.with_suffix(".new").replace(path)  # the models above may still map the old file
    assert load_backbone(stories).hidden_size == 64
    for content in ({"model.norm.weight": Path("code")}, {"model.norm.weight": 1.0}, [torch.ones(1)]):
        torch.save(content, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
        assert "pytorch_model.bin: is damaged" in refusal(stories)


def test_tokenizer_with_more_tokens_than_the_model(saved, tmp_path, stories):
    shutil.copytree(saved("opt"), tmp_path / "opt")
    shutil.copyfile(stories / "tokenizer.json", tmp_path / "opt" / "tokenizer.json")
    assert "token ids must be below 40 (vocab_size), but the tokenizer has 5" in refusal(tmp_path / "opt")


def test_broken_tokenizer(stories):
    (stories / "tokenizer.json").write_text("{}")
    assert "its tokenizer cannot be read" in refusal(stories)


def test_esm_tokenizer_appends_no_token_that_the_vocabulary_lacks(saved, tmp_path):
    folder = tmp_path / "esm"
    shutil.copytree(saved("esm"), folder)
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text(
        "\n".join(["<unk>", "<pad>", "<mask>", "<cls>", "A", "T", "C", "G", "N"])
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
    assert load_backbone(folder).tokenizer("ATCG")["input_ids"] == [3, 4, 5, 6, 7]


def test_unknown_name_lists_the_nearest():
    with pytest.raises(BackboneError, match=r"but got 'opt-125'; nearest names: opt-125m, opt-350m"):
        load_backbone("opt-125")
    assert "nearest names: nt-" in inspect_backbone("nt-500m")[0]


def test_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    def unreachable(*args, **options):
        raise OSError("no route\nto host")

    monkeypatch.setattr(backbone_folder, "snapshot_download", unreachable)
    for name in ("opt-125m", "owner/model"):
        assert inspect_backbone(name) == []
        with pytest.raises(BackboneError) as caught:
            load_backbone(name)
        assert "nor to be had from the hub" in str(caught.value) and "no route to host" in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


def test_hub_models_come_through_the_same_checks(monkeypatch, stories):
    asked = []

    def download(hub_id, **options):
        asked.append((hub_id, options["revision"]))
        return str(stories)

    monkeypatch.setattr(backbone_folder, "snapshot_download", download)
    backbone = load_backbone("opt-125m", revision="main")
    assert asked == [(KNOWN["opt-125m"].hub_id, "main")]
    assert backbone.name == "opt-125m" and backbone.source == f"facebook/opt-125m@{stories.name}"
    edit_weights(stories, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(BackboneError, match=r"lacks tensors: norm\.weight"):
        load_backbone("owner/model")


def test_revision_is_for_hub_ids(stories):
    assert "`revision` must be for a hub id" in refusal(stories, revision="main")
