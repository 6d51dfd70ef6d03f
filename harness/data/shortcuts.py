"""Shortcut audit: artefacts of a task's construction, and overlaps of its splits.

The checks are those of the library seqleak, on train and dev. Of the test split only sequences are read, to count near
duplicates of rows in train or dev; rules are not scored on it before the final stage, in which the methods `rule_…`
are.
"""

import hashlib
import json
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.atomic_files import write_whole
from harness.data.labelled_files import Rows
from harness.data.sources import read_splits, split_digests
from harness.data.tasks import TaskRow
from lingo.data import Kind

NEAR_DUPLICATES = "near duplicates"
"""Caveat of a task whose dev or test rows have near duplicates, or shifted windows, in an earlier split."""

CONSTRUCTED = "constructed negatives"
"""Caveat of a task in which rows are shuffles, or other edits, of rows with another label."""

OVERLAP = {
    "overlap.near": "share at least half of their 21-mers with one row of an earlier split",
    "overlap.windows": "overlap a row of an earlier split (shifted windows)",
}
"""Checks of overlaps of two splits: the value is a share of the later split's rows."""

ROWS = {
    "construction.shuffle": "have a shuffle twin in train (same length, ends and dinucleotide counts)",
    "construction.segment": "have a twin in train that is the same in many places",
    "construction.synthetic_negatives": "are in pairs of edited copies with different labels",
    "construction.unmatched_site": "lack the site that nearly all rows of another class have",
    "shortcut.lowinfo": "are mostly unknown bases",
}
"""Checks whose value is a share of the dev rows."""

SCORES = {
    "shortcut.length": "length",
    "shortcut.ambiguous": "unknown bases and padding",
    "shortcut.composition": "one number (GC, CpG)",
    "shortcut.kmer": "a Markov chain of order 3",
    "shortcut.position_motif": "at most four fixed positions",
    "shortcut.anchored_motif": "at most four positions from either end",
    "construction.library": "constant segments",
}
"""Checks whose value is the MCC on dev of a rule fitted on train, with the rule's feature."""

MARKS = {
    NEAR_DUPLICATES: tuple(OVERLAP),
    CONSTRUCTED: ("construction.shuffle", "construction.segment", "construction.synthetic_negatives"),
}
"""Caveats, and the checks that cause them if one fails."""

MOST_ROWS = 100_000
"""Maximum number of audited training rows; of more, a seeded sample is taken."""

SEGMENT_BASES = 10_000_000
"""Bases of the seeded sample of rows in which constant segments are looked for: the library takes about 100 bytes for
each. The rule itself is fitted and scored on all rows."""

FAILURES = (ArithmeticError, LookupError, TypeError, ValueError)
"""What the library may raise on odd data; no reason to stop a benchmark."""


def audit_shortcuts(name: str, kind: Kind, splits: Mapping[str, Rows], *, seed: int = 0) -> dict[str, Any]:
    """Audit a task, in seconds (36,000 rows of 500 bases: about 20).

    Args:
        name: The task, for the library's messages.
        kind: Checks of rules and twins need `classification`; other kinds are only checked for overlaps.
        splits: Train, dev and test; without test only dev is compared.
        seed: Of the sample and of the rules' folds.

    Returns:
        Plain data: `tool`, `rows` (audited, by split), `seconds`, and `checks`, a list of `check`, `split`, `status`
        (`pass`, `warn` or `fail`, by the library's thresholds), `value` and `text`.
    """
    begun = time.monotonic()
    rng = np.random.default_rng(seed)
    taken = {split: _sample(rows, rng) for split, rows in splits.items()}
    rules = [*ROWS, *SCORES] if kind == "classification" else []
    checks = _checks(name, {"train": taken["train"], "test": taken["dev"]}, [*OVERLAP, *rules], "dev", seed)
    if "test" in taken:
        checks += _checks(name, taken, list(OVERLAP), "test", seed)
    return {
        "tool": f"seqleak {version('seqleak')}",
        "rows": {split: len(rows.labels) for split, rows in taken.items()},
        "seconds": round(time.monotonic() - begun, 2),
        "checks": checks,
    }


def audit_of(row: TaskRow, data_dir: Path | str, out: Path) -> dict[str, Any]:
    """`audit_shortcuts` of a task, cached in `out` while data and library are unchanged."""
    found = kept_audit(row, data_dir, out)
    if found is None:
        found = audit_shortcuts(row.name, row.kind, read_splits(row, data_dir))
        write_whole(_path(row, data_dir, out), json.dumps(found, indent=1) + "\n")
    return found


def kept_audit(row: TaskRow, data_dir: Path | str, out: Path) -> dict[str, Any] | None:
    """What `audit_of` kept of the same data in `out`; `None` where there is none."""
    path = _path(row, data_dir, out)
    if not path.is_file():
        return None
    loaded: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return loaded


def _path(row: TaskRow, data_dir: Path | str, out: Path) -> Path:
    recipe = {"files": split_digests(row, data_dir), "tool": version("seqleak"), "kind": row.kind}
    digest = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    return out / f"{row.name.replace('/', '_')}-audit-{digest[:16]}.json"


def told(audit: Mapping[str, Any]) -> list[str]:
    """One sentence for each check that warns or fails."""
    return [check["text"] for check in audit["checks"] if check["status"] != "pass"]


def marks_of(name: str, audit: Mapping[str, Any]) -> dict[str, str]:
    """Caveats of a task, each with a line that gives the reason."""
    found = {}
    for mark, names in MARKS.items():
        failed = [c["text"] for c in audit["checks"] if c["check"] in names and c["status"] == "fail"]
        if failed:
            found[mark] = f"{name}: {'; '.join(failed)}."
    return found


def _sample(rows: Rows, rng: np.random.Generator) -> Rows:
    if len(rows.labels) <= MOST_ROWS:
        return rows
    return rows.take(np.sort(rng.permutation(len(rows.labels))[:MOST_ROWS]))


def _checks(
    name: str, splits: Mapping[str, Rows], wanted: list[str], later: str, seed: int
) -> list[dict[str, Any]]:
    """The library's checks of its test split, for which `later` is passed."""
    import pandas as pd
    from seqleak.audit import ALL_CHECKS, run_audit, thresholds
    from seqleak.audit.io import Task

    ruled = len(wanted) > len(OVERLAP)
    frames = [
        pd.DataFrame(
            {
                "split": split,
                "seq0": list(map(str, rows.sequences)),
                "label": np.asarray(rows.labels) if ruled else np.arange(len(rows.labels)) % 2,
                "__file": split,
            }
        )
        for split, rows in splits.items()
    ]
    items = pd.concat(frames, ignore_index=True)
    items["item_id"] = np.arange(len(items)).astype(str)
    task = Task(name=name, items=items, elements=["sequence"])
    skipped = [check for check in ALL_CHECKS if check not in wanted]
    limits = thresholds.load()
    segments = limits["construction.library"]
    length = max(1, int(items["seq0"].str.len().median()))
    segments["max_items"] = min(segments["max_items"], max(200, SEGMENT_BASES // length))
    options: dict[str, Any] = {"n_boot": 20, "examples": 0, "homology": "none", "quiet": True}
    report, _ = run_audit(task, skip=skipped, thresholds=limits, seed=seed, **options)
    return [
        {
            "check": check,
            "split": later,
            "status": found["status"].lower(),
            "value": float(found["value"]),
            "text": _text(check, float(found["value"]), later),
        }
        for check, found in report["checks"].items()
        if check in wanted and found["value"] is not None
    ]


def _text(check: str, value: float, split: str) -> str:
    if check in SCORES:
        return f"{SCORES[check]} alone scores MCC {value:.2f} on {split}"
    return f"{value:.1%} of the {split} rows {(OVERLAP | ROWS)[check]}"
