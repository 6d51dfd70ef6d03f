"""The script that measures a GPU runs to its end, on a toy and a CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lingo.memory import out_of_memory

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rehearsal_measures_every_part(tmp_path: Path) -> None:
    script = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", "cpu", "--quick"]
    only = ["--only", "peers", "side_by_side", "packs", "waits", "full", "memory"]
    found = tmp_path / "rows.json"
    ended = subprocess.run([*script, "--json", str(found), *only], cwd=ROOT, capture_output=True, text=True)
    assert not ended.returncode, ended.stderr[-3000:] + ended.stdout[-3000:]
    rows = {row["name"]: row for row in json.loads(found.read_text())}
    assert rows["waits in a step"]["holds"] and rows["out of memory: parts of a batch that fit"]["holds"]
    rates = [row["value"] for row in rows.values() if row["unit"] in ("trial steps/s", "steps/s", "rows/s")]
    assert len(rates) == 7 and all(rate > 0 for rate in rates)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA out of memory. Tried to allocate 2.00 GiB.",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
    ],
)
def test_every_librarys_lack_of_memory_is_told(text: str) -> None:
    assert out_of_memory(RuntimeError(text))
    assert not out_of_memory(ValueError(text)) and not out_of_memory(RuntimeError("shapes do not match"))
