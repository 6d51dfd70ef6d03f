"""Fixtures of the whole suite."""

import os
import signal
import sys
from pathlib import Path

# Before torch is imported: many threads on few cores make small products tens of times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

# Examples take longer on a busy machine; no test asserts a time.
hypothesis.settings.register_profile("lingo", deadline=None)
hypothesis.settings.load_profile("lingo")

# A suite that runs in a shell's background ignores Ctrl-C, and so would the programs that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parents[1]
# Ray's workers import the tests' own engines: their path begins as that of this process does.
sys.path.insert(0, str(ROOT))


STORE = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD")
for _name in STORE:  # a store of the developer's own is no store for tests
    os.environ.pop(_name, None)


@pytest.fixture(autouse=True)
def environment_of_its_own():
    """Commands move secrets into variables and ask Ray for its token: none of that reaches the next test."""
    before = dict(os.environ)
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the developers' data, `LINGO_SHARED` or `../shared`; tests that need it skip without it."""
    folder = Path(os.environ.get("LINGO_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"no developers' data in {folder} (set LINGO_SHARED)")
    return folder


FIRST = (
    "test_cloud_walk.py",
    *("test_repeats.py", "test_driver.py", "test_chaos.py", "test_surroundings.py", "test_survival.py"),
    *(
        "test_kinds_and_families.py",
        "test_two_workers.py",
        "test_fuzz.py",
        "test_full_disk.py",
        "test_hosts.py",
    ),
    *("test_run_golden.py", "test_moved.py", "test_quickstart.py", "test_pool.py", "test_database.py"),
)
"""The longest files, the longest first: with two processes neither waits long for the other at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ray's own processes sometimes start too late on a busy machine: one more try, which the summary tells."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.flaky(reruns=1))
