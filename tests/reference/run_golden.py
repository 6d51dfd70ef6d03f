"""Makes and checks `run_golden.json`: what a small run of the whole program writes, field by field.

Run as `python -m tests.reference.run_golden` from the repository's root to compare this checkout with the file, and
with `--write` when the results are meant to change. It starts the real command, both tasks of the suite `quickstart`
with three methods, and its report, and reads only the files that these leave (JSON, CSV, Parquet, MLflow's store), so
that it stays as it is when modules are renamed or moved.

What is compared:

- Never: times, device times, paths, versions, commits, random identities, and digests of files in which these stand
  (`TIMES_AND_PLACES`, the values of `UNSTABLE_TAGS`, the rows of the report's table `environment`).
- On a machine like that of the file (`machine`: processor model, the vector instructions that PyTorch uses, versions of
  the libraries that calculate) all the rest must be equal, floats to the bit, and so must the trained weights and the
  predictions.
- On another machine products of matrices are rounded differently, training amplifies that, and scores decide which
  trials stop and win. There `OUTCOMES` need only exist, `OPTIONAL` need not even that, and losses of the first epoch
  of a trial may differ by `TOLERANCE`. Everything else (ids, settings, search spaces, configurations of trials, names
  of metrics, tags, columns, artifacts) must be equal there too.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("run_golden.json")
ROOT = Path(__file__).resolve().parents[2]
OPTIONS = [
    *("--methods", "lora,ars,kmer_logreg", "--max-concurrent", "1", "--pack", "1"),
    *("--num-samples", "3", "--seeds", "0"),
]
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn", "optuna")

TIMES_AND_PLACES = {
    *("started", "ended", "created", "seconds", "device_seconds", "identity", "environment", "out"),
    *("adapter", "adapter_digest", "predictions"),
}
"""Fields of JSON files. The adapter's digest covers its configuration, in which the backbone's path stands."""

UNSTABLE_TAGS = {"x-git_sha", "git_dirty", "lingo.key", "lingo.benchmark", "best.model", "best.model_of"}
LONG = 120
"""Characters of a fact from which on its digest is kept in its place."""

TOLERANCE = 1e-3
FIRST_LOSSES = "records > */trial-* > history > 0 > *loss"

OUTCOMES = (
    *(f"records > * > {name}" for name in ("status", "dev > *", "test > *")),
    *(f"records > */final/* > {name}" for name in ("config > *", "config_hash", "trained_parameters")),
    *(
        f"mlflow > runs > * > tags > {name}"
        for name in ("status", "config", "x-config_hash", "x-best.config_hash", "weights", "marks")
    ),
    *("mlflow > runs > * > tags > best.*", "predictions > *", "weights > *"),
    *("records > * > backbone_digest", "mlflow > runs > * > tags > x-backbone_digest"),
    "mlflow > runs > * > tags > revision",
)
"""Leaves that depend on rounding (or, the digest of the backbone, on the version of its library), and always exist."""

OPTIONAL = (
    *("records > * > history > *", "records > * > marks*", "records > */final/* > facts > *"),
    *(f"records > * > facts > {name}" for name in ("kept_ranks*", "rank_trajectory*", "samples", "flops")),
    "records > * > facts > train_losses*",
    *(f"records > * > facts > {name}" for name in ("collapsed", "used_parameters")),
    *("mlflow > runs > * > tags > mark.*", "report > * > rows*", "report > edges*"),
)
"""Leaves that depend on rounding, and may not exist: an epoch after early stopping, a mark, a row of a table."""

SHOWN = 20


def run(out: Path, report: Path) -> None:
    """Run the program and its report; a run that is complete already is only read."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")
    }
    environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for words in (["run", *OPTIONS, "--out", str(out)], ["report", str(out), "--out", str(report)]):
        done = subprocess.run(
            [sys.executable, str(ROOT / "run_benchmark.py"), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{' '.join(words)} ended with exit code {done.returncode}:\n{done.stdout}")


def machine() -> dict[str, str]:
    """What decides about the last bit of a result."""
    import scipy.linalg  # noqa: F401 - loads its BLAS, of which the variable OPENBLAS_CORETYPE chooses the kernels
    import torch
    from threadpoolctl import threadpool_info

    processor = platform.processor() or platform.machine()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        lines = [line.partition(":") for line in cpuinfo.read_text().splitlines()]
        told = {name.strip(): value.strip() for name, _, value in lines}
        known = [told[name] for name in ("model name", "cpu family", "model", "stepping") if name in told]
        processor = ", ".join(known) or processor
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "blas": ", ".join(
            sorted({pool["architecture"] for pool in threadpool_info() if "architecture" in pool})
        ),
        **{name: version(name) for name in LIBRARIES},
    }


def read(out: Path, report: Path) -> dict[str, Any]:
    """All that is compared of a run's folder and of its report."""
    plan = json.loads((out / "plan.json").read_text())
    records = [json.loads(file.read_text()) for file in sorted((out / "records").glob("*.json"))]
    return {
        "benchmark": _stable(json.loads((out / "benchmark.json").read_text())),
        "plan": {name: _stable(value) for name, value in plan.items() if name != "studies"},
        "studies": {study["key"]: _study(study) for study in plan["studies"]},
        "records": {record["id"]: _record(record) for record in records},
        "predictions": {
            record["id"]: _table_digest(out / "predictions" / Path(record["facts"]["predictions"]).name)
            for record in records
            if "predictions" in record["facts"]
        },
        "weights": {
            str(file.relative_to(out / "adapters")): _digest(file.read_bytes())
            for file in sorted((out / "adapters").rglob("*.safetensors"))
        },
        "mlflow": _mlflow(out / "mlflow.db"),
        "report": {file.stem: _csv(file) for file in sorted((report / "tables").glob("*.csv"))},
    }


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stable(part) for name, part in value.items() if name not in TIMES_AND_PLACES}
    return [_stable(part) for part in value] if isinstance(value, list) else value


def _study(study: dict[str, Any]) -> dict[str, Any]:
    """The search space's file by its name alone: the folder before it is that of the installation."""
    space = {**study["space"], "source": Path(study["space"]["source"]).name}
    return {**_stable(study), "space": _stable(space)}


def _record(record: dict[str, Any]) -> dict[str, Any]:
    history = [
        {name: value for name, value in entry.items() if name != "facts"} for entry in record["history"]
    ]
    facts = {name: _short(value) for name, value in _stable(record["facts"]).items()}
    return {**_stable(record), "history": _stable(history), "facts": facts}


def _short(value: Any) -> Any:
    text = json.dumps(value, sort_keys=True)
    return value if len(text) <= LONG else _digest(text.encode())


def _digest(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()[:16]}"


def _table_digest(file: Path) -> str:
    """Of the rows: the bytes of a Parquet file name the version of the library that wrote it."""
    import pyarrow.parquet as pq

    return _digest(json.dumps(pq.read_table(file).to_pydict(), sort_keys=True).encode())


def _mlflow(store: Path) -> dict[str, Any]:
    """Runs by the names of their parents and their own; of metrics, parameters and artifacts their names alone."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{store}")
    experiments = client.search_experiments()
    runs = client.search_runs([each.experiment_id for each in experiments])
    names = {run.info.run_id: _name(run) for run in runs}
    told = {}
    for run in runs:
        parent = run.data.tags.get("mlflow.parentRunId")
        name = f"{names[parent]} / {_name(run)}" if parent else _name(run)
        told[name] = {
            "status": run.info.status,
            "tags": {
                tag: "" if tag in UNSTABLE_TAGS else value
                for tag, value in sorted(run.data.tags.items())
                if not tag.startswith(("mlflow.", "lingo.record"))
            },
            "metrics": ", ".join(sorted(run.data.metrics)),
            "parameters": ", ".join(sorted(run.data.params)),
            "artifacts": ", ".join(sorted(each.path for each in client.list_artifacts(run.info.run_id))),
        }
    return {
        "experiments": sorted(each.name for each in experiments),
        "runs": {name: told[name] for name in sorted(told)},
    }


def _name(run: Any) -> str:
    """Of a study its task, backbone and method, of its trials and final runs those of their records."""
    tags = run.data.tags
    if tags.get("stage") == "study":
        return " · ".join(tags[axis] for axis in ("task", "backbone", "method"))
    return str(tags.get("lingo.record", run.info.run_name))


def _csv(file: Path) -> dict[str, Any]:
    with file.open(newline="") as lines:
        header, *rows = csv.reader(lines)
    kept = [at for at, name in enumerate(header) if "seconds" not in name and "hours" not in name]
    if file.stem == "environment":
        rows = []
    if file.stem == "settings":
        rows = [row for row in rows if row[0] not in TIMES_AND_PLACES]
    return {"columns": ", ".join(header), "rows": [", ".join(row[at] for at in kept) for row in rows]}


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every scalar of a tree with the way to it, as in `records > ID > dev > loss`; an empty part is a scalar."""
    if isinstance(value, dict | list) and value:
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(part, f"{path} > {name}" if path else str(name))
    else:
        yield path, value


def differences(golden: dict[str, Any], found: dict[str, Any], *, exact: bool) -> list[str]:
    """A line for each leaf that differs; with `exact` all leaves count, without it those that any machine repeats."""
    held, now = dict(leaves(golden)), dict(leaves(found))
    lines = []
    for path in dict.fromkeys([*held, *now]):
        if path in held and path in now:
            same = repr(held[path]) == repr(now[path])
            if not same and not exact:
                same = _near(path, held[path], now[path])
        else:
            same = not exact and _is_one_of(OPTIONAL, path)
        if not same:
            lines.append(f"{path}: {_shown(held, path)} in the golden file, {_shown(now, path)} now")
    return lines


def _near(path: str, held: Any, now: Any) -> bool:
    if fnmatchcase(path, FIRST_LOSSES):
        return abs(held - now) <= TOLERANCE
    return _is_one_of(OUTCOMES, path) or _is_one_of(OPTIONAL, path)


def _is_one_of(patterns: tuple[str, ...], path: str) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _shown(tree: dict[str, Any], path: str) -> str:
    return repr(tree[path]) if path in tree else "absent"


def check(found: dict[str, Any]) -> tuple[str, list[str]]:
    """How a run was compared with the file, in words, and the differences."""
    golden = json.loads(FILE.read_text())
    there, here = golden["machine"], machine()
    other = [
        f"{name} {there.get(name)} there, {here[name]} here" for name in here if here[name] != there.get(name)
    ]
    how = "what every machine repeats: " + "; ".join(other) if other else "everything, floats to the bit"
    return f"compared {how}", differences(golden["run"], found, exact=not other)


def summary(lines: list[str]) -> str:
    """The first differences, and how many there are."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "\n".join([f"{len(lines)} differences", *lines[:SHOWN], *more])


def main() -> None:
    """Run, then compare or write."""
    parser = argparse.ArgumentParser(description="Compare a run of the program with run_golden.json.")
    parser.add_argument("--write", action="store_true", help="write the file instead of comparing with it")
    parser.add_argument("--out", type=Path, help="where the run goes; a complete one is not run again")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        out, report = options.out or Path(scratch, "run"), Path(scratch, "report")
        run(out.resolve(), report)
        found = read(out, report)
    if options.write:
        text = json.dumps({"machine": machine(), "run": found}, indent=1, ensure_ascii=False) + "\n"
        made = FILE.with_suffix(".tmp")
        made.write_text(text, encoding="utf-8")
        made.replace(FILE)
        return
    how, lines = check(found)
    print(how)
    if lines:
        raise SystemExit(summary(lines))


if __name__ == "__main__":
    main()
