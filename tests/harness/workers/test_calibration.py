"""A few steps say how large packs should be, and what a step costs."""

from typing import Any

import pytest
import torch

from harness.workers import calibration
from harness.workers.calibration import calibrate
from lingo.pack import Pack
from tests.support import engine_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(a backbone, a prepared task), both tiny."""
    data, model = engine_runs.make(tmp_path_factory.mktemp("calibration"))
    return str(model), str(data)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "SECONDS", 0.0)


CONFIG: dict[str, Any] = {"method": "ars", "seed": 1, "epochs": 2, "batch_size": 8}


def timed(monkeypatch: pytest.MonkeyPatch, seconds: dict[int, float]) -> None:
    """Steps take as long as the test says, whatever this machine does meanwhile."""
    real = calibration._time_steps

    def time_steps(pack: Pack, device: str) -> float:
        real(pack, device)
        return seconds[len(pack.slots)]

    monkeypatch.setattr(calibration, "_time_steps", time_steps)


def test_it_stops_where_larger_packs_gain_too_little(
    made: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, {1: 1.0, 2: 1.2, 4: 1.5, 8: 2.9, 16: 3.0})
    found = calibrate(*made, CONFIG, device="cpu")
    assert found.pack == 4 and "8 trials train less than 10 % more" in found.stopped
    assert found.seconds_per_step == {1: 1.0, 2: 1.2, 4: 1.5, 8: 2.9}
    assert found.seconds_per_trial_step == 1.5 / 4
    assert found.samples_per_second[2] == pytest.approx(2 * 8 / 1.2)
    assert found.eval_seconds_per_row > 0


def test_memory_and_the_asked_most_bound_it(made: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    timed(monkeypatch, dict.fromkeys((1, 2, 4, 8, 16), 1.0))
    assert calibrate(*made, CONFIG, device="cpu", most=2).pack == 2
    peaks = iter([0, 100, 300, 700, 1500])
    monkeypatch.setattr(calibration, "_peak", lambda device: next(peaks))
    monkeypatch.setattr(calibration, "_memory_limit", lambda device: calibration._peak(device) + 1000)
    found = calibrate(*made, CONFIG, device="cpu")
    assert found.pack == 4 and "8 trials would take about" in found.stopped


def test_out_of_memory_ends_the_search_and_a_single_trial_too_large_is_one_line(
    made: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed(monkeypatch, dict.fromkeys((1, 2, 4, 8, 16), 1.0))
    real = Pack.step
    most = 2

    def step(pack: Pack) -> None:
        if len(pack.running) > most:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        real(pack)

    monkeypatch.setattr(Pack, "step", step)
    assert calibrate(*made, CONFIG, device="cpu").pack == 2
    most = 0
    with pytest.raises(ValueError, match="must fit into the memory of cpu, but 1 trials do not fit"):
        calibrate(*made, CONFIG, device="cpu")


def test_full_fine_tuning_has_a_pack_of_one_and_a_wide_delta_t_is_made_to_fit(made: tuple[str, str]) -> None:
    assert calibrate(*made, {**CONFIG, "method": "fmft"}, device="cpu").pack == 1
    assert calibrate(*made, {**CONFIG, "delta_T": 10_000}, device="cpu", most=1).pack == 1
    with pytest.raises(ValueError, match="`b0` must be at least `bT`"):
        calibrate(*made, {**CONFIG, "b0": 2}, device="cpu", most=1)
