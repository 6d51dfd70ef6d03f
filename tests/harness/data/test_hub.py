"""Parquet files in the official layout, and the hub's layout read from a local folder by `datasets` itself."""

import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.core.errors import InputError
from harness.data import hub
from harness.data.find_tasks import find_tasks
from harness.data.labelled_files import read_rows
from harness.data.own_data import read_own
from harness.data.reading import told_how
from harness.data.sources import check_task, find_task_files
from harness.data.tasks import TASKS, TaskRow

ROW = TaskRow(name="toy/one", family="toy", num_labels=2, length=8, domain="DNA", mirror="toy_one")
SPLITS = {"train": ["ACGT", "acgn"], "dev": ["TTTA"], "test": ["GATTACA"]}

CARD = """---
configs:
- config_name: toy_one
  data_files:
  - {{split: train, path: GUE/toy_one/train.csv}}
  - {{split: {dev}, path: GUE/toy_one/dev.csv}}
  - {{split: test, path: GUE/toy_one/test.csv}}
---
"""


def write_parquet(path, sequences, labels=None, names=("sequence", "label")):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([sequences, labels or [0] * len(sequences)], names=list(names)), path)


# --- Parquet -----------------------------------------------------------------------------------------------


def test_parquet_beside_csv(tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / f"toy/one/{split}.parquet", SPLITS[split])
    (tmp_path / "toy/one/dev.csv").write_text("sequence,label\nTTTA,1\n")
    files = find_task_files(ROW, tmp_path)
    assert [path.name for path in files.values()] == ["train.parquet", "dev.csv", "test.parquet"]
    assert check_task(ROW, tmp_path) == []
    rows, problems = read_rows(files["train"], 2)
    assert (rows.sequences, rows.labels.tolist(), problems) == (["ACGT", "ACGN"], [0, 0], [])


def test_two_files_of_one_split_are_refused(tmp_path):
    for split, sequences in SPLITS.items():
        write_parquet(tmp_path / f"toy/one/{split}.parquet", sequences)
    (tmp_path / "toy/one/dev.csv").write_text("sequence,label\nTTTA,1\n")
    (found,) = check_task(ROW, tmp_path)
    assert "must hold one file for dev, but has dev.csv, dev.parquet" in found


@pytest.mark.parametrize(
    ("table", "where", "says"),
    [
        ((["ACGT", "AXGT"], [0, 1]), ", row 2: ", "'X' at position 2"),
        ((["ACGT", None], [0, 1]), ", row 2: ", "must not be empty"),
        ((["ACGT", "AC"], [0, 2]), ", row 2: ", "from 0 to 1, but got '2'"),
        ((["ACGT"], [0.5]), ", row 1: ", "'0.5'"),
        ((["ACGT"], [0], ("bases", "label")), ": ", "but are bases, label"),
    ],
)
def test_each_fault_names_file_and_row(tmp_path, table, where, says):
    path = tmp_path / "train.parquet"
    write_parquet(path, *table)
    (found,) = read_rows(path, 2)[1]
    assert found.startswith(f"{path}{where}")
    assert says in found


@pytest.mark.parametrize("content", [b"", b"PAR1", b"sequence,label\nACGT,0\n"])
def test_a_file_that_is_not_parquet(tmp_path, content):
    (tmp_path / "train.parquet").write_bytes(content)
    (found,) = read_rows(tmp_path / "train.parquet", 2)[1]
    assert "is not readable as Parquet" in found


# --- the hub -----------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A dataset repository on disk, in the hub's layout; the library's own cache stays in the test's folder."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    folder = tmp_path / "repository"
    for split, sequences in SPLITS.items():
        path = folder / f"GUE/toy_one/{split}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("sequence,label\n" + "".join(f"{text},1\n" for text in sequences))
    (folder / "README.md").write_text(CARD.format(dev="dev"))
    return folder


def test_any_data_set_is_a_task(repository, tmp_path, monkeypatch):
    rows = 60
    text = "seq,activity\n" + "".join(
        f"{'ACGT'[i % 4]}{i:06b},{'on' if i % 3 else 'off'}\n" for i in range(rows)
    )
    for name, (a, b) in {"train": (0, 40), "validation": (40, 50), "extra": (50, 60)}.items():
        lines = text.replace("0", "A").replace("1", "C").splitlines()[1:][a:b]
        (repository / f"{name}.csv").write_text("\n".join(["seq,activity", *lines]) + "\n")
    (repository / "README.md").write_text(
        "---\ndataset_info:\n- config_name: two\n  features:\n  - {name: seq, dtype: string}\n"
        "  - name: activity\n    dtype: {class_label: {names: {'0': 'off', '1': 'on'}}}\n"
        "configs:\n- config_name: two\n  data_files:\n"
        "  - {split: train, path: train.csv}\n  - {split: validation, path: validation.csv}\n"
        "  - {split: extra, path: extra.csv}\n---\n"
    )
    folder = hub.fetch_any(str(repository), "two", cache_dir=tmp_path / "kept")
    assert sorted(path.name for path in folder.iterdir()) == ["dev.parquet", "source.json", "train.parquet"]
    monkeypatch.setattr(hub, "_held", None)  # what is kept is not asked for again
    asked = []
    monkeypatch.setattr(hub, "fetch_any", lambda *names, **_: asked.append(names) or folder)
    names = told_how(["hub:owner/name/two", "quickstart/promoter"], "label=activity")
    row, _ = find_tasks(names)
    assert asked == [("owner/name", "two")] and row.path == folder and row.kind == "classification"
    data = read_own(row.source)
    assert (data.label_names, data.cut, len(data.splits["dev"].labels)) == (("off", "on"), ("test",), 10)
    assert "repository/two of the hub" in data.notes[0] and "ignored: extra" in data.notes[0]


@pytest.mark.parametrize("name", ["hub:name", "hub:a/b/c/d", "hub:a/../b", "hub:", "hub:a/b c"])
def test_a_name_that_is_no_data_set(name):
    with pytest.raises(InputError, match=r"hub:owner/name\[/configuration\]"):
        find_tasks([name])


def test_a_data_set_that_is_not_there(repository, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        InputError, match="`--tasks hub:owner/name` cannot be downloaded: HF_HUB_OFFLINE is set"
    ):
        find_tasks(["hub:owner/name"])
    with pytest.raises(InputError, match=r"cannot be downloaded: .* does not give other"):
        hub.fetch_any(str(repository), "other", cache_dir=tmp_path / "kept")
    files = "- {split: test, path: GUE/toy_one/test.csv}"
    (repository / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files:\n  {files}\n---\n")
    with pytest.raises(InputError, match="must have a split train, but has"):
        hub.fetch_any(str(repository), "a", cache_dir=tmp_path / "kept")
    assert not list((tmp_path / "kept").rglob("*.parquet"))


def fetch(repository, tmp_path, row=ROW):
    return hub.fetch(row, repository=str(repository), cache_dir=tmp_path / "kept")


@pytest.mark.parametrize("dev", ["dev", "validation"])
def test_the_hubs_layout(repository, tmp_path, dev):
    (repository / "README.md").write_text(CARD.format(dev=dev))
    files = find_task_files(ROW, fetch(repository, tmp_path))
    for split, path in files.items():
        rows, problems = read_rows(path, 2)
        assert problems == []
        assert rows.sequences == [text.upper() for text in SPLITS[split]]
        assert set(rows.labels.tolist()) == {1}
    assert json.loads((files["dev"].parent / "source.json").read_text())["repository"] == str(repository)


def test_kept_copies_need_neither_repository_nor_network(repository, tmp_path):
    first = fetch(repository, tmp_path)
    (repository / "README.md").unlink()
    assert fetch(repository, tmp_path) == first


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("config_name: toy_one", "config_name: other"), "does not give toy_one"),
        (("split: test", "split: hidden"), "has no split test, but train, dev, hidden"),
    ],
)
def test_what_the_hub_lacks_is_named_and_nothing_is_left(repository, tmp_path, change, says):
    (repository / "README.md").write_text(CARD.format(dev="dev").replace(*change))
    with pytest.raises(InputError, match=says) as caught:
        fetch(repository, tmp_path)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "kept").exists()


def test_other_columns_are_refused(repository, tmp_path):
    for path in (repository / "GUE/toy_one").iterdir():
        path.write_text(path.read_text().replace("sequence,label", "seq,label"))
    with pytest.raises(InputError, match="must have sequence and label, but got seq, label"):
        fetch(repository, tmp_path)


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """Nothing kept, and no network."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf")
    hub._ask.cache_clear()
    yield monkeypatch
    hub._ask.cache_clear()


def test_without_data_and_network_one_line_says_what_to_do(alone, tmp_path):
    asked = []

    class Api:
        def dataset_info(self, repository, timeout):
            asked.append((repository, timeout))
            raise ConnectionError("no route\nto host")

    alone.setattr("huggingface_hub.HfApi", Api)
    alone.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("EMP/H3", "EMP/H4"):
        with pytest.raises(InputError) as caught:
            hub.task_folder(TASKS[name], None)
        (line,) = caught.value.problems
        assert line.startswith(f"`--data-dir` is needed for {name}: ")
        assert line.endswith("leannmlindsey/GUE does not answer (no route to host).")
    assert asked == [("leannmlindsey/GUE", hub.TIMEOUT_S)]
    assert not (tmp_path / "hf").exists()


def test_offline_by_choice_and_tasks_that_the_hub_has_not(alone):
    alone.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
        hub.task_folder(TASKS["EMP/H3"], None)
    with pytest.raises(InputError, match="is not in"):
        hub.task_folder(replace(ROW, mirror=""), None)


def test_a_data_folder_is_taken_as_it_is(tmp_path):
    assert hub.task_folder(ROW, tmp_path) == tmp_path
