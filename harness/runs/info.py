"""What all runs of an output folder share, read from its files."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.runs.layout import RunFolder
from lingo.text_files import read_object


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What all runs of an output folder share, from its `benchmark.json` and `plan.json`.

    Attributes:
        experiment: Name of the benchmark, which is that of the MLflow experiment.
        identity: Name of the folder's benchmark that no other has; part of every run's key.
        scope: Which studies share a search: `task`, `family` or `suite`.
        tokenization: `bbpe`, `one_hot` or `kmer`, where a record does not say.
        seeds: Seeds of the final stage.
        uri: Tracking address that the benchmark was given; `None` for the embedded store.
        sources: Where each study's backbone was loaded from.
        notes: What was changed from the search-space file of a study.
        data_dir: Folder of the data files that the benchmark was given.
        out: The folder.
    """

    experiment: str
    identity: str
    scope: str = "task"
    tokenization: str = "bbpe"
    seeds: tuple[int, ...] = ()
    uri: str | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    data_dir: str | None = None
    out: Path | None = None

    @classmethod
    def read(cls, out: Path) -> "Setting":
        """The setting of an output folder.

        Raises:
            OSError, ValueError, KeyError: If the folder holds no benchmark.
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
        ]
        if (
            not all(map(_is_text, texts))
            or not all(isinstance(name, str) for name in read.sources.values())
            or not all(isinstance(seed, int) for seed in read.seeds)
        ):
            raise ValueError(f"{out}: benchmark.json or plan.json does not describe a run")
        return read


def _is_text(value: Any) -> bool:
    """Whether a store can keep it: JSON may hold halves of characters."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _planned(folder: RunFolder) -> dict[str, Any]:
    try:
        return read_object(folder.plan)
    except PermissionError:  # of another account: to go on without it would take another store
        raise
    except (OSError, ValueError):
        return {}


def _foreign(settings: Mapping[str, Any]) -> str | None:
    """The store that a benchmark was given; `None` where it is the folder's own, wherever the folder lay then."""
    uri: str | None = settings.get("tracking_uri")
    return None if uri == f"sqlite:///{settings.get('out')}/mlflow.db" else uri
