"""Pack size of the worker groups: as requested, or by a short calibration."""

import logging
from collections.abc import Callable, Sequence

from rich.console import Console

from harness.config.benchmark import Benchmark
from harness.config.studies import PreparedStudy
from harness.pipeline.forecast import typical
from harness.pipeline.phases import timed
from harness.pool.engine import Engine
from harness.pool.ray_session import ClusterResources
from harness.workers.calibration import calibrate_remotely
from lingo.methods import METHODS

log = logging.getLogger(__name__)

MakeEngine = Callable[[int, int], Engine]

MOST_IN_A_PACK = {"cpu": 16, "cuda": 64}
"""Maximum pack size in calibration, for GPU and CPU."""
WORTH_MEASURING = 4
"""Trials of a worker group, two packs of the smallest size, below which nothing is calibrated."""


def pack_size(
    studies: Sequence[PreparedStudy],
    benchmark: Benchmark,
    resources: ClusterResources,
    console: Console,
    make_engine: MakeEngine | None,
) -> int:
    """Pack size of a worker group: as requested, or the best for all backbones by a short calibration."""
    packed = [study for study in studies if _goes_into_packs(study)]
    runs = len(packed) * benchmark.num_samples  # final runs train alone
    each = -(-min(runs, benchmark.max_concurrent or runs) // resources.layout.groups)
    if benchmark.deterministic:
        return 1
    if benchmark.pack or make_engine or each <= 1 or runs < WORTH_MEASURING * resources.layout.groups:
        return benchmark.pack or 1
    longest = {study.source: study for study in sorted(packed, key=lambda study: study.cost)}
    with timed(console, "Pack size calibrated"), console.status("calibrating trials per worker"):
        return min(_best_pack(study, benchmark, resources, each) for study in longest.values())


def _goes_into_packs(study: PreparedStudy) -> bool:
    return METHODS[study.method].packs


def _best_pack(study: PreparedStudy, benchmark: Benchmark, resources: ClusterResources, most: int) -> int:
    """Best pack size for this study; 1 if it cannot be measured."""
    lay = resources.layout
    try:
        calibration = calibrate_remotely(
            study.source,
            str(study.data),
            typical(study, benchmark).to_dict(),
            cpus=lay.cpus,
            gpus=lay.gpus,
            most=min(most, MOST_IN_A_PACK["cuda" if lay.gpus else "cpu"]),
            frozen=benchmark.frozen or "fp32",
            max_labels=study.task.num_labels,
            files=resources.files,
        )
    except ValueError as error:
        log.warning("packs of one trial: %s", error)
        return 1
    return calibration.pack
