"""Every form of table gives the same rows to training and to `predict`, and names the same bad rows."""

import gzip
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.core.errors import InputError
from harness.data import text_blocks
from harness.data.columns import Roles, find_columns
from harness.data.find_tasks import find_task
from harness.data.labelled_files import Rows, read_rows
from harness.data.own_data import read_own
from harness.inference.sequences import open_sequences

Row = tuple[str, str, int]
"""Name, sequence and class."""

NAMES = ("id", "sequence", "label")


def separated(
    mark: str, *, quoted: bool = False, end: str = "\n", head: str = ""
) -> Callable[[Sequence[Row]], bytes]:
    def text(rows: Sequence[Row]) -> bytes:
        lines = [NAMES, *rows]
        fields = [[f'"{value}"' if quoted else str(value) for value in line] for line in lines]
        return (head + "".join(mark.join(line) + end for line in fields)).encode()

    return text


def fasta(rows: Sequence[Row]) -> bytes:
    def folded(text: str) -> str:
        return "\n".join(text[i : i + 7] for i in range(0, max(1, len(text)), 7))

    return "".join(f">{name} label={label}\n{folded(text)}\n" for name, text, label in rows).encode()


def json_lines(rows: Sequence[Row]) -> bytes:
    return "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows).encode()


def json_list(rows: Sequence[Row]) -> bytes:
    return json.dumps([dict(zip(NAMES, row, strict=True)) for row in rows], indent=1).encode()


def columns(rows: Sequence[Row]) -> pa.Table:
    return pa.table(dict(zip(NAMES, map(list, zip(*rows, strict=True)), strict=True)))


def columnar(kind: str) -> Callable[[Sequence[Row]], bytes]:
    def content(rows: Sequence[Row]) -> bytes:
        sink, table = pa.BufferOutputStream(), columns(rows)
        if kind == "parquet":
            pq.write_table(table, sink, row_group_size=300)
        elif kind == "coded":
            pq.write_table(table.set_column(1, "sequence", table["sequence"].dictionary_encode()), sink)
        elif kind == "feather":
            pyarrow.feather.write_feather(table, sink)
        else:
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=300)
        return bytes(sink.getvalue())

    return content


def packed(codec: str, inner: Callable[[Sequence[Row]], bytes]) -> Callable[[Sequence[Row]], bytes]:
    def content(rows: Sequence[Row]) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, codec) as stream:
            stream.write(inner(rows))
        return bytes(sink.getvalue())

    return content


FORMS: dict[str, tuple[str, Callable[[Sequence[Row]], bytes]]] = {
    "csv": ("a.csv", separated(",")),
    "tabs": ("a.tsv", separated("\t")),
    "tabs named csv": ("a.csv", separated("\t")),
    "semicolons": ("a.csv", separated(";")),
    "quoted": ("a.csv", separated(",", quoted=True)),
    "crlf": ("a.csv", separated(",", end="\r\n")),
    "old mac": ("a.csv", separated(",", end="\r")),
    "mark": ("a.csv", separated(",", head="\ufeff")),
    "excel": ("a.csv", separated(";", head="sep=;\r\n", end="\r\n")),
    "utf-16": ("a.txt", lambda rows: separated("\t")(rows).decode().encode("utf-16")),
    "gz": ("a.csv.gz", packed("gzip", separated(","))),
    "two gz": (
        "a.csv.gz",
        lambda rows: gzip.compress(separated(",")(rows)[:50]) + gzip.compress(separated(",")(rows)[50:]),
    ),
    "zst": ("a.csv.zst", packed("zstd", separated(","))),
    "bz2": ("a.tsv.bz2", packed("bz2", separated("\t"))),
    "parquet": ("a.parquet", columnar("parquet")),
    "coded parquet": ("a.parquet", columnar("coded")),
    "arrow": ("a.arrow", columnar("feather")),
    "arrow stream": ("a.arrow", columnar("stream")),
    "json lines": ("a.jsonl", json_lines),
    "packed json lines": ("a.jsonl.gz", packed("gzip", json_lines)),
    "json list": ("a.json", json_list),
    "fasta": ("a.fa", fasta),
    "packed fasta": ("a.fna.gz", packed("gzip", fasta)),
}


def rows_of(count: int, letters: str = "ACGTacgtNUuRy") -> list[Row]:
    draw = random.Random(count)
    return [(f"s{i}", "".join(draw.choices(letters, k=draw.randint(9, 30))), i % 3) for i in range(count)]


def written(folder: Path, form: str, rows: Sequence[Row]) -> Path:
    name, content = FORMS[form]
    path = folder / name
    path.write_bytes(content(rows))
    return path


def pairs(rows: Rows) -> list[tuple[str, int]]:
    return list(zip(rows.sequences, rows.labels.tolist(), strict=True))


def read_as(text: str) -> str:
    return "".join({"U": "T", "R": "N", "Y": "N"}.get(letter, letter) for letter in text.upper())


@pytest.mark.parametrize("form", FORMS)
def test_the_same_rows_for_training_and_predict(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK", 1999)
    rows = rows_of(2500)
    path = written(tmp_path, form, rows)
    gue, problems = read_rows(path, 3)
    assert not problems
    assert pairs(gue) == [(read_as(text), label) for _, text, label in rows]
    source = open_sequences(path)
    assert [(one.name, one.sequence, one.problem) for one in source.records()] == [
        (*row[:2], None) for row in rows
    ]
    assert source.named and 0 < source.done <= source.total
    assert [one.name for one in source.records()] == [row[0] for row in rows], "read again from the first"
    own = read_own(path)
    assert sorted(pair for split in own.splits.values() for pair in pairs(split)) == sorted(pairs(gue))
    told = " ".join(own.notes)
    assert (
        "lower-case letters are raised" in told and "U are read as T" in told and "IUPAC codes (R, Y)" in told
    )


@pytest.mark.parametrize("form", FORMS)
def test_what_is_bad_is_bad_for_both_and_named_alike(form: str, tmp_path: Path) -> None:
    rows = rows_of(40, "ACGT")
    rows[7] = ("s7", "ACG-TACG", 1)
    rows[23] = ("s23", "", 2)
    path = written(tmp_path, form, rows)
    bad = {one.place: one.problem for one in open_sequences(path).records() if one.problem}
    assert len(bad) == 2
    with pytest.raises(InputError) as refused:
        find_task(str(path))
    assert refused.value.problems == [f"{path}, {place}: {problem}" for place, problem in bad.items()]
    assert read_rows(path, 3)[1] == refused.value.problems
    skipped = read_own(f"{path}?on_error=skip")
    assert sum(len(split.labels) for split in skipped.splits.values()) == 38
    assert "2 invalid rows are left out, such as" in skipped.marks["skipped rows"]


def test_lines_are_counted_as_an_editor_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_blocks, "BLOCK", 37)
    path = tmp_path / "a.csv"
    path.write_text('id,sequence\n\n1,"ACGT"\n\n2,"AC\nGT"\n3,ACGT\n4,AC!T\n5,A,C\n6,ACGT,\n"7",ACG\n8\n')
    found = {one.place: one.problem for one in open_sequences(path).records()}
    assert [place for place, problem in found.items() if not problem] == [
        "line 3",
        "line 7",
        "line 10",
        "line 11",
    ]
    assert "'\\n' at position 3" in str(found["line 6"]) and "'!'" in str(found["line 8"])
    assert "2 fields as the header, but got 3" in str(found["line 9"]) and "got 1" in str(found["line 12"])


# --- columns -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "asked", "sequence", "labels", "say"),
    [
        (["Sequence", "Label"], {}, 0, (1,), "label"),
        (["", "seq", "labels", "chrom", "note"], {}, 1, (2,), "label"),
        (["label_2", "label_1", "text"], {}, 2, (1, 0), "label"),
        (["target_0", "dna", "target_1"], {}, 1, (0, 2), "target"),
        (["sequence", "text", "class"], {}, 0, (2,), "label"),
        (["sequence", "K562", "H1"], {}, 0, (1, 2), "unknown"),
        (["sequence", "label", "target"], {"target": "target"}, 0, (2,), "target"),
        (["a", "b", "c"], {"sequence": "b", "target": "c+a"}, 1, (2, 0), "target"),
    ],
)
def test_columns_by_their_names(names, asked, sequence, labels, say) -> None:  # type: ignore[no-untyped-def]
    found = find_columns(names, asked)
    assert isinstance(found, Roles), found
    assert (found.sequence, found.labels, found.say) == (sequence, labels, say)


@pytest.mark.parametrize(
    ("names", "asked", "words"),
    [
        (["bases", "label"], {}, "but are bases, label"),
        (["seq", "dna", "label"], {}, "one column of sequences, but has seq, dna"),
        (["sequence", "id"], {}, "but are sequence, id"),
        (["sequence", "label", "label"], {}, "but are sequence, label, label"),
        (["sequence", "label", "target"], {}, "but are sequence, label, target"),
        (["sequence", "label_0", "label_2"], {}, "label_2"),
        (["sequence", "label"], {"label": "y"}, "'y' is not there; there are sequence, label"),
        (["sequence", "a", "b"], {"label": "a", "target": "b"}, "names both"),
    ],
)
def test_columns_that_cannot_be_told(names, asked, words) -> None:  # type: ignore[no-untyped-def]
    found = find_columns(names, asked)
    assert isinstance(found, str) and words in found


# --- whatever a file holds ---------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "2",
            "0.0",
            "True",
            "nan",
            "NA",
            "-1",
            "yes",
            "no",
            "[1, 0]",
            "0101",
            "1e5",
            "é",
            '"',
            "\0",
        ]
    ),
    st.text(alphabet="ACGTNacgtu", min_size=1, max_size=30),
    st.text(max_size=6),
    st.floats().map(str),
)
HEADERS = [
    "sequence",
    "seq",
    "label",
    "labels",
    "target",
    "label_0",
    "label_1",
    "target_1",
    "id",
    "split",
    "task",
    "",
    "x",
]


@st.composite
def files(draw: st.DrawFn) -> tuple[str, bytes]:
    width = draw(st.integers(1, 5))
    header = draw(st.lists(st.sampled_from(HEADERS), min_size=width, max_size=width))
    rows = draw(st.lists(st.lists(CELLS, min_size=1, max_size=width + 1), max_size=14))
    mark, end = draw(st.sampled_from(",;\t|")), draw(st.sampled_from(["\n", "\r\n", "\r"]))
    kind = draw(st.sampled_from(["text", "json", "fasta", "noise"]))
    if kind == "json":
        text = end.join(json.dumps(dict(zip(header, row, strict=False))) for row in rows)
    elif kind == "fasta":
        text = "".join(f">{' '.join(row[1:])}{end}{row[0]}{end}" for row in rows)
    else:
        text = end.join(mark.join(row) for row in [header, *rows])
    data = text.encode(draw(st.sampled_from(["utf-8", "utf-16", "utf-8-sig"])), "replace")
    if kind == "noise":
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=8)) + data[at:]
    data = gzip.compress(data) if draw(st.booleans()) and draw(st.booleans()) else data
    return draw(st.sampled_from(["a.csv", "a.tsv", "a.fa", "a.jsonl", "a.parquet", "a.txt.gz"])), data


@pytest.mark.slow
@settings(
    max_examples=10_000,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
@given(files(), st.sampled_from(["", "?on_error=skip"]))
def test_any_file_is_read_or_refused_in_short_lines(tmp_path_factory, file, how) -> None:  # type: ignore[no-untyped-def]
    name, data = file
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(data)
    tries: list[Callable[[], object]] = [
        lambda: read_own(f"{path}{how}"),
        lambda: read_rows(path, 2),
        lambda: list(open_sequences(path).records()),
    ]
    for attempt in tries:
        try:
            attempt()
        except InputError as error:
            assert all(str(path) in line and "\n" not in line and len(line) < 600 for line in error.problems)
