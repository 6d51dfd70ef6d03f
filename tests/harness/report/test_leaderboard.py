"""The leaderboard: mean and sd over seeds, missing cells visible, marks carried, the best marked."""

import io
import math
import statistics
from dataclasses import replace

import pytest
from rich.console import Console

from harness.report.leaderboard import leaderboard, lines, plain, print_leaderboard, winners
from harness.runs.record import Record


def record(method="lora", seed=0, mcc=0.5, *, task="EMP/H3", stage="final", status="finished", **values):
    study = f"{task}|tiny|{method}"
    done = status == "finished" and stage == "final"
    return Record(
        id=f"{study}/{stage}/{seed}",
        benchmark="b",
        study=study,
        task=task,
        family="EMP",
        backbone="tiny",
        method=method,
        stage=stage,
        trial=None,
        seed=seed,
        status=status,
        metric="mcc",
        **{
            "dev": {"mcc": mcc - 0.1},
            "test": {"mcc": mcc, "auroc": 0.9} if done else None,
            "trained_parameters": 12345 if done else None,
        }
        | values,
    )


def rows(*records, **options):
    return {(row.task, row.method): row for row in leaderboard(records, **options)}


def test_mean_and_sample_sd_over_seeds():
    values = [0.61, 0.58, 0.7]
    (row,) = leaderboard([record(seed=i, mcc=value) for i, value in enumerate(values)])
    assert row.test.mean == pytest.approx(statistics.fmean(values))
    assert row.test.sd == pytest.approx(math.sqrt(sum((v - row.test.mean) ** 2 for v in values) / 2))
    assert row.dev.mean == pytest.approx(row.test.mean - 0.1)
    assert (row.trained_parameters, row.done, row.expected, row.complete) == (12345, 3, 3, True)
    assert str(row.test) == "0.630 ± 0.062"


def test_one_seed_has_no_spread():
    (row,) = leaderboard([record()])
    assert math.isnan(row.test.sd)
    assert str(row.test) == "0.500"


def test_undefined_is_not_averaged_away():
    (row,) = leaderboard([record(seed=0), record(seed=1, test={"mcc": 0.5, "auroc": math.nan})])
    assert str(row.beside) == "undefined"
    assert math.isnan(row.beside.mean)


def test_the_search_never_counts():
    (row,) = leaderboard([record(), record(stage="search", seed=7, mcc=0.99)])
    assert row.test.values == (0.5,)
    assert row.dev.values == (0.4,)


def test_intervals_of_three_seeds_and_collapsed_seeds_are_shown():
    facts = [{"interval": {"mcc": limits}} for limits in ([0.4, 0.6], [0.2, 0.5], [0.3, 0.7])]
    facts[1]["collapsed"] = True
    made = [record(seed=i, facts=fact) for i, fact in enumerate(facts)]
    (row,) = leaderboard(made)
    assert row.limits == pytest.approx((0.3, 0.6)) and row.collapsed == 1, (
        "of earlier versions: over rows alone"
    )
    text = plain([row])
    assert "[0.300, 0.600]" in text and "3 of 3, 1 collapsed" in text and "95 % bootstrap" in text
    drawn = [{"resamples": {"mcc": [0.5 + (i % 7) / 100 for i in range(500)]}} for _ in range(3)]
    (row,) = leaderboard([replace(one, facts=fact) for one, fact in zip(made, drawn, strict=True)])
    assert row.limits == pytest.approx((0.5, 0.56)), "rows and seeds"
    (row,) = leaderboard(made[:2])
    assert row.limits is None and "95 %" not in plain([row]), "two seeds"
    (row,) = leaderboard([*made[:2], record(seed=2)])
    assert row.limits is None and "95 %" not in plain([row]), "one seed without an interval"
    assert "no [ ]: " in plain([row])


def test_missing_cells_are_rows():
    found = rows(
        record("lora", 0),
        record("lora", 1),
        record("ars", 0),
        record("ars", 1, status="failed", error="out of memory"),
        record("fmft", 0, stage="search"),
        expected=[("EMP/H3", "tiny", "lingo"), ("EMP/H3", "tiny", "lora")],
    )
    assert list(found) == [("EMP/H3", name) for name in ("lingo", "lora", "ars", "fmft")]
    complete = {name: (row.done, row.expected, row.complete) for (_, name), row in found.items()}
    assert complete == {
        "lingo": (0, 2, False),
        "lora": (2, 2, True),
        "ars": (1, 2, False),
        "fmft": (0, 2, False),
    }
    assert found["EMP/H3", "ars"].failed == 1
    text = plain(list(found.values()))
    assert text.count("missing") == 8
    assert "1 of 2, 1 failed" in text


def test_failed_trials_are_no_seeds():
    """They stand below, by their study; a seed has failed when its final run has."""
    failed = [record(seed=seed, stage="search", status="failed", error="diverged") for seed in (7, 8)]
    (row,) = leaderboard([record(seed=0), record(seed=1), *failed])
    text = plain([row])
    assert (row.failed, row.failed_trials) == (0, 2)
    assert "2 of 2" in text and "2 of 2," not in text
    assert "EMP/H3 tiny lora: 2 trials of the search failed" in text


def test_expected_seeds_count_even_when_no_study_has_them():
    (row,) = leaderboard([record(seed=0)], seeds=[0, 1, 2])
    assert (row.done, row.expected) == (1, 3)


def test_the_best_of_each_task_among_complete_rows():
    found = rows(
        record("lora", 0, 0.5),
        record("lora", 1, 0.5),
        record("ars", 0, 0.6),
        record("ars", 1, 0.6),
        record("fmft", 0, 0.9),
        record("lingo", 0, math.nan),
        record("lingo", 1, math.nan),
        record("lora", 0, 0.1, task="mouse/2"),
        record("lora", 1, 0.1, task="mouse/2"),
    )
    assert {key for key, row in found.items() if row.best} == {("EMP/H3", "ars")}, "one alone is not the best"


def test_marks_of_all_records_are_explained():
    made = leaderboard(
        [record(marks=("smoke",)), record("ars", stage="search", marks=("smoke", "changed split"))],
        seeds=[0],
    )
    assert [row.marks for row in made] == [("smoke", "changed split"), ("smoke",)]
    assert "a: smoke" in plain(made) and "b: changed split" in plain(made)


def test_columns_line_up():
    lines = plain(leaderboard([record(), record("adalora", mcc=-0.123)])).splitlines()
    assert (
        " ".join(lines[0].split()) == "task backbone method trained dev MCC test MCC test AUROC seeds marks"
    )
    end = lines[0].index("test AUROC") + len("test AUROC")
    assert {line[end - 5 : end] for line in lines[2:4]} == {"0.900"}


def screen(width, terminal):
    console = Console(width=width, file=io.StringIO(), force_terminal=terminal, color_system=None)
    made = [record(seed=seed, mcc=mcc, marks=("smoke",)) for seed, mcc in enumerate((0.48, 0.5, 0.52))]
    print_leaderboard(made, console)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "terminal"), [(200, True), (60, False)])
def test_no_number_is_cut_off_on_any_screen(width, terminal):
    text = screen(width, terminal)
    for part in (
        "EMP/H3",
        "12,345",
        "0.400 ± 0.020",
        "0.500 ± 0.020",
        "0.900 (all 3 equal)",
        "3 of 3",
        "a: smoke",
    ):
        assert part in text


def test_nothing_to_show():
    assert leaderboard([]) == []
    assert "task" in plain([])


def test_what_stands_beside_the_metric():
    covid = record(task="virus/covid", test={"mcc": 0.2, "f1": 0.31, "auroc": 0.7})
    covid = replace(covid, family="virus")
    (row,) = leaderboard([covid])
    assert (row.second, str(row.beside)) == ("f1", "0.310")
    assert "f1 0.310" in plain(leaderboard([covid, record(seed=0)])) and "test F1" in plain([row])


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_narrow_terminal_breaks_no_name_and_says_what_it_leaves_out(width):
    made = [
        record(method, seed, mcc, task=f"prom/{task}")
        for task in ("prom_core_tata", "prom_300_all")
        for method, mcc in (("lora", 0.5), ("adalora", 0.6))
        for seed in (0, 1, 2)
    ]
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    print_leaderboard(made, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    for part in ("prom_core_tata", "prom_300_all", "adalora", "0.500 (all 3 equal)", "3 of 3"):
        assert part in text, text
    assert "Not shown for lack of width: trained" in text or "12,345" in text


def test_the_winner_of_each_task_is_named_and_a_tie_is_none():
    made = [record("lora", s, 0.5) for s in (0, 1)] + [record("ars", s, 0.6) for s in (0, 1)]
    made += [record(m, s, 0.5, task="EMP/H4") for m in ("lora", "ars") for s in (0, 1)]
    made += [record("lora", s, 0.7, task="mouse/2") for s in (0, 1)]
    found = leaderboard(made)
    assert winners(found) == [
        "best of EMP/H3: ars, MCC 0.600",
        "best of EMP/H4: none: all studies have the same score, MCC 0.500",
        "best of mouse/2: none: there is no other study to compare, MCC 0.700",
    ]


def test_the_other_metrics_have_columns_where_the_width_allows():
    scores = [{"mcc": 0.5, "auroc": 0.9, "f1": (0.7, 0.8)[seed], "brier": 0.2, "nll": 0.6} for seed in (0, 1)]
    rows = leaderboard([record(seed=seed, test=test) for seed, test in enumerate(scores)])
    assert rows[0].to_dict()["others"] == {"f1": [0.7, 0.8], "brier": [0.2, 0.2], "nll": [0.6, 0.6]}
    (header, _, row, *_) = plain(rows).splitlines()
    names = [word for word in header.split() if word in ("AUROC", "F1", "BRIER", "NLL", "seeds")]
    assert names == ["AUROC", "F1", "BRIER", "NLL", "seeds"] and "0.750" in row and "0.200" in row
    whole = max(len(text) for text, number in lines(rows) if number is not None)
    narrow = [text for text, _ in lines(rows, whole - 1)]
    assert "NLL" not in narrow[0] and "BRIER" in narrow[0]
    assert any("Not shown for lack of width: NLL." in text for text in narrow)
    (legend,) = [text for text in narrow if "mean over the seeds" in text]
    assert "NLL" not in legend and "NLL" in plain(rows).splitlines()[-1]
