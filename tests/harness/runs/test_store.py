"""Records and their store: whole or absent, written once, no foreign benchmark mixed in."""

import json
import math
import os
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.core.errors import InputError
from harness.runs.jobs import Job, Report
from harness.runs.layout import file_name
from harness.runs.record import Record, config_hash
from harness.runs.store import ResultStore, load, records_of, refuse_foreign

BENCHMARK = {"tasks": ["EMP/H3"], "methods": ["lora"], "num_samples": 8}
STUDY = "EMP/H3|tiny|lora"


def job(number=0, stage="search", **config):
    config = {"method": "lora", "seed": 3, "learning_rate": 1e-3, "targets": ("W_q",)} | config
    name = f"trial-{number:04d}" if stage == "search" else f"final/seed-{config['seed']}"
    return Job(
        id=f"{STUDY}/{name}", study=STUDY, stage=stage, backbone="tiny", data="prepared", config=config
    )


def report(number, mcc=0.5, **values):
    return Report(
        job=f"{STUDY}/trial-0000",
        number=number,
        status="running",
        epoch=number,
        step=10 * number,
        total_steps=30,
        train_loss=1.0 / number,
        dev={"mcc": mcc, "auroc": math.nan, "loss": 0.6},
        seconds=2.5 * number,
        **values,
    )


def record(number=0, **values):
    facts = {"benchmark": "quickstart", "family": "EMP", "metric": "mcc", "trial": number}
    return replace(Record.of(job(number), [report(1), report(2)], "finished", **facts), **values)


def same(first, second):
    return first.to_json() == second.to_json()


def test_a_record_of_a_job():
    last = report(3, 0.7, facts={"trained_parameters": np.int64(1234), "kept_ranks": [2, 3]})
    made = Record.of(
        job(), [report(1), report(2), last], "finished", benchmark="b", family="EMP", metric="mcc", trial=0
    )
    assert (made.task, made.backbone, made.method, made.seed) == ("EMP/H3", "tiny", "lora", 3)
    assert [entry["step"] for entry in made.history] == [10, 20, 30]
    assert made.dev["mcc"] == 0.7
    assert made.trained_parameters == 1234
    assert made.facts == {"kept_ranks": [2, 3]}
    assert made.seconds == 7.5
    assert made.test is None
    assert made.ended.endswith("+00:00")


def test_a_failure_is_a_row():
    failed = Report(job="x", number=2, status="failed", error="the loss is not finite")
    made = Record.of(job(), [report(1), failed], "failed", benchmark="b", family="EMP", metric="mcc", trial=4)
    assert made.error == "the loss is not finite"
    assert made.dev["mcc"] == 0.5
    assert Record.of(job(), [], "failed", "lost", benchmark="b", family="E", metric="mcc", trial=1).dev == {}


def test_test_metrics_belong_to_the_final_stage():
    with pytest.raises(ValueError, match="search must not have test metrics"):
        record(test={"mcc": 0.5})
    final = Record.of(
        job(stage="final"),
        [report(1, test={"mcc": 0.4})],
        "finished",
        benchmark="b",
        family="E",
        metric="mcc",
        trial=None,
    )
    assert final.test == {"mcc": 0.4}


def test_json_is_strict_and_gives_back_what_is_not_finite(tmp_path):
    store = ResultStore(tmp_path, BENCHMARK)
    store.append(record(facts={"worst": -math.inf}))
    text = next((tmp_path / "records").iterdir()).read_text()
    json.loads(text, parse_constant=pytest.fail)
    (loaded,) = load(tmp_path)
    assert math.isnan(loaded.dev["auroc"])
    assert math.isnan(loaded.history[0]["dev"]["auroc"])
    assert loaded.facts["worst"] == -math.inf
    assert same(loaded, record(facts={"worst": -math.inf}, ended=loaded.ended))


def test_the_table_has_every_record_and_metrics_as_columns(tmp_path):
    store = ResultStore(tmp_path, BENCHMARK)
    store.append(record(1, marks=("smoke",)))
    store.append(record(0, status="failed", error="out of memory", dev={}))
    store.write_table()
    table = pq.read_table(tmp_path / "results.parquet").to_pylist()
    assert [row["trial"] for row in table] == [0, 1]
    assert (table[0]["status"], table[0]["error"], table[0]["dev_mcc"]) == ("failed", "out of memory", None)
    assert (table[1]["dev_mcc"], table[1]["marks"]) == (0.5, ["smoke"])
    assert math.isnan(table[1]["dev_auroc"])
    assert table[1]["config_learning_rate"] == 1e-3 and table[1]["config_targets"] == ["W_q"]
    assert "config" not in table[1] and (table[1]["method"], table[1]["seed"]) == ("lora", 3)
    assert [path.name for path in tmp_path.glob(".*")] == []


SETTINGS = st.dictionaries(
    st.sampled_from(["learning_rate", "targets", "p"]),
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False),
        st.integers(-(2**31), 2**31),
        st.booleans(),
        st.text("ab,", max_size=3),
        st.lists(st.sampled_from(["W_q", "W_v"]), max_size=3),
    ),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(SETTINGS, min_size=1, max_size=4))
def test_configurations_come_back_from_the_table_whatever_types_meet_in_a_column(tmp_path_factory, configs):
    store = ResultStore(tmp_path_factory.mktemp("flat"), BENCHMARK)
    for number, config in enumerate(configs):
        made = job(number, **config)
        facts = {"benchmark": "quickstart", "family": "EMP", "metric": "mcc", "trial": number}
        store.append(Record.of(made, [report(1, facts={"best_epoch": number})], "finished", **facts))
    store.write_table()
    read = list(records_of(store.out / "results.parquet"))
    for one, other in zip(read, store.load(), strict=True):
        assert dict(one.config) == dict(other.config), "an integer among floats is an equal float"
    rows = pq.read_table(store.out / "results.parquet").to_pylist()
    assert [row["best_epoch"] for row in rows] == list(range(len(configs)))


def test_an_empty_store_has_an_empty_table(tmp_path):
    ResultStore(tmp_path / "out", BENCHMARK)
    assert pq.read_table(tmp_path / "out/results.parquet").num_rows == 0


def test_a_record_is_written_once(tmp_path):
    store = ResultStore(tmp_path, BENCHMARK)
    assert store.append(record())
    assert not store.append(record(status="failed"))
    assert [found.status for found in store.load()] == ["finished"]
    assert store.append(record(status="failed"), replace=True)
    assert [found.status for found in store.load()] == ["failed"]
    assert [found.id for found in store.load()] == [record().id]
    assert [found.to_json() for found in store.load()] == [found.to_json() for found in load(tmp_path)]


def test_a_store_opened_again_goes_on(tmp_path):
    first = ResultStore(tmp_path, BENCHMARK)
    first.append(record(0))
    (tmp_path / "results.parquet").unlink()
    second = ResultStore(tmp_path, {key: BENCHMARK[key] for key in reversed(BENCHMARK)})
    assert second.identity == first.identity
    assert not second.append(record(0))
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 1
    assert second.append(record(1))
    second.write_table()
    assert pq.read_table(tmp_path / "results.parquet").num_rows == 2


def test_the_table_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    clock, written = [0.0], []
    monkeypatch.setattr("harness.runs.store.time.monotonic", lambda: clock[0])

    def slow(table, path):
        clock[0] += 0.5
        written.append(table.num_rows)
        path.touch()

    monkeypatch.setattr("harness.runs.store.pq.write_table", slow)
    store = ResultStore(tmp_path, BENCHMARK)
    for number in range(100):
        store.append(record(number))
        clock[0] += 1.0
    assert written[0] == 0 and written[1] >= 25 and len(written) <= 1 + 100 / 25


def test_half_written_files_are_passed_over_and_foreign_ones_named(tmp_path):
    store = ResultStore(tmp_path, BENCHMARK)
    store.append(record())
    (tmp_path / "records/.x7f.tmp").write_text('{"id": "half')
    assert len(load(tmp_path)) == 1
    (tmp_path / "records/cut.json").write_text('{"id": "half')
    (tmp_path / "records/other.json").write_text('{"hello": 1}')
    with pytest.raises(InputError) as error:
        load(tmp_path)
    assert [("cut.json" in line, "other.json" in line) for line in error.value.problems] == [
        (True, False),
        (False, True),
    ]


def test_another_benchmark_is_refused_and_its_difference_named(tmp_path):
    ResultStore(tmp_path, BENCHMARK)
    with pytest.raises(InputError, match="it differs in num_samples, seeds"):
        ResultStore(tmp_path, {**BENCHMARK, "num_samples": 9, "seeds": [0]})
    refuse_foreign(tmp_path, BENCHMARK)


def test_a_folder_from_when_seeds_told_benchmarks_apart_is_still_this_benchmarks(tmp_path):
    ResultStore(tmp_path, {"epochs": 5, "num_samples": 16, "seeds": [0, 1, 2]})
    refuse_foreign(tmp_path, {"epochs": 5})
    with pytest.raises(InputError, match="epochs"):
        refuse_foreign(tmp_path, {"epochs": 4})


def test_results_of_unknown_origin_are_refused(tmp_path):
    (tmp_path / "records").mkdir()
    with pytest.raises(InputError, match="without a benchmark"):
        refuse_foreign(tmp_path, BENCHMARK)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        refuse_foreign(tmp_path / "file", BENCHMARK)


def test_refusing_writes_nothing(tmp_path):
    refuse_foreign(tmp_path / "new", BENCHMARK)
    assert not (tmp_path / "new").exists()


def test_file_names_are_safe_and_never_meet():
    names = {file_name(name) for name in ("a/b|c", "a_b_c", "../../etc/passwd", "…", "x" * 5000)}
    assert len(names) == 5
    assert all("/" not in name and len(name) < 160 and not name.startswith(".") for name in names)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(max_size=5), scalars | st.lists(scalars, max_size=3), max_size=5))
def test_the_hash_ignores_order_and_list_kind_alone(config):
    shuffled = {key: tuple(v) if isinstance(v, list) else v for key, v in reversed(config.items())}
    assert config_hash(config) == config_hash(shuffled)
    assert config_hash(config) != config_hash({**config, "one more key": 1})


KILLED_WHILE_WRITING = """
import sys
from harness.runs.record import Record
from harness.runs.store import ResultStore
store = ResultStore(sys.argv[1], {"tasks": ["t"]})
number = 0
while True:
    store.append(Record(id=f"trial-{number}", benchmark="b", study="t|m|lora", task="t", family="f",
        backbone="m", method="lora", metric="mcc", stage="search", trial=number, seed=0, status="finished",
        history=[{"epoch": i, "step": i, "seconds": 1.0, "train_loss": 0.5, "dev": {}} for i in range(500)]))
    number += 1
    print(number, flush=True)
"""


def test_a_killed_writer_leaves_only_whole_records(tmp_path):
    out = tmp_path / "out"
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(out)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert writer.stdout is not None
    written = 0
    while written < 12:
        written = int(writer.stdout.readline())
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    survived = {found.id for found in load(out)}
    assert {f"trial-{number}" for number in range(12)} <= survived
    store = ResultStore(out, {"tasks": ["t"]})
    assert pq.read_table(out / "results.parquet").num_rows == len(survived) == len(store.load())
