"""The page of a run under way: what it says, that it reloads itself, and where it leads at the end."""

import json

from harness.pipeline.state import board_of
from harness.progress.board import Board, StudyRow
from harness.progress.page import ProgressPage, page
from harness.runs.jobs import Job, Report
from harness.runs.layout import RunFolder

ROW = StudyRow(title="mouse/2 <lora>", metric="mcc", trials=4, finals=2, ended=1, running=1, best=0.5)
BOARD = Board(stage="search", done=0.25, left_s=3600, rows={0: ROW})


def test_the_page_has_progress_curves_and_the_remaining_time():
    text = page(BOARD, {"mouse/2|tiny|<lora>|mcc": [0.1, 0.3, 0.5]}, "demo", 1.0)
    assert 'http-equiv="refresh"' in text and "25%, about 60 min left" in text and 'value="0.2500"' in text
    assert "mouse/2 &lt;lora&gt;" in text and "<lora>" not in text
    assert text.count("<polyline") == 1 and "from 0.100 to 0.500" in text
    assert "http://" not in text and "https://" not in text, "no network"


def test_the_files_live_as_long_as_the_run(tmp_path):
    folder = RunFolder(tmp_path)
    with ProgressPage(folder, lambda: BOARD) as kept:
        assert board_of(tmp_path).rows[0].best == 0.5
        job = Job(
            id="a", study="mouse/2|tiny|<lora>", stage="search", backbone="tiny", data="", config={"seed": 0}
        )
        for number, value in enumerate((0.2, float("nan"), 0.4), 1):
            news = Report(job="a", number=number, status="running", epoch=number, dev={"mcc": value})
            kept.update(job, news, "running")
        kept.write()
        assert "from 0.200 to 0.400" in folder.page.read_text()
        assert json.loads(folder.progress.read_text())["left_s"] == 3600
    assert not folder.progress.exists() and "report/report.html" in folder.page.read_text()


def test_a_folder_that_cannot_be_written_does_not_stop_the_run(tmp_path):
    with ProgressPage(RunFolder(tmp_path / "none" / "deep"), lambda: BOARD) as kept:
        kept.write()
