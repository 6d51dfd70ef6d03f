"""docs/tutorial.md, word for word: its file, its commands, and what it says comes out of them."""

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_the_tutorial_goes_from_a_fasta_file_to_predictions(tmp_path):
    (makes,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    subprocess.run([sys.executable, "-c", makes], cwd=tmp_path, check=True)
    commands = re.findall(r"^```bash\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert len(commands) == 4
    program = f'lingo-bench() {{ "{sys.executable}" "{ROOT}/run_benchmark.py" "$@"; }}\n'
    printed = []
    for block in commands:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", program + block],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed.append(done.stdout)
    assert "Nothing is missing." in printed[0]
    assert "2 of 2 searches and 2 of 2 final runs are complete" in printed[1]
    assert "best of own/promoters: kmer_logreg" in printed[1] and "cut split" in printed[1]
    assert (tmp_path / "results/promoters/report/report.html").stat().st_size > 10_000
    with (tmp_path / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (tmp_path / "new.fa").read_text().count(">") == 4
    assert all(set(row) == {"row", "id", "prediction", "p_0", "p_1"} for row in rows), rows[0]
