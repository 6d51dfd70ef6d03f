"""Saved views: what they hold, and what a browser shows of them."""

import json
import os
import re
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from harness.pipeline.best import best_of
from harness.tracking import notes, views
from harness.tracking.mirror import Mirror
from harness.tracking.store import Store
from tests.support.browser import CHROMIUM, page
from tests.support.tracked import FLOPS, SETTING, job, record


def records():
    """Two backbones and two methods on one task: trials with costs, and a failed one."""
    made = []
    for number, (backbone, method, best) in enumerate(
        [("tiny", "lora", 0.3), ("tiny", "ars", 0.5), ("large", "lora", 0.7), ("large", "ars", 0.6)]
    ):
        study = f"EMP/H3|{backbone}|{method}"
        flops = FLOPS | {"flops_per_step": 4e15 * (1 + number // 2)}
        one = job(study=study, method=method, learning_rate=1e-3 * (1 + number))
        made.append(record(one, facts=flops, best=best))
        made.append(
            record(
                job("trial-0001", study=study, method=method), "failed", "out of memory", count=1, best=-0.5
            )
        )
    return [replace(one, family="EMP", facts=one.facts) for one in made]


@pytest.fixture
def store(uri, tmp_path):
    held = Store(
        uri, experiment=SETTING.experiment, identity=SETTING.identity, artifacts=tmp_path / "artifacts"
    )
    mirror = Mirror(held, SETTING)
    for one in records():
        mirror.write(one)
    mirror.finish()
    return held


def test_the_experiment_has_the_views_and_a_description(store):
    tags = store.client.get_experiment(store.experiment_id).tags
    held = {name: json.loads(text) for name, text in tags.items() if name.startswith(views.TAG)}
    assert {view["name"] for view in held.values()} == set(views.NAMES.values())
    best = views.unpacked(held[f"{views.TAG}{store.prefix}-best"]["state"])
    assert best["orderByKey"] == "metrics.`best/mcc`" and not best["orderByAsc"]
    assert {"tags.`task`", "tags.`backbone`", "tags.`method`", "tags.`best.learning_rate`"} <= set(
        best["selectedColumns"]
    )
    assert "EMP/H3" in tags["mlflow.note.content"]
    before = dict(tags)
    Mirror(store, SETTING).finish()
    assert store.client.get_experiment(store.experiment_id).tags == before, "nothing is written twice"


def test_a_server_that_others_use_too_shows_only_this_benchmark(store, uri):
    shared = Store(uri, experiment="bench", identity="two")
    assert shared.owner == " and tags.`lingo.benchmark` = 'two'" and store.owner == ""
    found = views.views(["mse", "mse", "mcc"], ["a"], shared.owner)
    assert all(state["searchFilter"].endswith(shared.owner) for state in found.values())
    assert found["best"]["orderByKey"] == "metrics.`best/mse`" and found["best"]["orderByAsc"]


def test_names_tell_runs_apart_and_descriptions_say_how_to_go_on(store):
    runs = store.runs()
    names = {run.info.run_name for run in runs}
    assert "ars · yeast EMP/H3 · large" in names and "ars · yeast EMP/H3 · large · trial 0" in names
    assert len(names) == len(runs)
    study = store.find("EMP/H3|large|lora")
    assert (
        "best/mcc 0.7" in study.data.tags["mlflow.note.content"]
        and "learning_rate" in study.data.tags["mlflow.note.content"]
    )


def test_the_command_that_trains_again_names_task_data_and_backbone():
    setting = replace(
        SETTING, out=Path("a run"), data_dir="GUE", sources={"EMP/H3|large|lora": "org/large@0123abc"}
    )
    for text in (
        notes.of_study("EMP/H3|large|lora", setting, {}, {}),
        notes.of_final(replace(records()[0], stage="final", study="EMP/H3|tiny|lora"), setting),
    ):
        assert "best 'a run' --task EMP/H3" in text and "--format yaml > best.yaml\n" in text
        assert re.search(
            r"run --tasks EMP/H3 --models (org/)?(large|tiny) --methods (lora|ars) --data-dir GUE", text
        )
        assert "--config best.yaml --num-samples 1\n```" in text
    assert "--models org/large " in notes.of_study("EMP/H3|large|lora", setting, {}, {})


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_a_browser_shows_the_best_configuration_first_and_the_curves_of_two_backbones(store, uri, tmp_path):
    with server(uri) as here:
        shown = page(views.address(here, store.experiment_id, store.prefix), tmp_path)
        first, *_ = best_of(records())
        rows = re.findall(r"(?:lora|ars) · yeast EMP/H3 · (?:tiny|large)", shown)
        assert rows[0] == f"{first.method} · yeast EMP/H3 · {first.backbone}" == "lora · yeast EMP/H3 · large"
        shown = page(views.address(here, store.experiment_id, store.prefix, views.COMPUTE), tmp_path)
        assert "flops_adjusted_step" in shown and "Dev score at equal compute" in shown
        assert "tiny (dev_mcc)" in shown and "large (dev_mcc)" in shown


class server:
    """The UI on a store, for the time of a block; gives its address."""

    def __init__(self, uri):
        import socket

        from harness.cli.ui import server as command_of

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command, environment = command_of(uri, self.port)
        self._process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def __enter__(self):
        here = f"http://127.0.0.1:{self.port}"
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{here}/health", timeout=2).read()
                return here
            except OSError:
                time.sleep(0.5)
        raise AssertionError("no server")

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(30)
