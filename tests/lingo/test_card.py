"""Model cards, the facts beside exported weights, and folders that are complete or not there at all."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import transformers as tr
from huggingface_hub import ModelCard

import lingo.folder
from lingo.export import export_adapter
from lingo.pack import Pack
from lingo.prompts import Prompt
from lingo.slot import Slot
from lingo.target import ExportError
from lingo.trial import TrialConfig
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints, task, train
from tests.support.merged import merge

CARD = {"dev": {"mcc": 0.4375, "auroc": 0.75}, "seconds": 12.5}
PROMPT = Prompt("Domain: DNA\nSequence: ", "\nAnnotation:")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    return Checkpoints(tmp_path_factory.mktemp("models"))


@pytest.fixture
def trained(backbones: Checkpoints) -> tuple[Pack, Slot]:
    backbone = backbones("opt")
    pack = Pack(backbone, max_rank=6)
    return pack, *train(pack, task(backbone), [toy.trial("lingo", 1, epochs=2, learning_rate=0.05)], 12)


def test_card_and_facts(trained: tuple[Pack, Slot], tmp_path: Path) -> None:
    pack, slot = trained
    facts = CARD | {"marks": ["smoke", "a|b"], "note": "two\nlines"}
    folder = export_adapter(
        pack, slot, tmp_path / "x", card=facts, prompt=PROMPT, max_length=60, labels=("no", "yes")
    )
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model == pack.backbone.source and card.data.library_name == "peft"
    rows = {
        "dev.mcc": 0.4375,
        "dev.auroc": 0.75,
        "seconds": 12.5,
        "marks": "smoke, a\\|b",
        "note": "two<br>lines",
        "learning_rate": 0.05,
        "p": 0.2,
        "rank_update": "held",
        "steps": "12 of 30",
        "backbone digest": pack.backbone.digest,
    }
    assert set(card.text.splitlines()) >= {f"| {name} | {value} |" for name, value in rows.items()}
    assert "| rank |" not in card.text, "no setting that the method does not read"
    assert "step 12 of 30" in card.text and "single_label_classification: no, yes" in card.text
    about = json.loads((folder / "lingo.json").read_text())
    assert about["prompt"] == {"prefix": PROMPT.prefix, "suffix": PROMPT.suffix}
    assert (about["pooling"], about["pad_token_id"], about["max_length"]) == ("last", 1, 60)
    assert TrialConfig.from_dict(about["config"]) == slot.config
    merged = merge(pack, slot, tmp_path / "m", card=CARD, prompt=PROMPT, labels=("no", "yes"))
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
    assert "from_pretrained('facebook/opt-125m', revision='27dcfa7', pad_token_id=1" in text
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("facebook/opt-125m", "27dcfa7")


def test_what_prediction_cannot_do_without_is_asked_for(trained: tuple[Pack, Slot], tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="`prompt` must be given for lingo, even if it was none"):
        export_adapter(*trained, tmp_path / "x", card=CARD)
    with pytest.raises(ExportError, match="`labels` must name the 2 outputs of toy, but got 3"):
        export_adapter(*trained, tmp_path / "x", card=CARD, prompt=PROMPT, labels=("a", "b", "c"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("precious")
    with pytest.raises(ExportError, match="must be new, empty or an earlier export"):
        export_adapter(*trained, tmp_path / "thesis", card=CARD, prompt=PROMPT)
    assert [path.name for path in tmp_path.rglob("*")] == ["thesis", "chapter.tex"]


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("failing", ["tensors", "card", "rename"])
def test_nothing_is_half_written(
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
        export_adapter(*trained, folder, card={"run": "earlier"}, prompt=PROMPT)
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
            export_adapter(*trained, folder, card=CARD, prompt=PROMPT)
    assert content() == before and set(tmp_path.iterdir()) == ({folder} if earlier else set())
    export_adapter(*trained, folder, card=CARD, prompt=PROMPT)
    assert "0.4375" in (folder / "README.md").read_text() and [*tmp_path.iterdir()] == [folder]


def test_peft_is_not_needed(
    trained: tuple[Pack, Slot], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ["peft", *(name for name in sys.modules if name.startswith("peft."))]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError):
        import peft  # noqa: F401
    export_adapter(*trained, tmp_path / "adapter", card=CARD, prompt=PROMPT)
    merge(*trained, tmp_path / "model", card=CARD, prompt=PROMPT)
