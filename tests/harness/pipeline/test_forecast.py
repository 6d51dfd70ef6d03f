"""`plan`: the same options as `run`, everything told, nothing refused for being absent, nothing written."""

import json

import numpy as np
import pytest
from transformers import EsmConfig, EsmModel
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.benchmark import DECLARED, flag_of
from harness.config.build import build
from harness.config.plan import plan
from harness.data import sources
from harness.data.tasks import SUITES
from harness.pipeline.forecast import forecast, planned
from lingo import text_files
from lingo.backbones import load_backbone
from lingo.flop_count import counted_step
from lingo.flops import PUBLISHED
from lingo.sites import linear_shapes, target_paths
from tests.support.architectures import save_checkpoint
from tests.support.task_files import listing, write_task


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test asks the hub, and nothing is kept from it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)


def told(*arguments):
    result = CliRunner().invoke(app, ["plan", "--no-measure", *map(str, arguments)])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_the_whole_of_gue_with_the_papers_backbones_and_nothing_here(tmp_path):
    code, text = told("--suite", "gue-deepsea")
    assert code == 0 and list(tmp_path.iterdir()) == []
    lines = text.splitlines()
    table = {line.split()[0]: line.split() for line in lines if "neither" in line}
    assert set(table) == set(SUITES["gue-deepsea"]) and len(table) == 29
    assert all(line.count("neither") == len(PUBLISHED) for line in table.values())
    assert all(any(line.startswith(f"Missing backbone {name}") for line in lines) for name in PUBLISHED)
    assert "virus/covid" in text and "`prepare deepsea" in text


def test_what_is_here_and_what_is_not(tmp_path, shared):
    write_task(tmp_path / "gue")
    before = listing(tmp_path)
    model = shared / "models" / "stories260K"
    code, text = told(
        "--tasks", "mouse/2,mouse/3", "--models", f"{model},opt-125m", "--data-dir", tmp_path / "gue"
    )
    assert code == 0 and listing(tmp_path) == before
    lines = [line for line in text.splitlines() if line.startswith("mouse/")]
    rows = {line.split()[0]: line for line in reversed(lines)}
    assert "40" in rows["mouse/2"] and "here" in rows["mouse/2"] and "ready" in rows["mouse/2"]
    assert "no model" in rows["mouse/2"] and "~1,904" in rows["mouse/3"] and "neither" in rows["mouse/3"]


def test_bad_options_are_refused_as_by_run():
    code, text = told("--tasks", "EMP/H33", "--epochs", 0)
    assert code == 2 and "`--tasks` must name known tasks" in text and "`--epochs` must be at least 1" in text


def test_bad_files_are_told_and_not_refused(tmp_path):
    write_task(tmp_path / "gue", train="sequence,label\nACGT,7\n")
    code, text = told("--tasks", "mouse/2", "--models", "opt-125m", "--data-dir", tmp_path / "gue")
    assert code == 0 and "train.csv, line 2:" in text and " bad " in text


def test_a_metric_that_run_refuses_is_told():
    code, text = told("--tasks", "quickstart/promoter", "--methods", "lora", "--metric", "pearson")
    assert code == 0 and "`--metric pearson` is no metric of quickstart/promoter" in text


def test_what_run_refuses_of_pooling_and_four_bits_is_told(monkeypatch, shared):
    monkeypatch.setattr("lingo.quantized.four_bit_problem", lambda: "needs a library.")
    models = f"{shared / 'models' / 'stories260K'},quickstart-opt"
    options = ("--tasks", "quickstart/promoter", "--methods", "lora", "--models", models)
    code, text = told(*options, "--pooling", "first", "--frozen", "4bit")
    assert code == 0 and "`--frozen 4bit` needs a library." in text
    for name in models.split(","):
        assert f"{name.rpartition('/')[2]} lora: `pooling` must not be first" in text


def test_a_table_is_hashed_once(tmp_path, shared, monkeypatch):
    write_task(tmp_path / "gue")
    hashed = []

    def file_digest(path):
        hashed.append(path)
        return text_files.file_digest(path)

    monkeypatch.setattr("harness.data.file_digests.file_digest", file_digest)
    code, _ = told("--tasks", "mouse/2", "--models", "opt-125m", "--data-dir", tmp_path / "gue")
    assert code == 0 and len(hashed) == len(set(hashed)) == 3


def test_steps_and_epochs_add_up():
    options = {"tasks": ("mouse/3",), "methods": ("lora",), "num_samples": 4, "seeds": (0, 1), "epochs": 5}
    (whole,) = forecast(planned({**options, "scheduler": "none", "models": ("opt-125m",)})).works
    steps = -(-1904 // 8)
    assert whole.epochs == (4 + 2) * 5 and whole.steps == whole.most_steps == 30 * steps
    (halved,) = forecast(planned({**options, "models": ("opt-125m",)})).works
    # ASHA with rungs after 1, 2 and 4 epochs: 1 + 1/2 + 2/4 + 1/8 epochs of a trial on average.
    assert halved.epochs == 4 * 2.125 + 2 * 5 and halved.most_steps == whole.most_steps
    assert halved.flops == halved.steps * halved.step_flops > 0


def test_tasks_whose_epochs_are_divided_are_told():
    options = (
        "--tasks",
        "mouse/3,EMP/H3",
        "--models",
        "opt-125m",
        "--methods",
        "lora",
        "--eval-steps",
        "1000",
    )
    code, text = told(*options)
    assert code == 0 and "Evaluated 2 times an epoch, every 749 steps: EMP/H3." in text, text
    assert "Evaluated" not in told(*options[:-2])[1]


def test_a_trial_trains_what_its_adapters_hold():
    """OPT-125M, LoRA on all six matrices, and a head of 768 by 2 with its bias."""
    options = {"tasks": ("mouse/3",), "methods": ("lora",), "models": ("opt-125m",)}
    (work,) = forecast(planned(options)).works
    each = 4 * (768 + 768) + 2 * (768 + 3072)
    assert work.trained == 12 * 8 * each + 769 * 2


def test_files_are_parsed_once_for_plan_and_preparation(tmp_path, monkeypatch):
    write_task(tmp_path / "gue")
    sources.forget_rows()
    read, parse = [], sources.read_rows
    monkeypatch.setattr(sources, "read_rows", lambda path, labels: read.append(path) or parse(path, labels))
    options = {"tasks": ("mouse/2",), "models": ("opt-125m",), "data_dir": tmp_path / "gue"}
    benchmark = build(options | {"methods": ("lora",)})
    plan(benchmark)
    sources.read_splits(plan(benchmark).studies[0].task, tmp_path / "gue")
    assert len(read) == 3
    write_path = tmp_path / "gue" / "mouse" / "2" / "train.csv"
    write_path.write_text(write_path.read_text() + "ACGTT,0\n")
    assert plan(benchmark).studies[0].train_rows == 41


def test_plan_takes_every_option_of_a_benchmark():
    text = CliRunner().invoke(app, ["plan", "--help"], terminal_width=200).output
    flags = {*map(flag_of, DECLARED)}
    assert flags <= {word for word in text.split() if word.startswith("--")}


def dna_folder(folder):
    """A tiny ESM whose vocabulary is DNA alone."""
    config = EsmConfig(
        vocab_size=12,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        pad_token_id=1,
        max_position_embeddings=66,
        token_dropout=False,
    )
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    words = ["<unk>", "<pad>", "<mask>", "<cls>", "A", "T", "C", "G", "N"]
    (folder / "vocab.txt").write_text("\n".join(words))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
    return folder


def test_a_backbone_of_dna_is_known_by_what_it_is_and_not_by_its_name(tmp_path, shared):
    """A folder by its vocabulary, whatever it is called; a hub id like the name that stands for it."""
    write_task(tmp_path / "gue")

    def tokens(model, method):
        options = {"tasks": ("mouse/2",), "data_dir": tmp_path / "gue", "num_samples": 1}
        (work,) = forecast(planned({**options, "methods": (method,), "models": (str(model),)})).works
        return work.tokens

    stories, dna = shared / "models" / "stories260K", dna_folder(tmp_path / "my-model")
    assert tokens(stories, "lingo") > tokens(stories, "lora") + 20  # the prompt
    assert tokens(dna, "lingo") == tokens(dna, "lora")
    known, hub_id = "nt-500m-1000g", "InstaDeepAI/nucleotide-transformer-500m-1000g"
    assert tokens(hub_id, "lingo") == tokens(known, "lingo") == tokens(known, "lora") == 25 // 6 + 2
    assert tokens("facebook/opt-125m", "lingo") == tokens("opt-125m", "lingo") > tokens("opt-125m", "lora")


def test_a_class_without_a_formula_is_told_before_it_is_loaded(tmp_path):
    """FLOPs, numbers trained, memory, tokens and cut rows, from config.json and a few rows alone."""
    for name in ("gpt_neox", "mixtral"):
        save_checkpoint(name, tmp_path / name)
    rng = np.random.default_rng(0)
    rows = "\n".join(f"{''.join(rng.choice(list('ACGT'), 24 + 40 * (i % 2)))},{i % 2}" for i in range(40))
    (tmp_path / "own.csv").write_text(f"sequence,label\n{rows}\n")
    options = {"tasks": (str(tmp_path / "own.csv"),), "methods": ("lora",), "target_modules": ("all-linear",)}
    found = forecast(planned({**options, "models": (str(tmp_path / "gpt_neox"), str(tmp_path / "mixtral"))}))
    neox, mixtral = found.works
    assert (
        neox.lengths.longest == 64 and neox.tokens == 48 and neox.lengths.cut == pytest.approx(0.5, abs=0.2)
    )
    backbone = load_backbone(tmp_path / "gpt_neox")
    paths = target_paths(backbone, ["all-linear"])
    step = {"length": 48, "batch": 8, "num_labels": 2, "rank": 8}
    assert neox.step_flops == counted_step(backbone, paths, **step).total
    assert neox.trained == 8 * sum(sum(linear_shapes(backbone)[path]) for path in paths)
    assert mixtral.step_flops > 0 and mixtral.trained > 0
    code, text = told(
        "--tasks", tmp_path / "own.csv", "--models", tmp_path / "gpt_neox", "--methods", "lora,fmft"
    )
    line = next(line for line in text.splitlines() if line.startswith("gpt_neox") and "here" in line)
    assert code == 0 and line.split()[2:6] == [f"{found.models[0].parameters:,}", "48", "<0.1", "<0.1"]
    assert any("rows cut" in line for line in text.splitlines())
