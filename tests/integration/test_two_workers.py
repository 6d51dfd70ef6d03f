"""Two data-parallel workers a trial through the real command: a worker killed, then the driver, then resumed."""

import signal

import psutil
import pytest

from tests.support.real_runs import finish, generations, start, table, until, workers

OPTIONS = [
    *("--tasks", "quickstart/promoter", "--models", "quickstart-opt", "--methods", "ars", "--epochs", "8"),
    *("--num-samples", "2", "--seeds", "0", "--limit", "160", "--pack", "2", "--workers-per-trial", "2"),
    *("--scheduler", "none", "--searcher", "random", "--max-concurrent", "1"),  # one group, wherever
]


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_of_two_workers_a_trial_survives_the_kill_of_one_and_of_its_driver(tmp_path):
    plain, out = tmp_path / "plain", tmp_path / "out"
    finish(*OPTIONS, "--out", str(plain))
    driver = start(*OPTIONS, "--out", str(out))
    try:
        until(lambda: generations(out), driver)
        one, other = workers(driver)
        one.kill()
        until(lambda: len(alive := workers(driver)) == 2 and not {one, other} & set(alive), driver)
        seen = generations(out)
        until(lambda: generations(out) - seen or list(out.glob("records/*.json")), driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        psutil.wait_procs(family, timeout=60)
    finally:
        driver.kill()
        driver.wait()
    assert len(table(out)) < 3
    finish("resume", str(out))
    assert table(out) == table(plain) and {status for status, *_ in table(out).values()} == {"finished"}
