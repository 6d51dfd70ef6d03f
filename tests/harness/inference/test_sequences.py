"""Sequences read one by one: FASTA, CSV and Parquet, gzipped or not, with the line of every bad record."""

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.core.errors import InputError
from harness.inference.sequences import open_sequences

FASTA_TEXT = ">one first\nacgt\nACGT\n\n>two\r\nRYN\r\n; a comment\n>three\n>\nGG-T\n>five\nAC GT"


def write(path: Path, content: str | bytes) -> Path:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["x.fa", "x.FASTA", "x.fna.gz", "x.hg38.fa"])
def test_fasta(name: str, tmp_path: Path) -> None:
    records = list(open_sequences(write(tmp_path / name, FASTA_TEXT)).records())
    assert [(r.place, r.name, r.sequence) for r in records] == [
        ("line 1", "one", "acgtACGT"),
        ("line 5", "two", "RYN"),
        ("line 8", "three", ""),
        ("line 9", "", "GG-T"),
        ("line 11", "five", "AC GT"),
    ]
    ends = [None, None, "must not be empty.", "but got '-' at position 3.", "but got ' ' at position 3."]
    assert all(
        r.problem == end or str(r.problem).endswith(str(end)) for r, end in zip(records, ends, strict=True)
    )


def test_a_gzipped_file_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "x.fa"
    path.write_bytes(gzip.compress(b">a\nACGT\n"))
    assert [r.sequence for r in open_sequences(path).records()] == ["ACGT"]


@pytest.mark.parametrize("name", ["x.csv", "x.csv.gz"])
def test_csv(name: str, tmp_path: Path) -> None:
    text = '\ufefflabel,Sequence,ID\n1,acgt,a\n\n0,"AC\nGT",b\n0,ACGT\n1,,c\n0,N,"d,e"\n1,A"C,f\n'
    source = open_sequences(write(tmp_path / name, text))
    records = list(source.records())
    assert [(r.place, r.name, r.sequence) for r in records if not r.problem] == [
        ("line 2", "a", "acgt"),
        ("line 8", "d,e", "N"),
    ]
    problems = {r.place: r.problem for r in records if r.problem}
    assert problems.keys() == {"line 5", "line 6", "line 7", "line 9"}
    assert "'\\n' at position 3" in str(problems["line 5"])
    assert "must have 3 fields as the header, but got 2" in str(problems["line 6"])
    assert "must not be empty" in str(problems["line 7"]) and "at position 2" in str(problems["line 9"])
    assert source.named and 0 < source.done <= source.total
    assert [r.place for r in source.records()] == [r.place for r in records], "read again from the first"


def test_a_broken_quote_costs_what_it_swallows_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", 'sequence\nAC\n"GG"T\nTT\n"ACG\n')
    found = [(r.place, r.sequence, bool(r.problem)) for r in open_sequences(path).records()]
    assert found == [
        ("line 2", "AC", False),
        ("line 3", "", True),
        ("line 4", "TT", False),
        ("line 5", "", True),
    ]


def test_long_fields_and_names_that_are_not_text(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "name,sequence\n1," + "ACGT" * 100_000 + "\n")
    assert [len(r.sequence) for r in open_sequences(path).records()] == [400_000]
    latin = write(tmp_path / "x.fa", ">caf\xe9\nACG\xe9\n".encode("latin-1"))
    (record,) = open_sequences(latin).records()
    assert record.name == "caf\ufffd" and "'\ufffd' at position 4" in str(record.problem)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    table = {"name": [7, 8, None, 9], "other": [1.0] * 4, "sequence": ["acgt", None, "A*", " GG "]}
    pq.write_table(pa.table(table), path, row_group_size=3)
    source = open_sequences(path)
    found = [(r.place, r.name, r.sequence, bool(r.problem)) for r in source.records()]
    assert found == [
        ("row 1", "7", "acgt", False),
        ("row 2", "8", "", True),
        ("row 3", "", "A*", True),
        ("row 4", "9", "GG", False),
    ]
    assert source.done == source.total == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.fa", "", "is empty; expected"),
        ("x.fa", "ACGT\n>a\n", r"line 1: a FASTA file must begin with a header `>name`, but got 'ACGT'"),
        ("x.fa", "\n;\n", "must have at least one record `>name`, but has none in 2 lines"),
        ("x.csv", "sequence\n", "must have at least one row below the header"),
        (
            "x.csv",
            "bases,label\nA,1\n",
            "line 1: the columns must be `sequence`, or one of seq, dna and text, but are bases, label",
        ),
        ("x.csv", "ACGT\nACGT\n", "line 1: must be a header such as `sequence,label`, but looks like a row"),
        (
            "x.csv",
            "sequence,Sequence\nA,C\n",
            "must have one column of sequences, but has sequence, Sequence",
        ),
        ("x.parquet", "PAR1 and then nothing", "is not readable as Parquet"),
        ("x.parquet", "sequence\nA\n", "must be a Parquet file, but is not readable as Parquet"),
        ("x.parquet.gz", "PAR1", "Parquet and Arrow are compressed internally, so decompress it first"),
        ("x.txt", "see there\n", "line 1: the columns must be `sequence`"),
    ],
)
def test_files_that_are_something_else(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(InputError, match=message.replace(".", r"\.")) as caught:
        list(open_sequences(path).records())
    assert len(caught.value.problems) == 1 and "\n" not in caught.value.problems[0]


def test_other_trouble(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        open_sequences(tmp_path / "none.fa")
    with pytest.raises(InputError, match="is a folder"):
        open_sequences(tmp_path)
    path = write(tmp_path / "x.fa.gz", FASTA_TEXT * 1000)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="is damaged or cannot be read"):
        list(open_sequences(path).records())
    pq.write_table(pa.table({"sequence": [1, 2]}), tmp_path / "n.parquet")
    with pytest.raises(InputError, match="`sequence` must be text, but is int64"):
        open_sequences(tmp_path / "n.parquet")
    pq.write_table(pa.table({"sequence": pa.array([], pa.string())}), tmp_path / "e.parquet")
    with pytest.raises(InputError, match="must have at least one row"):
        list(open_sequences(tmp_path / "e.parquet").records())
