"""Large tables: a preparation that was killed goes on, and none holds copies of the table in memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import InputError
from harness.data import encoding, sequence_column
from harness.data.own_data import forget_own, own_task
from harness.data.prepared import prepare
from lingo.nucleotides import bare_bases

ROWS, CHUNK = 110, 16
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.harness.data.test_resumed_preparation import CHUNK, encoding, prepared

def tell(what, done, total):
    if what.endswith(sys.argv[2]) and done >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

encoding.CHUNK = CHUNK
prepared(Path(sys.argv[1]), tell)
"""


def table(path, rows, length=40):
    """A CSV file of random sequences of one length, with classes 0 and 1."""
    rng = np.random.default_rng(0)
    tail = np.tile(np.frombuffer(b",0\n", np.uint8), (rows, 1))
    tail[:, 1] += rng.integers(0, 2, rows).astype(np.uint8)
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, (rows, length))]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"sequence,label\n" + np.hstack([letters, tail]).tobytes())


def prepared(folder, progress=None):
    """A table of several chunks, whose sequences are all cut."""
    task = own_task(str(folder / "table.csv"))
    options = {"tokenizer": bare_bases(), "pad_id": 0, "max_length": 30, "strands": "test"}
    return prepare(task, folder, folder / "prepared", progress=progress, **options)


def content(made):
    return {path.name: path.read_bytes() for path in made.folder.iterdir()}


def interrupt(split, enough, what, done, total):
    if what.endswith(split) and done >= enough:
        raise KeyboardInterrupt


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    table(folder / "table.csv", ROWS)
    return content(prepared(folder))


@pytest.mark.parametrize(
    ("split", "done", "harm", "first"),
    [
        ("train", 32, None, ("train", 48)),
        ("train", 32, ("train.ids", -7), ("train", 32)),
        ("train", 32, ("train.journal", -5), ("train", 32)),
        ("train", 32, ("train.lengths", 0), ("train", 16)),
        ("dev", 1, None, ("dev_reverse", 11)),
        ("test", 1, ("train.arrow", -1), ("train", 16)),
    ],
)
def test_a_killed_preparation_goes_on_behind_its_last_whole_part(
    tmp_path, monkeypatch, whole, split, done, harm, first
):
    table(tmp_path / "table.csv", ROWS)
    monkeypatch.setattr(encoding, "CHUNK", CHUNK)
    if harm is None:
        command = [sys.executable, "-c", KILLED, str(tmp_path), split, str(done)]
        assert subprocess.run(command, check=False).returncode == -9
    else:
        with pytest.raises(KeyboardInterrupt):
            prepared(tmp_path, lambda *step: interrupt(split, done, *step))
    (part,) = (tmp_path / "prepared").iterdir()
    assert part.name.endswith(".part")
    if harm is not None:
        file, size = part / harm[0], harm[1]
        file.write_bytes(file.read_bytes()[:size])
    seen = []
    resumed = prepared(tmp_path, lambda what, done, total: seen.append((what.split()[2], done)))
    assert seen[0] == first
    assert content(resumed) == whole
    assert list((tmp_path / "prepared").iterdir()) == [resumed.folder]


def test_two_at_once_have_a_folder_each(tmp_path, whole):
    table(tmp_path / "table.csv", ROWS)
    made = []

    def meanwhile(what, done, total):
        if not made:
            made.append(None)
            made[0] = prepared(tmp_path)

    second = prepared(tmp_path, meanwhile)
    assert content(second) == whole
    assert made[0].folder == second.folder
    assert list((tmp_path / "prepared").iterdir()) == [second.folder]


# --- memory ------------------------------------------------------------------------------------------------

MEASURED = """
import sys
from pathlib import Path
from tests.harness.data.test_resumed_preparation import prepared, table

def peak():  # of this program alone: getrusage counts the program that started it too
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024

folder = Path(sys.argv[1])
table(folder / "small/table.csv", 1_000)
prepared(folder / "small")
before = peak()
made = prepared(folder)
print(peak() - before, sum(made.rows.values()))
"""


def test_half_a_million_rows_take_little_memory(tmp_path):
    """23 MB of text, 30 MB of ids; measured: 93 MiB."""
    table(tmp_path / "table.csv", 500_000)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(tmp_path)], stdout=subprocess.PIPE, check=True)
    grown, rows = map(float, done.stdout.split())
    assert rows == 500_000
    assert grown < 125


def test_long_sequences_lie_on_the_disk(tmp_path, monkeypatch, whole):
    monkeypatch.setattr(sequence_column, "HELD", 1000)
    table(tmp_path / "table.csv", ROWS)
    assert content(prepared(tmp_path)) == whole
    forget_own()
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr(sequence_column.tempfile, "TemporaryFile", lambda: full)
        with pytest.raises(InputError, match="TMPDIR"):
            own_task(str(tmp_path / "table.csv"))
