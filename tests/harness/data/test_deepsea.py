"""DeepSEA's files: packed and read back to the letter, resumed, bounded, and refused in one line."""

import csv
import json
import struct

import h5py
import numpy as np
import pytest
from scipy.io import savemat
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.errors import InputError
from harness.data.deepsea import convert as deepsea
from harness.data.deepsea.convert import convert, histone_labels
from harness.data.deepsea.matlab import SampleArray
from harness.data.packed import PackedSequences, PackedSplit
from harness.data.two_bit import pack, texts, unpack
from lingo.sequences import reverse_complement

LENGTH, LABELS = deepsea.LENGTH, deepsea.LABELS
MARKS = ["H3K27ac", "H2AZ", "H4K20me1", "H2BK12ac"]


def one_hot(sequences, order="AGCT"):
    """As DeepSEA's arrays: samples x 4 x positions, all 0 for N."""
    letters = np.array([list(sequence) for sequence in sequences])
    return np.stack([(letters == base).astype(np.uint8) for base in order], axis=1)


def random_dna(rng, n, length=LENGTH, letters="ACGT"):
    return ["".join(row) for row in rng.choice(list(letters), size=(n, length))]


def write_names(folder):
    marks = [f"cell|{MARKS[i % 4]}|None" for i in range(deepsea.HISTONES)]
    names = [f"cell|{factor}|None" for factor in ["DNase", "HNF4A", "HDAC2"] * 300][: LABELS - len(marks)]
    (folder / "predictor.names").write_text("\n".join(names + marks) + "\n")


def write_hdf5(path, stem, x, y, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(f"{stem}xdata", data=x.transpose(2, 1, 0), **options)
        file.create_dataset(f"{stem}data", data=y.T)


def write_v5(path, stem, x, y, **options):
    savemat(path, {f"{stem}xdata": x, f"{stem}data": y}, **options)


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    made = {}
    for split, n in (("train", 40), ("dev", 12), ("test", 9)):
        sequences = random_dna(rng, n)
        sequences[1] = "N" * 7 + sequences[1][7:-1] + "N"
        made[split] = sequences, rng.integers(0, 2, (n, LABELS), dtype=np.uint8)
    forward, labels = made["dev"]
    made["dev"] = forward + reverse_complement(forward), np.concatenate([labels, labels])
    return made


@pytest.fixture
def source(tmp_path, truth):
    folder = tmp_path / "source"
    folder.mkdir()
    write_names(folder)
    (x, y), (vx, vy), (tx, ty) = ((one_hot(s), labels) for s, labels in truth.values())
    write_hdf5(folder / "train.mat", "train", x, y, chunks=(100, 4, 6), compression="gzip")
    write_v5(folder / "valid.mat", "valid", vx, vy, do_compression=True)
    write_v5(folder / "test.mat", "test", tx, ty)
    return folder


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(deepsea, "BLOCK", 4)
    monkeypatch.setattr(deepsea, "SHARD", 16)
    monkeypatch.setattr(deepsea, "WIDEST", 8)


def everything(split):
    rows = np.arange(len(split))
    return texts(split.letters(rows)), split.labels(rows)


# --- packing -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["AGCT", "ACGT", "TGCA"])
@pytest.mark.parametrize(("n", "length"), [(1, 4), (7, 12), (1030, 20)])
def test_packing_against_a_plain_reading(n, length, order):
    rng = np.random.default_rng(n)
    sequences = random_dna(rng, n, length, "ACGTN")
    packed, rows, positions = pack(one_hot(sequences, order).transpose(2, 1, 0).copy(), order)
    assert packed.shape == (n, length // 4)
    assert texts(unpack(packed)) == [s.replace("N", "A") for s in sequences]
    assert list(zip(rows, positions, strict=True)) == [
        (i, k) for i, s in enumerate(sequences) for k, base in enumerate(s) if base == "N"
    ]
    for sequence, row in zip(sequences[:5], packed, strict=False):
        codes = ["ACGT".index(base.replace("N", "A")) for base in sequence]
        assert row.tolist() == [
            sum(code << 2 * k for k, code in enumerate(codes[at : at + 4])) for at in range(0, length, 4)
        ]


@pytest.mark.parametrize("wrong", [(0, 1, 1, 0), (1, 1, 1, 1), (0, 0, 2, 0), (1, 0, 0, 128), (1, 0, 0, 1)])
def test_what_is_not_one_hot_is_refused(wrong):
    x = one_hot(["ACGTACGT"] * 11).transpose(2, 1, 0).copy()
    x[5, :, 9] = wrong
    with pytest.raises(ValueError, match="at most one base"):
        pack(x, "AGCT")


def test_the_other_strand():
    assert reverse_complement(["AACGN", "T"]) == ["NCGTT", "A"]


# --- conversion --------------------------------------------------------------------------------------------


def test_round_trip_of_all_three_files(source, truth, tmp_path, small_blocks):
    seen = []
    made = convert(source, tmp_path / "out", progress=lambda *step: seen.append(step))
    assert made.rows == {"train": 40, "dev": 24, "test": 9}
    assert made.strands == {"train": "forward", "dev": "both", "test": "forward"}
    assert made.unknown == {"train": 8, "dev": 16, "test": 8}
    positions = [label["position"] for label in histone_labels(source / "predictor.names")]
    for name, (sequences, labels) in truth.items():
        split = PackedSplit(made.folder, name)
        found, bits = everything(split)
        assert found == sequences
        assert np.array_equal(bits, labels[:, positions])
        rows = np.array([8, 1, 5, 8])
        assert PackedSequences(split, rows)[1:4] == [sequences[i] for i in rows[1:]]
        assert PackedSequences(split, rows)[0] == sequences[8]
    meta = json.loads((made.folder / "meta.json").read_text())
    assert meta["splits"]["train"]["positives"] == truth["train"][1][:, positions].sum(axis=0).tolist()
    assert seen[-1] == ("test", 9, 9)
    assert PackedSplit(made.folder, "dev").forward == 12
    assert sorted(path.name for path in (tmp_path / "out/deepsea").iterdir()) == ["histone"]
    assert {path.suffix for path in made.folder.iterdir()} == {".arrow", ".json"}


def test_an_interrupted_conversion_goes_on_and_gives_the_same(source, tmp_path, small_blocks):
    whole = convert(source, tmp_path / "whole")
    steps = []

    def interrupt(*step):
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    partial = tmp_path / "out/deepsea/.histone.partial"
    first = (partial / "train-00000.arrow").stat().st_mtime_ns
    with pytest.raises(InputError, match="not a converted"):
        PackedSplit(tmp_path / "out/deepsea/histone", "train")
    made = convert(source, tmp_path / "out")
    assert (made.folder / "train-00000.arrow").stat().st_mtime_ns == first
    assert not partial.exists()
    for path in whole.folder.glob("*"):
        assert (made.folder / path.name).read_bytes() == path.read_bytes()


def test_converted_once(source, tmp_path):
    made = convert(source, tmp_path / "out")
    stamp = (made.folder / "meta.json").stat().st_mtime_ns
    assert convert(source, tmp_path / "out") == made
    assert (made.folder / "meta.json").stat().st_mtime_ns == stamp


def test_another_source_does_not_go_on_with_shards_of_the_first(source, truth, tmp_path, small_blocks):
    def interrupt(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", progress=interrupt)
    sequences, labels = truth["train"]
    write_hdf5(source / "train.mat", "train", one_hot(sequences[::-1]), labels)
    made = convert(source, tmp_path / "out")
    assert everything(PackedSplit(made.folder, "train"))[0] == sequences[::-1]


@pytest.mark.parametrize("write", [write_hdf5, write_v5])
def test_other_number_types_of_0_and_1(source, truth, tmp_path, write):
    sequences, labels = truth["test"]
    write(source / "test.mat", "test", one_hot(sequences).astype(float), labels.astype(float))
    made = convert(source, tmp_path / "out")
    assert everything(PackedSplit(made.folder, "test"))[0] == sequences


# --- the order of bases ------------------------------------------------------------------------------------


def human_like(rng, n):
    """CpG is rare, GpC is not."""
    return [sequence.replace("CG", "TG") for sequence in random_dna(rng, n)]


def test_channels_in_another_order_are_noticed(source, tmp_path):
    sequences = human_like(np.random.default_rng(1), 60)
    labels = np.zeros((60, LABELS), dtype=np.uint8)
    write_hdf5(source / "train.mat", "train", one_hot(sequences, "ACGT"), labels)
    with pytest.raises(InputError, match="--base-order"):
        convert(source, tmp_path / "out")
    made = convert(source, tmp_path / "out", order="ACGT")
    assert everything(PackedSplit(made.folder, "train"))[0] == sequences
    write_hdf5(source / "train.mat", "train", one_hot(sequences), labels)
    assert everything(PackedSplit(convert(source, tmp_path / "out").folder, "train"))[0] == sequences


# --- real files --------------------------------------------------------------------------------------------


def test_real_names_have_the_104_histone_marks_at_the_end(shared):
    path = shared / "data/deepsea/predictor.names"
    if not path.exists():
        pytest.skip(f"no {path}")
    found = histone_labels(path)
    assert [label["position"] for label in found] == list(range(815, 919))
    assert found[0]["name"] == "H1-hESC|H2AK5ac|None"
    assert all(label["name"].split("|")[1][:2] in ("H2", "H3", "H4") for label in found)


def test_real_rows_survive_to_the_letter(shared, source, tmp_path):
    folder = shared / "data/deepsea"
    if not (folder / "sample100_1000bp.csv").exists():
        pytest.skip(f"no {folder}/sample100_1000bp.csv")
    with (folder / "sample100_1000bp.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    sequences = [row[0] for row in rows]
    labels = np.array([row[1:] for row in rows], dtype=np.uint8)
    write_hdf5(source / "train.mat", "train", one_hot(sequences), labels)
    write_v5(source / "valid.mat", "valid", one_hot(sequences), labels, do_compression=True)
    made = convert(source, tmp_path / "out", names=folder / "predictor.names")
    for name in ("train", "dev"):
        found, bits = everything(PackedSplit(made.folder, name))
        assert found == sequences
        assert np.array_equal(bits, labels[:, 815:])
    write_hdf5(source / "train.mat", "train", one_hot(sequences, "ACGT"), labels)
    with pytest.raises(InputError, match="--base-order"):
        convert(source, tmp_path / "other", names=folder / "predictor.names")


# --- what is refused ---------------------------------------------------------------------------------------


def cut(path, share):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def without(source, name, variable):
    with h5py.File(source / name, "r+") as file:
        del file[variable]


def damaged(path):
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2 : len(whole) // 2 + 64] = bytes(64)
    path.write_bytes(whole)


FAULTS = {
    "truncated HDF5": (lambda s: cut(s / "train.mat", 0.5), "train.mat: cannot be read", "truncated"),
    "truncated v5": (lambda s: cut(s / "test.mat", 0.5), "test.mat: is truncated", "bytes, but has"),
    "truncated compressed v5": (lambda s: cut(s / "valid.mat", 0.5), "valid.mat: is truncated", "must have"),
    "damaged compressed v5": (lambda s: damaged(s / "valid.mat"), "valid.mat: is damaged", ""),
    "empty": (lambda s: cut(s / "train.mat", 0), "train.mat: must be a MATLAB file", ""),
    "no MATLAB file": (
        lambda s: (s / "test.mat").write_text("x" * 500),
        "test.mat: must be a MATLAB file",
        "",
    ),
    "missing file": (lambda s: (s / "valid.mat").unlink(), "valid.mat: missing", "dev split"),
    "missing variable": (
        lambda s: without(s, "train.mat", "traindata"),
        "must hold `traindata`",
        "trainxdata",
    ),
    "missing v5 variable": (
        lambda s: savemat(s / "test.mat", {"a": np.ones(3)}),
        "must hold `testxdata`",
        "a",
    ),
    "wrong shape": (
        lambda s: write_hdf5(
            s / "train.mat", "train", np.zeros((3, 4, 600), np.uint8), np.zeros((3, LABELS))
        ),
        "`trainxdata` must be samples x 4 x 1000, but is 3 x 4 x 600",
        "",
    ),
    "labels of other samples": (
        lambda s: write_v5(s / "test.mat", "test", np.zeros((3, 4, LENGTH), np.uint8), np.zeros((2, LABELS))),
        "has 2 and 3",
        "",
    ),
    "two bases at once": (
        lambda s: write_v5(s / "test.mat", "test", np.ones((3, 4, LENGTH), np.uint8), np.zeros((3, LABELS))),
        "`testxdata`, samples 0 to 3",
        "at most one base",
    ),
    "labels above 1": (
        lambda s: write_v5(s / "test.mat", "test", np.zeros((3, 4, LENGTH)), np.full((3, LABELS), 2)),
        "`testdata` must hold 0 and 1",
        "",
    ),
    "missing names": (lambda s: (s / "predictor.names").unlink(), "predictor.names: expected", "--names"),
    "other names": (
        lambda s: (s / "predictor.names").write_text("a|b|c\n"),
        "must name 919 labels",
        "1 and 0",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_line_and_leaves_nothing(source, tmp_path, fault):
    spoil, where, words = FAULTS[fault]
    spoil(source)
    options = ["prepare", "deepsea", "--source", str(source), "--out", str(tmp_path / "a/b")]
    ended = CliRunner().invoke(app, options)
    assert ended.exit_code == 2
    head, *lines = ended.stderr.strip().splitlines()
    assert "1 problem" in head
    assert len(lines) == 1
    assert where in lines[0]
    assert words in lines[0]
    assert "Traceback" not in ended.output
    assert not (tmp_path / "a").exists()


def test_all_faults_of_all_files_at_once(source, tmp_path):
    cut(source / "train.mat", 0.5)
    (source / "test.mat").unlink()
    (source / "predictor.names").unlink()
    with pytest.raises(InputError) as error:
        convert(source, tmp_path / "out")
    assert len(error.value.problems) == 3


def test_a_fault_removes_no_folder_that_was_there(source, tmp_path):
    (tmp_path / "out/deepsea").mkdir(parents=True)
    cut(source / "train.mat", 0.5)
    with pytest.raises(InputError):
        convert(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == [tmp_path / "out/deepsea"]
    assert list((tmp_path / "out/deepsea").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["other", "--source", "x"], "deepsea"),
        (["deepsea", "--source", "nowhere"], "`--source` must be the folder"),
        (["deepsea", "--source", ".", "--base-order", "ACG"], "`--base-order` must be"),
    ],
)
def test_wrong_options(arguments, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["prepare", *arguments])
    assert ended.exit_code == 2
    assert words in ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_says_what_there_is(source, tmp_path):
    ended = CliRunner().invoke(
        app, ["prepare", "deepsea", "--source", str(source), "--out", str(tmp_path / "d")]
    )
    assert ended.exit_code == 0, ended.output
    assert "24 sequences, 12 on both strands; 16 unknown bases" in ended.output
    assert "--tasks deepsea/histone" in ended.output


# --- v5 files as scipy reads them --------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "float64"])
def test_v5_blocks_equal_what_was_saved(tmp_path, compressed, dtype):
    rng = np.random.default_rng(3)
    values = rng.integers(0, 100, (33, 4, 9)).astype(dtype)
    content = {"before": np.eye(3), "a": np.ones(1), "values": values}
    savemat(tmp_path / "x.mat", content, do_compression=compressed)
    with SampleArray(tmp_path / "x.mat", "values", tmp_path) as array:
        assert array.shape == (9, 4, 33)
        block = array.read(5, 30)
        assert np.array_equal(block, values.transpose(2, 1, 0)[..., 5:30])
        assert np.array_equal(array.read(0, 3, 2, 5), values.transpose(2, 1, 0)[2:5, :, :3])
    assert [path.name for path in tmp_path.iterdir()] == ["x.mat"]


def test_a_v5_file_with_big_ends_first(tmp_path):
    def element(kind, data):
        return struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8)

    values = np.arange(6, dtype=">i2").reshape(3, 2)
    parts = [
        element(6, struct.pack(">II", 10, 0)),
        element(5, struct.pack(">ii", 2, 3)),
        element(1, b"v"),
        element(3, values.tobytes()),
    ]
    (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0".ljust(124) + b"\x01\x00MI" + element(14, b"".join(parts)))
    with SampleArray(tmp_path / "x.mat", "v") as array:
        assert np.array_equal(array.read(0, 2), values)
