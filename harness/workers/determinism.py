"""Bit-reproducible training on one machine: one thread, deterministic kernels, no other trials in the pack."""

import os
import re
import warnings
from dataclasses import replace
from typing import Any

import torch
from threadpoolctl import threadpool_limits

from harness.runs.jobs import Report

NOT_EXACT = "does not have a deterministic implementation"


def prepare() -> None:
    """Call before CUDA is used: cuBLAS is reproducible only with a workspace of fixed size, which it reads
    once (its manual, "Results reproducibility")."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


class Exact:
    """Switches this process to reproducible arithmetic and back.

    The order of multi-threaded sums depends on the number of threads, and thus on the number of worker groups of a
    machine. Therefore PyTorch and the libraries used by NumPy and SciPy get one thread. PyTorch operations without a
    deterministic kernel still run and are listed in the reports.

    Attributes:
        on: Whether it is switched on.
    """

    def __init__(self) -> None:
        self.on = False
        self._threads = 1
        self._limits: Any = None
        self._show = warnings.showwarning
        self._found: set[str] = set()

    def set(self, on: bool) -> None:
        """Switch it on or off. Idempotent."""
        if on == self.on:
            return
        self.on = on
        if on:
            self._threads, self._limits = torch.get_num_threads(), threadpool_limits(1)
            torch.set_num_threads(1)
            self._show, self._found = warnings.showwarning, set()
            warnings.filterwarnings("always", message=f".*{NOT_EXACT}")
            warnings.showwarning = self._note
        else:
            warnings.showwarning = self._show
            self._limits.restore_original_limits()
            torch.set_num_threads(self._threads)
        torch.use_deterministic_algorithms(on, warn_only=True)
        torch.backends.cudnn.benchmark = False
        torch.backends.cuda.enable_mem_efficient_sdp(not on)  # its backward pass has no deterministic version

    def _note(self, message: Warning | str, *where: Any, **more: Any) -> None:
        found = re.match(rf"\s*(\S+) {NOT_EXACT}", str(message))
        if found:
            self._found.add(found[1])
        else:
            self._show(message, *where, **more)

    def noted(self, report: Report) -> Report:
        """A report with the facts `alone` and `threads`, and `inexact_operations` if there were any."""
        if not self.on or not report.facts:
            return report
        facts: dict[str, Any] = {"alone": True, "threads": torch.get_num_threads()}
        if self._found:
            facts["inexact_operations"] = sorted(self._found)
        return replace(report, facts={**report.facts, **facts})
