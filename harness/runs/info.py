"""Settings that all runs of an output folder share, read from its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.runs.layout import RunFolder
from lingo.text_files import read_object


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Settings that all runs of an output folder share, from `benchmark.json` and `plan.json`.

    Attributes:
        experiment: Name of the benchmark, which is that of the MLflow experiment.
        identity: Unique id of the folder's benchmark; part of every run's key.
        scope: Which studies share a search: `task`, `family` or `suite`.
        objectives: Objectives of the searches.
        tokenization: `bbpe`, `one_hot` or `kmer`, for records without this fact.
        seeds: Seeds of the final stage.
        uri: Tracking address of the benchmark; `None` for the embedded store.
        sources: Where each study's backbone was loaded from.
        notes: Changes of a study's search space against its file.
        data_dir: Data folder of the benchmark.
        out: The folder.
    """

    experiment: str
    identity: str
    scope: str = "task"
    objectives: tuple[str, ...] = ()
    tokenization: str = "bbpe"
    seeds: tuple[int, ...] = ()
    uri: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    data_dir: str | None = None
    out: Path | None = None

    @classmethod
    def read(cls, out: Path) -> "Setting":
        """Read the settings of an output folder.

        Raises:
            OSError, ValueError, KeyError: If the folder contains no benchmark.
        """
        folder = RunFolder(out)
        held = read_object(folder.benchmark)
        try:
            config, planned = held["config"], _planned(folder)
            studies, now = planned.get("studies", []), planned.get("settings", {})
            read = cls(
                experiment=now.get("name") or config["suite"],
                identity=held["identity"],
                scope=now.get("scope") or config.get("scope") or "task",
                objectives=tuple(config.get("objectives") or ()),
                tokenization=config.get("tokenization") or "bbpe",
                seeds=tuple(now.get("seeds") or config.get("seeds") or ()),
                uri=_foreign(now),
                sources={study["key"]: study["source"] for study in studies},
                notes={study["key"]: " ".join(study["space"]["notes"]) for study in studies},
                data_dir=now.get("data_dir"),
                out=out,
            )
        except (TypeError, AttributeError) as error:
            raise ValueError(f"{out}: benchmark.json or plan.json is invalid ({error})") from None
        texts = [
            read.experiment,
            read.identity,
            read.scope,
            read.tokenization,
            read.uri or "",
            read.data_dir or "",
            *read.objectives,
        ]
        if (
            not all(map(_is_text, texts))
            or not all(isinstance(name, str) for name in read.sources.values())
            or not all(isinstance(seed, int) for seed in read.seeds)
        ):
            raise ValueError(f"{out}: benchmark.json or plan.json does not describe a run")
        return read


def _is_text(value: Any) -> bool:
    """Whether a store can keep it: JSON may contain lone surrogates."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _planned(folder: RunFolder) -> dict[str, Any]:
    try:
        return read_object(folder.plan)
    except PermissionError:  # of another account: continuing without it would use another store
        raise
    except (OSError, ValueError):
        return {}


def _foreign(settings: Mapping[str, Any]) -> str | None:
    """The tracking address of a benchmark; `None` if it is the folder's own store, wherever the folder was then."""
    uri: str | None = settings.get("tracking_uri")
    return None if uri == f"sqlite:///{settings.get('out')}/mlflow.db" else uri
