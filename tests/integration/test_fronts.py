"""A search of two objectives with the real engine: killed and resumed it ends as an undisturbed one, with its front."""

import json
import signal

import pytest

from harness.report.leaderboard import leaderboard
from harness.runs.front import by_study, final_points
from harness.runs.store import load
from tests.support.real_runs import finish, start, table, until

WHAT = ("--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "lora", "--limit", "96")
HOW = (
    "--objectives",
    "score,parameters",
    "--num-samples",
    "6",
    "--epochs",
    "2",
    "--seeds",
    "0",
    "--deterministic",
)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_front_is_the_same_after_a_kill_and_its_points_are_trained(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    printed = finish("run", *WHAT, *HOW, "--out", str(whole))
    assert "trials are not stopped early" in printed and "Done" in printed
    driver = start("run", *WHAT, *HOW, "--out", str(killed))
    until(lambda: sum(record.stage == "search" for record in ended(killed)) >= 2, driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    finish("resume", str(killed))
    assert table(killed) == table(whole)

    records = load(whole)
    search = [record for record in records if record.stage == "search"]
    assert {record.status for record in search} == {"finished"} and len(search) == 6
    assert len({record.trained_parameters for record in search}) > 1
    chosen = {record.trial for record in final_points(next(iter(by_study(search).values())))}
    finals = [record for record in records if record.stage == "final"]
    assert {record.trial for record in finals} == chosen and len(finals) == len(chosen)
    assert [row.trial for row in leaderboard(records)] == [
        record.trial for record in sorted(finals, key=lambda record: record.trained_parameters)
    ]
    assert all(record.facts["objectives"] == ["score", "parameters"] for record in records)
    assert (whole / "report" / "figures" / "pareto_fronts.svg").is_file()
    assert any("--objectives" in note for note in json.loads((whole / "plan.json").read_text())["notes"])


def ended(out):
    return load(out) if (out / "records").is_dir() else []
