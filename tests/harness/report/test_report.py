"""The report of whole runs: a finished one in the paper's shape, unfinished, failed and empty ones, odd folders."""

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import stats as scipy_stats
from typer.testing import CliRunner

from harness.cli.main import app
from harness.core.errors import InputError
from harness.report import best_pairs, drawing
from harness.report.build import make_report
from harness.report.outcomes import outcomes_of
from harness.report.paper.curves import correlation, curve_of, label_scores
from harness.report.run_results import RunResults, read_run
from harness.report.sections import calibration, cost, health, overview, significance
from lingo.flops import flops_adjusted_step
from lingo.metrics import reliability, score
from tests.support.browser import CHROMIUM, browse
from tests.support.paper_like import plan_of, records, with_flaws, write_run, write_table

BACKBONES = {"nt-500m-1000g": "NT-500M", "opt-125m": "OPT-125M"}
TASKS = ("EMP/H3", "EMP/H4", "EMP/H4ac", "prom/prom_300_tata", "deepsea/histone")


@pytest.fixture(scope="module")
def made():
    return list(records(tasks=TASKS, backbones=BACKBONES, seeds=3, trials=6))


@pytest.fixture(scope="module")
def outcomes(made):
    return outcomes_of([RunResults(folder=Path("run"), trials=list(made))])


@pytest.fixture(scope="module")
def report(made, tmp_path_factory):
    """(folder of the report, its HTML) of a finished run."""
    drawn = [record for record in made if record.task != "prom/prom_300_tata"]
    run = write_run(tmp_path_factory.mktemp("run") / "paper", drawn, seeds=3)
    make_report([run])
    return run / "report", (run / "report" / "report.html").read_text()


class Page(HTMLParser):
    """What a page asks of the network, and whether its tags match."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.ids, self.outside, self.wrong = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href") and not value.startswith(("#", "data:")):
                self.outside.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_page_is_whole_and_asks_nothing_of_the_network(report):
    page = Page()
    page.feed(report[1])
    assert page.outside == [] and page.wrong == [] and page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert "<script src" not in report[1] and "@import" not in report[1] and "url(http" not in report[1]
    assert (
        not any(word in report[1] for word in ("fetch(", "XMLHttpRequest", "import("))
        and len(report[1]) < 3e6
    )


def test_sections_are_in_the_order_in_which_a_reader_asks(report):
    places = [report[1].index(f'<section id="{name}"') for name in ORDER]
    assert places == sorted(places)
    assert report[1].index("<aside>") < places[0], "caveats stand above the first number"


ORDER = ("overview", "tables", "significance", "health", "cost", "hyperparameters", "claims", "figures")


def test_the_paper_is_one_line_where_nothing_of_it_was_measured(tmp_path, made):
    mine = [
        replace(r, id=r.id.replace(r.study, key), study=key, task="mine/x", family="mine", backbone="tiny")
        for r in made
        if r.task == "EMP/H3" and r.backbone == "opt-125m"
        for key in [f"mine/x|tiny|{r.method}"]
    ]
    html = page_of(write_run(tmp_path / "run", mine, seeds=3, search=False))
    assert html.count("Nothing of the paper was measured here") == 1 and 'id="claims"' not in html
    text = (tmp_path / "run" / "report" / "report.md").read_text()
    assert "Nothing of the paper was measured here" in text and "C001" not in text
    assert (tmp_path / "run" / "report" / "tables" / "claims_not_measured.csv").exists()


def test_ticks_tell_values_apart_and_times_have_a_unit_that_shows_them():
    from harness.report.drawing import Amounts
    from harness.report.sections.cost import time_unit

    assert Amounts().format_ticks([46_370.0, 46_380.0, 46_470.0]) == ["46.37k", "46.38k", "46.47k"]
    assert Amounts().format_ticks([1e6, 2e6]) == ["1M", "2M"]
    assert time_unit(20 / 3600, "hours") == ("seconds", 3600.0)
    assert time_unit(0.5, "GPU-hours") == ("GPU-minutes", 60.0) and time_unit(7, "hours") == ("hours", 1.0)


@pytest.mark.parametrize(("seconds", "unit"), [(20.0, "seconds"), (600.0, "minutes"), (9000.0, "hours")])
def test_the_heading_of_costs_follows_the_unit_of_the_axis(made, seconds, unit):
    here = [
        replace(r, seconds=seconds, facts={**r.facts, "device_seconds": seconds, "gpus": 0})
        for r in made
        if r.task == "EMP/H3" and r.stage == "final"
    ]
    run = RunResults(folder=Path("run"), trials=here)
    block = cost.section([run], outcomes_of([run])).blocks[0]
    assert block.title == f"Score against {unit}"
    with drawing.style():
        assert {panel.get_xlabel() for panel in block.draw().axes} == {f"{unit} of one final run"}


def test_points_of_figures_tell_their_values(report, outcomes):
    svg = (report[0] / "figures" / "score_against_flops.svg").read_text()
    hints = re.findall(r'<circle class="hint"[^>]*><title>([^<]*)</title></circle>', svg)
    assert len(hints) == len([o for o in outcomes.main if o.key.task != "prom/prom_300_tata"])
    one = outcomes.get("EMP/H3", "opt-125m", "lingo")
    (mine,) = [hint for hint in hints if hint.startswith("H3\nOPT-125M · Lingo\n")]
    assert mine.endswith(f"test MCC {one.mean:.4g}") and "FLOPs of one final run" in mine
    overview = (report[0] / "figures" / "overview.svg").read_text()
    assert "\nLingo\nmean test MCC" in overview and "\nOPT-125M</title>" in overview, (
        "names of an axis are told"
    )
    for path in (report[0] / "figures").glob("*.svg"):
        size = float(re.search(r'viewBox="0 0 ([\d.]+)', path.read_text())[1])
        places = [float(x) for x in re.findall(r'class="hint" cx="([-\d.]+)"', path.read_text())]
        assert all(0 <= x <= size for x in places), path


def test_scores_at_one_half_stand_beside_those_with_thresholds_of_dev(tmp_path, made):
    here = [
        replace(r, facts={**r.facts, "threshold": [0.25], "at_half": {"mcc": 0.125}})
        if r.method == "lora"
        else r
        for r in made
        if r.task == "EMP/H3" and r.stage == "final"
    ]
    html = page_of(write_run(tmp_path / "run", here, seeds=3, search=False))
    assert "0.250 to 0.250" in html and "0.125" in html
    rows = pq.read_table(tmp_path / "run/report/tables/thresholds.parquet").to_pylist()
    assert {row["method"] for row in rows} == {"lora"} and {row["at_half"] for row in rows} == {0.125}
    assert "thresholds" not in {p.stem for p in (tmp_path / "run/report/tables").glob("*scores*")}


def test_every_table_and_picture_is_a_file(report):
    folder, html = report
    tables = {path.stem for path in (folder / "tables").glob("*.csv")}
    assert tables == {path.stem for path in (folder / "tables").glob("*.parquet")}
    assert {"winners", "claims", "scores_EMP", "scores_deepsea", "tests_over_datasets", "costs"} <= tables
    pictures = {path.stem for path in (folder / "figures").glob("*.svg")}
    assert pictures == {path.stem for path in (folder / "figures").glob("*.png")}
    assert len(re.findall("<svg ", html)) == len(pictures)
    markdown = (folder / "report.md").read_text()
    assert all(f"figures/{name}.png" in markdown for name in pictures)
    for path in (folder / "tables").glob("*.csv"):
        rows = list(csv.DictReader(path.open()))
        assert len(rows) == pq.read_table(path.with_suffix(".parquet")).num_rows


def test_a_reliability_diagram_has_all_predictions_of_all_seeds(tmp_path, made):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 600)

    def told(record):
        logits = np.eye(2)[labels] + rng.normal(size=(600, 2))
        facts = {**record.facts, "reliability": reliability("classification", logits, labels)}
        return replace(record, facts=facts, test={**record.test, **score("classification", logits, labels)})

    mine = [r for r in made if r.task == "EMP/H3" and r.backbone == "opt-125m"]
    mine = [told(r) if r.stage == "final" else r for r in mine]
    html = page_of(write_run(tmp_path / "run", mine, seeds=3, search=False))
    assert 'id="metrics"' in html and "Reliability diagram" in html
    folder = tmp_path / "run" / "report"
    assert (folder / "figures" / "reliability.svg").exists()
    (row,) = [
        r for r in pq.read_table(folder / "tables" / "metrics.parquet").to_pylist() if r["method"] == "lingo"
    ]
    finals = [r for r in mine if r.method == "lingo" and r.stage == "final"]
    for name in ("brier", "ece", "nll", "f1"):
        assert row[name] == pytest.approx(np.mean([r.test[name] for r in finals])), name
    outcome = next(o for o in outcomes_of([read_run(tmp_path / "run")]) if o.key.method == "lingo")
    _, share = calibration.reliability(outcome)
    assert min(share) >= 0 and max(share) <= 1 and len(share) > 4


def test_score_tables_hold_mean_sd_interval_and_the_published_value(report, made):
    table = pq.read_table(report[0] / "tables" / "scores_EMP.parquet").to_pylist()
    (row,) = [r for r in table if (r["task"], r["backbone"], r["method"]) == ("EMP/H3", "opt-125m", "lingo")]
    mine = [r for r in made if r.study == "EMP/H3|opt-125m|lingo" and r.stage == "final"]
    scores = [r.test["mcc"] for r in mine]
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(scores), scipy_stats.sem(scores))
    assert (row["mean"], row["sd"]) == (pytest.approx(np.mean(scores)), pytest.approx(np.std(scores, ddof=1)))
    assert (row["seeds_low"], row["seeds_high"]) == (pytest.approx(low), pytest.approx(high))
    assert row["bootstrap_low"] == pytest.approx(np.mean([r.facts["interval"]["mcc"][0] for r in mine]))
    assert (row["published"], row["published_parameters"]) == (0.63, 1e6)
    assert row["difference"] == pytest.approx(row["mean"] - 0.63)
    assert f"{row['mean']:.3f} ± {row['sd']:.3f}" in report[1]


def test_promoters_are_reported_in_the_papers_metric(outcomes):
    assert {outcome.metric for outcome in outcomes if outcome.family == "prom_300"} == {"auroc"}


def test_paired_tests_are_scipys_with_holm_inside_each_group(outcomes):
    found = [c for c in significance.over_datasets(outcomes) if c.where == ("EMP", "opt-125m")]
    tasks = ["EMP/H3", "EMP/H4", "EMP/H4ac"]
    assert len(found) == 10
    for c in found:
        a, b = (outcomes.means(tasks, "opt-125m", method) for method in (c.a, c.b))
        expected = scipy_stats.ttest_rel(a, b)
        assert (c.test.t, c.test.p) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
        assert c.test.difference >= 0
    smallest = min(found, key=lambda c: c.test.p)
    assert smallest.p_holm == pytest.approx(min(1.0, 10 * smallest.test.p))


def test_the_flops_axis_is_the_papers(outcomes):
    outcome = outcomes.get("deepsea/histone", "nt-500m-1000g", "ars")
    curve, last = curve_of(outcome), outcome.finals[0].history[-1]["step"]
    facts = outcome.finals[0].facts
    # I_OPT-125M steps cost as much as `last` steps of this model: the inverse of I_m (section 4.4).
    own, reference = facts["flops_per_step"], facts["reference_flops_per_step"]
    assert flops_adjusted_step(curve.steps[-1], own, reference) == pytest.approx(last)
    assert curve.steps[-1] == pytest.approx(last * own / reference)


def test_label_correlation_is_pearsons(outcomes):
    a, b = label_scores(outcomes, "deepsea/histone")
    names = list(a.auroc)
    expected = scipy_stats.pearsonr([a.auroc[n] for n in names], [b.auroc[n] for n in names]).statistic
    assert correlation(a, b) == (pytest.approx(expected), 104)


def test_the_winner_is_the_highest_mean_and_its_lead_is_over_seeds(outcomes):
    best = best_pairs.best_of(outcomes, "deepsea")
    means = {(o.key.backbone, o.key.method): o.mean for o in outcomes.main if o.key.task == "deepsea/histone"}
    first, second = sorted(means, key=lambda pair: -means[pair])[:2]
    assert (best.pairs, best.second) == ((first,), (second,))
    a, b = (outcomes.get("deepsea/histone", *pair).values for pair in (first, second))
    interval = scipy_stats.ttest_rel(a, b).confidence_interval(0.95)
    assert (best.lead.low, best.lead.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert best.baseline[0] == "one-hot CNN" or best.baseline[1] > 0


def test_two_runs_make_table_1(made, tmp_path):
    lingo = [
        r for r in made if (r.task, r.backbone) == ("prom/prom_300_tata", "opt-125m") and r.stage == "final"
    ]
    one_hot = [replace(r, facts={**r.facts, "tokenization": "one_hot"}) for r in lingo]
    runs = [write_run(tmp_path / name, rows, seeds=3) for name, rows in (("a", lingo), ("b", one_hot))]
    make_report(runs, tmp_path / "report")
    table = pq.read_table(tmp_path / "report" / "tables" / "table_1_tokenizations.parquet").to_pylist()
    assert {row["tokenization"] for row in table if row["method"] == "lingo"} == {"bbpe", "one_hot"}
    with pytest.raises(InputError, match="must not contain the same study"):
        make_report([runs[0], runs[0]], tmp_path / "twice")


# --- runs that did not go well ----------------------------------------------------------------------------


def page_of(run):
    make_report([run])
    return (run / "report" / "report.html").read_text()


def test_an_empty_run(tmp_path, made):
    html = page_of(write_run(tmp_path / "run", [], plan=plan_of(made, 3), search=False))
    assert "no trial has ended" in html
    assert "0 of" in html and "not drawn" in html


def test_a_folder_with_nothing_but_its_settings(tmp_path):
    html = page_of(write_run(tmp_path / "run", [], plan={}, search=False))
    assert "no trial has ended" in html


def test_an_unfinished_run(tmp_path, made):
    here = [r for r in made if r.task == "EMP/H3"]
    half = [r for r in here if r.stage == "search" or (r.seed == 0 and r.method != "lingo")]
    html = page_of(write_run(tmp_path / "run", half, seeds=3, plan=plan_of(here, 3), search=False))
    assert "Unfinished" in html and "1 of 3 seeds" in html and "One seed per study" in html


def test_a_run_whose_searches_are_all_there_is(tmp_path, made):
    html = page_of(
        write_run(tmp_path / "run", [r for r in made if r.stage == "search"], seeds=3, search=False)
    )
    assert "No final run has finished yet" in html and "parallel_coordinates" in html


def test_a_run_where_everything_failed(tmp_path, made):
    error = "diverged: <script>alert(1)</script> | the loss is not finite after epoch 1"
    failed = [
        replace(
            r, status="failed", error=error, test=None, dev={}, history=[], facts={}, trained_parameters=None
        )
        for r in made[:40]
    ]
    html = page_of(write_run(tmp_path / "run", failed, seeds=3, search=False))
    assert "40 failures" in html
    assert "<script>alert" not in html and "&lt;script&gt;" in html
    assert "<script>" not in (tmp_path / "run" / "report" / "report.md").read_text()


def test_undefined_scores_are_not_averaged_away(tmp_path, made):
    rows = [
        replace(r, test={**r.test, "mcc": float("nan")}) if r.id == "EMP/H3|opt-125m|lora/final/seed-1" else r
        for r in made
        if r.task == "EMP/H3"
    ]
    rows = [r for r in rows if r.backbone == "opt-125m" and r.method in ("lora", "ars")]
    outcome = outcomes_of([RunResults(folder=tmp_path, trials=list(rows))])
    assert [o.mean == o.mean for o in outcome] == [False, True]
    page_of(write_run(tmp_path / "run", rows, seeds=3))


def test_flaws_are_told_first(tmp_path):
    rows = with_flaws(records(tasks=("EMP/H3", "EMP/H3K4me3"), seeds=3, trials=4))
    run = write_run(tmp_path / "run", rows, seeds=3)
    outcomes = outcomes_of([read_run(run)])
    points = " ".join(overview.distrust([read_run(run)], outcomes))
    assert "failed" in points and "1 final model predicts the same for every row" in points
    assert [o.collapsed for o in outcomes if o.collapsed] == [[2]]


# --- reading ----------------------------------------------------------------------------------------------


def test_the_table_and_the_records_say_the_same(tmp_path, made):
    rows = made[:30]
    run = write_run(tmp_path / "run", rows, seeds=3)
    from_records = read_run(run).trials
    write_table(run)
    shutil.rmtree(run / "records")
    from_table = read_run(run).trials
    assert [t.id for t in from_table] == [t.id for t in from_records] == sorted(r.id for r in rows)
    for a, b in zip(from_table, from_records, strict=True):
        config = {"method": b.method, "seed": b.seed, **b.config}  # as real configurations have them
        assert (a.dev, a.test, a.config, a.marks) == (b.dev, b.test, config, b.marks)
        assert (a.trial, a.seed, a.facts, list(a.history)) == (b.trial, b.seed, b.facts, list(b.history))


def test_records_that_the_table_lacks_are_read(tmp_path, made):
    run = write_run(tmp_path / "run", made[:10], seeds=3)
    write_table(run)
    other = write_run(tmp_path / "other", made[10:12], seeds=3)
    for path in (other / "records").iterdir():
        shutil.copy(path, run / "records")
    assert len(read_run(run).trials) == 12


def test_damaged_files_cost_themselves_only(tmp_path, made):
    run = write_run(tmp_path / "run", made[:10], seeds=3)
    (run / "records" / "torn.json").write_text('{"id": "x"')
    (run / "results.parquet").write_bytes(b"not a table")
    (run / "search.json").write_text("[]")
    found = read_run(run)
    assert len(found.trials) == 10 and len(found.problems) == 3
    assert "torn.json" in page_of(run)


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command(tmp_path, made):
    run = write_run(tmp_path / "run", made[:12], seeds=3)
    done = invoke("report", run, "--out", tmp_path / "there")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "there" / "report.html").is_file() and "report.html" in done.output


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path, made):
    run = write_run(tmp_path / "run", made[:12], seeds=3)
    (tmp_path / "file").touch()
    done = invoke("report", run, "--out", tmp_path / "file")
    assert done.exit_code == 2
    assert "`--out` must be a writable folder" in done.stderr


def test_bad_input_is_one_line(tmp_path):
    for arguments, said in (
        ((tmp_path / "none",), "there is no folder"),
        ((tmp_path,), "has neither benchmark.json"),
    ):
        done = invoke("report", *arguments)
        assert done.exit_code == 2 and said in done.output and "Traceback" not in done.output
    (tmp_path / "benchmark.json").write_text(json.dumps({"config": {}}))
    done = invoke("report", tmp_path, "--published", tmp_path)
    assert done.exit_code == 2 and "--published" in done.output
    assert not (tmp_path / "report").exists()


def test_other_published_numbers(tmp_path, made):
    published = tmp_path / "published"
    published.mkdir()
    head = "backbone,method,trainable_params,dataset,metric,value\n"
    (published / "table_s2_histone_yeast_mcc.csv").write_text(head + "OPT-125M,lora,1M,H3,MCC,0.111\n")
    rows = [r for r in made if r.study == "EMP/H3|opt-125m|lora"]
    make_report([write_run(tmp_path / "run", rows, seeds=3)], tmp_path / "out", published)
    assert "paper 0.111" in (tmp_path / "out" / "report.html").read_text()
    (published / "table_s2_histone_yeast_mcc.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="must have the columns"):
        make_report([tmp_path / "run"], tmp_path / "out", published)


# --- pictures ---------------------------------------------------------------------------------------------


def test_words_in_pictures_are_not_shortened():
    with drawing.style():
        figure, (panel,) = drawing.canvas(1, 1, (3, 2))
        panel.set_title("p = 0.01234")
        panel.plot([0.123456, 1], [0, 1], color=drawing.BLUE)
        svg, png = drawing.render(figure)
    body = drawing.inline(svg, "x", 'a "quoted" <picture>')
    assert "p = 0.01234" in body and "var(--blue)" in body and drawing.BLUE not in body
    assert png.startswith(b"\x89PNG") and "<picture>" not in body


@pytest.mark.parametrize(
    ("path", "layer", "part"),
    [
        ("decoder.layers.7.self_attn.q_proj", 7, "self_attn.q_proj"),
        ("encoder.layer.11.attention.self.query", 11, "attention.self.query"),
        ("h.0.attn.c_attn", 0, "attn.c_attn"),
        ("score", -1, "score"),
    ],
)
def test_layers_of_module_paths(path, layer, part):
    assert (cost.layer_of(path), cost.part_of(path)) == (layer, part)


def test_winners_at_the_edge_are_found(made):
    low = [
        replace(r, config={**r.config, "learning_rate": 1.02e-5})
        for r in made
        if r.study == "EMP/H3|opt-125m|lora"
    ]
    plan = plan_of(low, 3)
    run = RunResults(folder=Path("run"), trials=list(low), studies=plan["studies"])
    found = health.edges([run], outcomes_of([run]))
    assert [(edge.name, edge.value) for edge in found] == [("learning_rate", 1.02e-5)]


# --- a browser --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no chromium on this machine")
def test_a_browser_opens_the_report(report, tmp_path):
    page = f"file://{report[0] / 'report.html'}"
    seen = browse(tmp_path, "--dump-dom", page)
    assert seen.count("<svg") == report[1].count("<svg") and "Best method per family" in seen
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'report.pdf'}", page)
    assert (tmp_path / "report.pdf").read_bytes().startswith(b"%PDF")
    clicked = tmp_path / "clicked.html"
    script = (
        "document.querySelectorAll('th.sort')[1].click(); document.querySelectorAll('th.sort')[1].click()"
    )
    clicked.write_text(report[1].replace("</body>", f"<script>{script}</script></body>"))
    seen = browse(tmp_path, "--dump-dom", f"file://{clicked}")
    assert len(re.findall("<th[^>]*aria-sort=", seen)) == 1 and 'class="filter"' in seen
    _a_task_is_picked(report[1], tmp_path)
    pictures = []
    for name, scheme in (("light", 1), ("dark", 0)):
        shot = tmp_path / f"{name}.png"
        browse(
            tmp_path,
            f"--screenshot={shot}",
            "--window-size=1300,1600",
            f"--blink-settings=preferredColorScheme={scheme}",
            page,
        )
        pictures.append(pixels(shot))
    light, dark = pictures
    assert light[2, 2].mean() > 0.9 and dark[2, 2].mean() < 0.2  # the ground follows the reader's wish
    assert 0.02 < (light.mean(axis=2) < 0.5).mean() < 0.5  # there is something to read


def _a_task_is_picked(html, tmp_path):
    """Rows, columns and panels of other tasks go; a pointer on a point shows its values."""
    script = """ {
      const field = document.querySelector("select.task");
      field.value = [...field.options].find((one) => one.text === "EMP/H4").value;
      field.dispatchEvent(new Event("change"));
      const shown = (names) => [...document.querySelectorAll(names)].filter((one) => one.offsetParent);
      const words = (names) => shown(names).map((one) => one.textContent);
      const titles = [...document.querySelectorAll("g.dim text")].map((one) => one.textContent.trim());
      const point = document.querySelector(".hint");
      point.scrollIntoView();
      const box = point.getBoundingClientRect();
      const place = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true };
      point.dispatchEvent(new PointerEvent("pointermove", place));
      const tip = document.querySelector(".tip");
      document.body.textContent = JSON.stringify({
        heads: words("th").filter((one) => ["H3", "H4", "H4ac"].includes(one)),
        rows: words("tbody td").filter((one) => one.startsWith("EMP/")),
        faded: titles.filter((one) => /^H(3|4)( ·|$)/.test(one)).map((one) => one.slice(0, 2)),
        tip: tip.hidden ? "" : tip.textContent,
      });
    } """
    page = tmp_path / "picked.html"
    page.write_text(html.replace("</body>", f"<script>{script}</script></body>"))
    seen = re.search("<body[^>]*>(.*)</body>", browse(tmp_path, "--dump-dom", f"file://{page}"), re.S)[1]
    found = json.loads(seen)
    assert set(found["heads"]) == {"H4"} and set(found["rows"]) <= {"EMP/H4"}
    assert set(found["faded"]) == {"H3"}
    assert "MCC" in found["tip"]


def pixels(path):
    from matplotlib.image import imread

    return imread(path)[..., :3]
