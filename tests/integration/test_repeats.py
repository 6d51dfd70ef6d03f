"""The quickstart twice: beside processes that burn the cores, and killed and resumed on other worker groups."""

import signal
import subprocess
import sys

import psutil
import pytest

from harness.runs.store import load
from tests.support.real_runs import finish, start, until, workers
from tests.support.repeated import repeated

SIZE = ("--limit", "256")
"""All trials of the quickstart, on fewer rows."""

NICE = 15
"""Ray gives its workers this niceness: beside processes of a better one they would hardly run at all."""


def numbers(out):
    """All that a record says of a trial but its times and places; the bytes of the test predictions."""
    found = {}
    for record in load(out):
        facts = repeated(record.facts)
        history = [
            {name: value for name, value in entry.items() if name != "seconds"} for entry in record.history
        ]
        for entry in history:
            entry.pop("facts", None)
        predictions = record.facts.get("predictions")
        told = (out / "predictions" / predictions.rsplit("/", 1)[1]).read_bytes() if predictions else None
        found[record.id] = (
            *(record.status, record.config_hash, record.seed, record.config, record.marks),
            *(repr(history), repr(record.dev), repr(record.test), repr(facts), told),
        )
    return found


def weights(out):
    """The bytes of every file of trained numbers."""
    files = sorted((out / "adapters").rglob("*.safetensors"))
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


def end_hard(driver):
    """Kill a driver, and wait until its workers are gone with it (Ray's own agents take a minute longer)."""
    training = workers(driver)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    _, left = psutil.wait_procs(training, timeout=60)
    assert training and left == []


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_quickstart_gives_the_same_records_under_load_and_through_kills(tmp_path):
    busy, killed = tmp_path / "busy", tmp_path / "killed"
    burn = f"import os\nos.nice({NICE})\nwhile True: pass"
    burners = [subprocess.Popen([sys.executable, "-c", burn]) for _ in range(2)]
    try:
        finish(*SIZE, "--out", str(busy), seconds=800)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()

    driver = start(*SIZE, "--out", str(killed))
    until(lambda: len(list((killed / "records").glob("*trial*.json"))) >= 5, driver, 600)
    end_hard(driver)
    driver = start(
        "resume", str(killed), "--max-concurrent", "1"
    )  # one group of all cores instead of one for each
    until(lambda: len(list((killed / "records").glob("*final*.json"))) >= 2, driver, 600)
    end_hard(driver)
    finish("resume", str(killed), "--pack", "3", seconds=800)

    one, other = numbers(busy), numbers(killed)
    assert set(one) == set(other) and len(one) == 36
    different = [name for name in sorted(one) if one[name] != other[name]]
    assert different == []
    assert weights(busy) == weights(killed) and len(weights(busy)) == 24  # an adapter and a head each
    assert sum(status == "stopped" for status, *_ in one.values()) > 0
