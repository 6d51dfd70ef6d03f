"""What rows hold beside one plain sequence: places in a genome, pairs, lower case, and letters of every kind."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from harness.core.errors import InputError
from harness.data.find_tasks import find_task, find_tasks
from harness.data.leakage import audit
from harness.data.own_data import read_own
from harness.data.prepared import open_prepared, prepare, read_recipe
from harness.data.sources import label_notes
from harness.inference.sequences import open_sequences
from lingo.nucleotides import bare_bases, units_for
from lingo.sequences import PAIR, reverse_complement
from lingo.tokenization import SPACER, first_bases, pair_joint
from tests.harness.data.test_own_data import dna, table
from tests.harness.data.test_prepared import letters_tokenizer

CHROMOSOMES = {
    "chr1": dna(1, 1, 997)[0],
    "chr2": dna(1, 2, 333)[0].lower() + "NNNRY",
    "chr3": dna(1, 3, 60)[0],
}


def genome(folder: Path, name: str = "g.fa", end: str = "\n") -> Path:
    """The chromosomes, folded at 60 letters."""
    text = "".join(
        f">{name} more words{end}" + "".join(bases[i : i + 60] + end for i in range(0, len(bases), 60))
        for name, bases in CHROMOSOMES.items()
    )
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def places(count: int, width: int = 40) -> list[tuple[str, int, int, int, str]]:
    """Places with a class and a strand each."""
    rng = np.random.default_rng(count)
    made = []
    for i in range(count):
        name = ("chr1", "chr2")[i % 4 == 3]
        start = int(rng.integers(0, len(CHROMOSOMES[name]) - width))
        made.append((name, start, start + width, i % 2, "+-."[i % 3]))
    return made


def bases_of(name: str, start: int, end: int, strand: str) -> str:
    """What stands there, as training reads it."""
    text = CHROMOSOMES[name][start:end].upper().translate(str.maketrans("RY", "NN"))
    return reverse_complement([text])[0] if strand == "-" else text


# --- places in a genome ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bed", "named bed", "packed", "csv", "windows"])
def test_places_are_cut_from_a_genome(form: str, tmp_path: Path) -> None:
    rows = places(60)
    fasta = genome(tmp_path, "g.fa.gz" if form == "packed" else "g.fa", "\r\n" if form == "windows" else "\n")
    if form == "csv":
        columns = dict(
            zip(("chrom", "start", "end", "label", "strand"), zip(*rows, strict=True), strict=True)
        )
        (path := tmp_path / "a.csv").write_text(table(columns))
        asked = ""
    else:
        lines = [f"{c}\t{start}\t{end}\t{label}\t0.5\t{strand}\n" for c, start, end, label, strand in rows]
        head = "#chrom\tstart\tend\tkind\tscore\tstrand\n" if form == "named bed" else "track name=x\n"
        (path := tmp_path / "a.bed").write_text(head + "".join(lines))
        asked = f"label={'kind' if form == 'named bed' else 'name'}&"
    data = read_own(f"{path}?{asked}split=chrom&test=chr2&genome={fasta}")
    found = [
        pair
        for split in data.splits.values()
        for pair in zip(split.sequences, split.labels.tolist(), strict=True)
    ]
    assert sorted(found) == sorted(
        (bases_of(c, start, end, strand), label) for c, start, end, label, strand in rows
    )
    assert set(data.splits["test"].sequences) == {
        bases_of(c, start, end, strand) for c, start, end, _, strand in rows if c == "chr2"
    }
    assert f"sequences are taken from {fasta.name}" in " ".join(data.notes)
    read = [one.sequence for one in open_sequences(path, genome=str(fasta)).records()]
    assert [text.upper().translate(str.maketrans("RY", "NN")) for text in read] == [
        bases_of(c, start, end, strand) for c, start, end, _, strand in rows
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("chr9\t1\t5\ta", "line 3: `chrom` must be a sequence of g.fa (chr1, chr2, chr3, …), but got 'chr9'"),
        (
            "chr3\t50\t61\ta",
            "line 3: `end` must be above `start` and at most 60, the length of chr3, but",
        ),
        ("chr3\t5\t5\ta", "but the interval is 5 to 5"),
        ("chr3\t-1\t5\ta", "line 3: `start` must be a whole number from 0, but got '-1'"),
        ("chr3\t1\t5", "line 3: a row must have 4 fields as the header, but got 3"),
    ],
)
def test_a_place_that_is_not_there_is_told_with_its_line(line: str, words: str, tmp_path: Path) -> None:
    genome(tmp_path)
    path = tmp_path / "a.bed"
    good = "".join(f"chr1\t{i}\t{i + 9}\t{'ab'[i % 2]}\n" for i in range(40))
    path.write_text(f"track\nchr1\t0\t8\ta\n{line}\n{good}")
    how = f"{path}?label=name&genome={tmp_path / 'g.fa'}"
    with pytest.raises(InputError) as refused:
        read_own(how)
    assert words in str(refused.value) and len(refused.value.problems) == 1
    assert "1 invalid rows are left out" in read_own(f"{how}&on_error=skip").marks["skipped rows"]
    bad = [one for one in open_sequences(path, genome=str(tmp_path / "g.fa")).records() if one.problem]
    assert [one.place for one in bad] == ["line 3"]


def test_places_and_genomes_that_do_not_fit(tmp_path: Path) -> None:
    fasta = genome(tmp_path)
    (bed := tmp_path / "a.bed").write_text("chr1\t0\t8\ta\t0.5\n" * 12)
    (uneven := tmp_path / "uneven.fa").write_text(">a\nACGT\nACGTACGT\nAC\n")
    (twice := tmp_path / "twice.fa").write_text(">a\nACGT\n>a\nAC\n")
    (csv := tmp_path / "a.csv").write_text("x,label\n1,2\n")
    for how, words in (
        (f"{bed}?label=name", "`--genome FILE` names the FASTA file"),
        (f"{bed}?genome={fasta}", "are chrom, start, end, name, score"),
        (f"{bed}?label=name&genome={uneven}", "all lines of a except the last must have the same length"),
        (f"{bed}?label=name&genome={twice}", "'a' twice"),
        (f"{bed}?label=name&genome={csv}", "does not begin with `>`"),
        (f"{bed}?label=name&genome={tmp_path / 'no.fa'}", "there is no"),
        (f"{csv}?genome={fasta}", "must have chrom, start and end with `--genome`, but has x, label"),
    ):
        with pytest.raises(InputError) as refused:
            read_own(how)
        assert words in str(refused.value), how
        assert all("\n" not in line for line in refused.value.problems)


# --- pairs -------------------------------------------------------------------------------------------------


def test_pairs_are_read_by_training_and_predict(tmp_path: Path) -> None:
    one, two = dna(60, 1), dna(60, 2, 20)
    (path := tmp_path / "a.csv").write_text(
        table({"id": range(60), "seq1": one, "seq2": two, "label": [0, 1] * 30})
    )
    data = read_own(path)
    found = [text for split in data.splits.values() for text in split.sequences]
    assert sorted(found) == sorted(a + PAIR + b for a, b in zip(one, two, strict=True))
    assert "pairs of sequences are in `seq1` and `seq2`" in " ".join(data.notes) and data.schema["pairs"]
    source = open_sequences(path)
    assert source.pairs and [record.sequence for record in source.records()] == [
        a + PAIR + b for a, b in zip(one, two, strict=True)
    ]
    asked = read_own(f"{path}?sequence_a=seq2&sequence_b=seq1")
    assert next(iter(asked.splits["train"].sequences)).index(PAIR) == 20
    with pytest.raises(InputError, match="must name both `sequence_a=` and `sequence_b=`"):
        read_own(f"{path}?sequence_a=seq2")
    path.write_text(path.read_text() + "61,ACGT,AC-T,0\n62,,ACGT,1\n")
    problems = {one.place: str(one.problem) for one in open_sequences(path).records() if one.problem}
    assert list(problems) == ["line 62", "line 63"]
    assert "`sequence_b` must hold" in problems["line 62"] and "`sequence_a` must not" in problems["line 63"]
    with pytest.raises(InputError) as refused:
        read_own(path)
    assert refused.value.problems == [f"{path}, {place}: {problem}" for place, problem in problems.items()]


def test_what_stands_between_the_sequences_of_a_pair(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text(
        table({"sequence_a": dna(40, 1), "sequence_b": dna(40, 2, 8), "label": [0, 1] * 20})
    )
    row, texts = find_task(str(path)), read_own(path).splits["train"].sequences
    separated = letters_tokenizer(**{"[SEP]": 40})
    separated.add_special_tokens({"sep_token": "[SEP]"})
    for tokenizer, joint in ((letters_tokenizer(), SPACER), (separated, "[SEP]")):
        assert pair_joint(tokenizer) == joint
        prepared = prepare(row, tmp_path, tmp_path / "p", tokenizer=tokenizer, pad_id=0, max_length=18)
        assert read_recipe(prepared.folder)["pair"] == joint and prepared.schema["pairs"]
        train = open_prepared(prepared.folder).train
        room = 18 - len(tokenizer(joint)["input_ids"])
        wanted = tokenizer(first_bases(texts[0], room).replace(PAIR, joint))["input_ids"]
        assert train.batch([0])[0].tolist() == wanted and len(wanted) == 18
    for units in (bare_bases(), units_for("kmer", letters_tokenizer(), 50)):
        ids, _ = units.tokenize([texts[0]], None, None)
        first, second = texts[0].split(PAIR)
        assert ids.tolist() == [*units.spell(first), *units.spell(SPACER), *units.spell(second)]
        assert np.diff(units.tokenize([texts[0]], None, 9)[1]).tolist() == [min(9, len(ids))]


@pytest.mark.parametrize(("room", "kept"), [(99, "ACGTAC|GGG"), (7, "ACGT|GGG"), (4, "AC|GG"), (3, "AC|G")])
def test_the_longer_sequence_of_a_pair_is_cut_first(room: int, kept: str) -> None:
    assert first_bases("ACGTAC|GGG", room) == kept


def test_a_pair_leaks_on_both_strands_of_both(tmp_path: Path) -> None:
    pairs = [a + PAIR + b for a, b in zip(dna(30, 1), dna(30, 2, 9), strict=True)]
    turned = reverse_complement(pairs[:3])
    assert turned[0].split(PAIR) == [reverse_complement([part])[0] for part in pairs[0].split(PAIR)]
    for name, texts in (("train", pairs), ("dev", [*dna(9, 5), *turned]), ("test", dna(9, 6))):
        both = [text.partition(PAIR)[::2] for text in texts]
        both = [(a, b or "ACGT") for a, b in both]
        columns = {"sequence_a": [a for a, _ in both], "sequence_b": [b for _, b in both]}
        (tmp_path / f"{name}.csv").write_text(table(columns | {"label": [i % 2 for i in range(len(texts))]}))
    assert audit(read_own(tmp_path).splits).across["train", "dev"].reverse_complement == 3


# --- letters -----------------------------------------------------------------------------------------------


SOFT_MASKED = {"upper": "ACGTTNN", "mask": "ACNNTNN", "keep": "ACgtTnN"}
"""How `ACgtUrY` is read."""


@pytest.mark.parametrize(("case", "read"), SOFT_MASKED.items())
def test_soft_masking(case: str, read: str, tmp_path: Path) -> None:
    written = "ACgtUrY"
    texts = [text + written for text in dna(40)]
    (path := tmp_path / "a.csv").write_text(table({"sequence": texts, "label": [0, 1] * 20}))
    source = f"{path}?case={case}" if case != "upper" else str(path)
    data = read_own(source)
    assert {text[-7:] for split in data.splits.values() for text in split.sequences} == {read}
    told = {"upper": "120 lower-case letters are raised", "mask": "120 lower-case letters are read as N"}
    assert told.get(case, "120 lower-case letters are kept") in " ".join(data.notes)
    row = find_task(source)
    prepared = prepare(row, tmp_path, tmp_path / "p", tokenizer=bare_bases(), pad_id=0)
    assert read_recipe(prepared.folder).get("case", "upper") == case == prepared.schema["case"]
    last = open_prepared(prepared.folder).train.batch([0])[0][-7:]
    assert last.tolist() == [bare_bases().ids[letter] for letter in read.upper()]


def test_every_kind_of_letter_is_counted(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text(
        table({"sequence": [*dna(40), "acgtNNuRY", "AC-G.T*", "ACé!"], "label": [0, 1] * 21 + [0]})
    )
    source = f"{path}?on_error=skip"
    letters = read_own(source).schema["letters"]
    plain = "".join(dna(40))
    assert letters == {
        **{base: plain.count(base) + more for base, more in zip("ACGT", (3, 3, 2, 2), strict=True)},
        **{"N": 2, "U": 1, "other IUPAC codes": 2, "gaps": 3, "others": 2, "lower case": 5},
    }
    lines = label_notes(find_task(source), tmp_path)
    assert any("gaps 3, others 2, lower case 5" in line for line in lines)
    assert any("rows: train 33 (0 17, 1 16); dev 4" in line for line in lines)
    stored = prepare(find_task(source), tmp_path, tmp_path / "p", tokenizer=bare_bases(), pad_id=0).schema
    assert stored["letters"] == letters and stored["bad_rows"] == 2


# --- what has no one meaning -------------------------------------------------------------------------------


def test_numbers_of_unknown_names_are_targets_only_where_one_may_be_meant(tmp_path: Path) -> None:
    numbers = [i / 7 for i in range(40)]
    (path := tmp_path / "a.csv").write_text(
        table({"sequence": dna(40), "gc": numbers, "expression": numbers})
    )
    with pytest.raises(InputError) as refused:
        read_own(path)
    assert "numbers in `gc`, `expression`; `--columns target=gc` takes one" in str(refused.value)
    assert "`target=gc+expression` all" in str(refused.value)
    assert read_own(f"{path}?target=expression").num_labels == 1


def test_a_task_of_several_by_its_value(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text(
        table({"sequence": dna(80), "label": [0, 1] * 40, "task": ["enhancers", "promoters"] * 40})
    )
    path.write_text(path.read_text().replace(",0,promoters", ",1,promoters"))
    with pytest.raises(
        InputError, match=r"2 tasks in its column `task` .* `--columns task=enhancers` takes one"
    ):
        read_own(path)
    with pytest.raises(InputError, match=r"different labels|same label|two classes|rows of every class"):
        find_tasks([f"{path}?task=promoters"])


NASTY = {
    "wide.csv": (
        "sequence,label," + ",".join(f"x{i}" for i in range(3000)),
        "{s},{i}," + ",".join("1" * 3000),
        "",
    ),
    "newline.csv": ("sequence,note,label", '{s},"two\nlines, ""quoted""",{i}', ""),
    "twice.csv": ("sequence,label,label", "{s},{i},{i}", "but are sequence, label, label"),
    "twice_aside.csv": ("sequence,label,x,x", "{s},{i},1,2", ""),
    "empty_column.csv": ("sequence,label,", "{s},{i},", ""),
    "no_labels.csv": ("sequence,label", "{s},", "`label` must be a whole number from 0, but got ''"),
    "mixed.csv": ("sequence,label", "{s},{m}", "`label` must be a whole number from 0, but got 'yes'"),
    "blank.fa": ("", ">r label={i}\n\n{s}\n\n", ""),
    "reads.fq": ("", "@r\n{s}\n+\n{q}", "must have labels|but are id, sequence"),
    "a.xlsx": ("PK\x03\x04", "", "is an Excel workbook or zip archive"),
    "a.zip": ("PK\x03\x04", "", "is an Excel workbook or zip archive"),
    "dates.csv": (
        "sequence,when",
        "{s},2024-01-{d}",
        "`when`, which has no known name, must hold few classes, but has 28",
    ),
    "nested.jsonl": ("", '{{"sequence": "{s}", "label": {{"x": {i}}}}}', ""),
}
"""Header, row (`s` a sequence, `i` a class, `m` now and then `yes`, `q` qualities), and words of the refusal."""


@pytest.mark.parametrize("name", NASTY)
def test_nasty_tables_are_read_or_refused_in_one_line(name: str, tmp_path: Path) -> None:
    head, row, words = NASTY[name]
    texts = dna(60)
    lines = [
        row.format(s=text, i=i % 2, m="yes" if i == 7 else i % 2, q="I" * len(text), d=f"{i % 28 + 1:02}")
        for i, text in enumerate(texts)
    ]
    (path := tmp_path / name).write_text("\n".join(filter(None, [head, *lines])) + "\n")
    if not words:
        data = read_own(path)
        assert sorted(text for split in data.splits.values() for text in split.sequences) == sorted(texts)
        assert [record.problem for record in open_sequences(path).records()] == [None] * 60
        return
    with pytest.raises(InputError, match=words) as refused:
        read_own(path)
    assert all("\n" not in line and len(line) < 500 for line in refused.value.problems)


def test_one_row_is_too_few(tmp_path: Path) -> None:
    (path := tmp_path / "a.csv").write_text("sequence,label\nACGT,1\n")
    with pytest.raises(InputError, match=r"rows of every class|at least 10 rows"):
        find_task(str(path))
    assert [record.sequence for record in open_sequences(path).records()] == ["ACGT"]


def test_reads_of_a_fastq_file(tmp_path: Path) -> None:
    (path := tmp_path / "a.fastq").write_text("@r1 x\nACGT\n+\nIIII\n\n@r2\nAC\n+r2\nIII\n")
    found = [(one.place, one.name, one.sequence, bool(one.problem)) for one in open_sequences(path).records()]
    assert found == [("line 1", "r1", "ACGT", False), ("line 6", "r2", "AC", True)]
    path.write_text("@r1\nACGT\nIIII\n")
    with pytest.raises(InputError, match="line 1: a FASTQ read must be four lines"):
        list(open_sequences(path).records())
