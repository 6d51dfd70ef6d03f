"""Suites of the field, read from local folders in the layouts of their publishers; nothing is downloaded."""

import json
import random
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from harness.cli.main import app
from harness.config.build import build, read_settings
from harness.config.plan import plan
from harness.core.errors import InputError
from harness.data.find_tasks import find_task
from harness.data.prepared import prepare
from harness.data.sources import read_splits
from harness.data.suites import NAMED, OUTSIDE, named, page, suite_tasks
from lingo.nucleotides import bare_bases
from lingo.sequences import PAIR

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tasks.md"
ROWS = {"train": 60, "dev": 10, "test": 12}


def dna(rng, length=40):
    return "".join(rng.choice("ACGT") for _ in range(length))


def written(folder, columns=("text", "label"), splits=("train", "test"), classes=2, pairs=False, seed=0):
    """A task as CSV files."""
    rng = random.Random(f"{folder.name} {seed}")
    folder.mkdir(parents=True)
    for split in splits:
        rows = [f"{dna(rng)}{f'|{dna(rng, 20)}' if pairs else ''},{i % classes}" for i in range(ROWS[split])]
        (folder / f"{split}.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")


def options(suite, folder, **more):
    return {"suite": suite, "data_dir": folder, "methods": ("kmer_logreg",), **more}


def test_suites_have_as_many_tasks_as_they_say():
    counts = {name: len(suite.rows) for name, suite in OUTSIDE.items()}
    assert counts == {"gue-plus": 9, "nt": 18, "genomic-benchmarks": 9, "geneb": 100}
    assert len(NAMED) == 136 and all(suite.sources for suite in OUTSIDE.values())


def test_the_page_of_tasks_is_that_of_the_table():
    assert "\n".join(page()) in PAGE.read_text(encoding="utf-8")


def test_geneb_lies_in_folders(tmp_path):
    """`tasks/<id>/{train,test}.csv`, `text,label`, no dev."""
    for name in ("iDHS-EL_DNase_I", "deep4mc_A.thaliana_4mC"):
        written(tmp_path / "tasks" / name)
    with pytest.raises(InputError) as refused:
        build(options("geneb", tmp_path))
    assert len(refused.value.problems) == 98
    benchmark = build(options("geneb", tmp_path, shots=("1", "10", "all"), data_seed=997, skip_missing=True))
    found = plan(benchmark)
    assert [study.task.name for study in found.studies] == [
        f"geneb/{name}{text}"
        for name in ("deep4mc_A.thaliana_4mC", "iDHS-EL_DNase_I")
        for text in ("@1-shot@seed-997", "@10-shot@seed-997", "")
    ]
    assert [study.train_rows for study in found.studies] == [2, 20, 54] * 2
    row = found.studies[0].task
    assert (row.family, row.metric, row.kind) == ("geneb", "mcc", "classification")
    whole = read_splits(find_task(benchmark.tasks[2]), tmp_path)
    assert [len(rows.labels) for rows in whole.values()] == [54, 6, 12]
    made = prepare(found.studies[2].task, tmp_path, tmp_path / "p", tokenizer=bare_bases(), pad_id=0)
    assert "cut split" in made.marks
    assert (
        benchmark.name == "geneb"
        and build(read_settings(benchmark.repeat(), "s")).identity() == benchmark.identity()
    )


def commands_of_geneb():
    """The words behind `run` of GENEB's protocol on the page, of each seed."""
    text = PAGE.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line.split("run_benchmark.py run ")[1] for line in text.splitlines() if "geneb.yaml --" in line]
    (whole, few) = map(shlex.split, lines)
    return [
        whole,
        *(
            [word.replace("$seed", seed) for word in few]
            for seed in whole[whole.index("--seeds") + 1].split(",")
        ),
    ]


def test_the_protocol_of_geneb_is_one_fixed_probe(tmp_path, monkeypatch, shared):
    """The page's commands, on a local folder of its layout: one trial a study, and what it is."""
    monkeypatch.chdir(PAGE.parents[1])
    for name in ("iDHS-EL_DNase_I", "deep4mc_A.thaliana_4mC"):
        written(tmp_path / "tasks" / name)
    places = {"COPY": str(tmp_path), "MODEL": str(shared / "models" / "stories260K")}
    asked = []
    for words in commands_of_geneb():
        words = [places.get(word, word) for word in words]
        command = ["plan", "--no-measure", "--no-audit", "--skip-missing", "--json", *words]
        told = json.loads(CliRunner().invoke(app, command, catch_exceptions=False).output)
        tasks = [one["task"] for one in told["tasks"] if one["data"] == "here"]
        assert told["trials"] == len(told["works"]) == len(tasks) and not told["problems"]
        asked.append(({task.partition("@")[2] for task in tasks}, told["final_runs"] // len(tasks)))
    seeds = (13, 17, 42, 123, 997)
    assert asked == [({""}, 5), *(({f"1-shot@seed-{seed}", f"10-shot@seed-{seed}"}, 1) for seed in seeds)]
    found = plan(
        build(
            options(
                "geneb",
                tmp_path,
                methods=("probe",),
                models=(places["MODEL"],),
                skip_missing=True,
                search_spaces=(Path("search_spaces/geneb.yaml"),),
            )
        )
    )
    for study in found.studies:
        config = study.space.config({}, seed=0)
        assert (config.method, config.depth, config.pooling, config.C) == ("probe", 1.0, "mean", 1.0)
        assert config.feature_scaling == "none"


def test_geneb_without_a_copy():
    with pytest.raises(InputError, match=r"^`--data-dir` is needed for geneb: [^\n]*$"):
        build({"suite": "geneb", "methods": ("kmer_logreg",)})


def test_the_transformers_tasks_in_one_table(tmp_path):
    """The hub's layout: Parquet files of all tasks, with a column `task`."""
    rng = random.Random(0)
    for split in ("train", "test"):
        tasks = [name for name in ("promoter_all", "H3K9me3") for _ in range(ROWS[split])]
        texts, labels = [dna(rng) for _ in tasks], [i % 2 for i in range(len(tasks))]
        (tmp_path / "data").mkdir(exist_ok=True)
        table = {
            "sequence": texts,
            "name": [f"n{i}" for i in range(len(tasks))],
            "label": labels,
            "task": tasks,
        }
        pq.write_table(pa.table(table), tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    row = find_task(named("nt/promoter_all", tmp_path))
    assert row.name == "nt/promoter_all"
    assert [len(rows.labels) for rows in read_splits(row, tmp_path).values()] == [54, 6, 12]
    (study,) = plan(build({**options("nt", tmp_path), "suite": None, "tasks": ("nt/H3K9me3",)})).studies
    assert (study.task.name, study.train_rows) == ("nt/H3K9me3", 54)


def test_tasks_in_folders_and_those_that_are_missing(tmp_path, caplog):
    written(tmp_path / "human_enhancers_cohn", columns=("seq", "label"))
    written(tmp_path / "human_ensembl_regulatory", columns=("seq", "label"), classes=3)
    with pytest.raises(InputError) as refused:
        build(options("genomic-benchmarks", tmp_path))
    assert len(refused.value.problems) == 7
    assert "genomic-benchmarks/demo_human_or_worm: expected train and test in" in "\n".join(
        refused.value.problems
    )
    found = plan(build(options("genomic-benchmarks", tmp_path, skip_missing=True)))
    assert [(study.task.name, study.task.num_labels) for study in found.studies] == [
        ("genomic-benchmarks/human_enhancers_cohn", 2),
        ("genomic-benchmarks/human_ensembl_regulatory", 3),
    ]
    assert caplog.text.count("--skip-missing leaves out genomic-benchmarks/") == 7


@pytest.mark.parametrize("columns", [("sequence", "label"), ("sequence1", "sequence2", "label")])
def test_pairs_stand_in_one_column_or_two(tmp_path, columns):
    written(tmp_path / "GUE" / "EPI_K562", columns, ("train", "dev", "test"), pairs=True)
    if len(columns) == 3:
        for file in (tmp_path / "GUE" / "EPI_K562").iterdir():
            file.write_text(file.read_text().replace("|", ","))
    row = find_task(named("gue-plus/EPI_K562", tmp_path))
    splits = read_splits(row, tmp_path)
    assert [len(rows.labels) for rows in splits.values()] == [60, 10, 12]
    assert all(
        len(first) == 40 and len(second) == 20
        for first, second in (str(text).split(PAIR) for rows in splits.values() for text in rows.sequences)
    )
    made = prepare(row, tmp_path, tmp_path / "p", tokenizer=bare_bases(), pad_id=0)
    assert made.schema["pairs"] is True


def test_a_pair_without_its_second_sequence_is_told(tmp_path):
    (tmp_path / "EPI_K562").mkdir()
    (tmp_path / "EPI_K562" / "train.csv").write_text("sequence,label\nACGT|AC,0\nACGT,1\nACGT|A|C,1\n")
    with pytest.raises(InputError) as refused:
        find_task(named("gue-plus/EPI_K562", tmp_path))
    lines = "\n".join(refused.value.problems)
    assert "line 3: `sequence_b` must not be empty" in lines and "line 4: `sequence_b`" in lines


def test_without_a_folder_the_hubs_copy_is_named():
    assert named("gue-plus/EPI_K562", None) == "hub:leannmlindsey/GUE/EPI_K562?name=gue-plus/EPI_K562"
    table = "hub:InstaDeepAI/nucleotide_transformer_downstream_tasks_revised?task=enhancers&name=nt/enhancers"
    assert named("nt/enhancers", None) == table and named("mouse/2", None) == "mouse/2"
    assert named("nt/enhancers@10-shot", None) == f"{table}@10-shot"
    assert len(suite_tasks("genomic-benchmarks", None)) == 9
