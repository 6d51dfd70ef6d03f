"""Saved views of an experiment in the MLflow UI: each opens on an answer without a click.

MLflow 3.17 keeps a shared view as a tag of the experiment, `mlflow.sharedViewState.<key>`: JSON with a name, times and
the state of the page, compressed. Measured by opening them in a browser, see tests/harness/tracking/test_views.py.
"""

import base64
import json
import time
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lingo.metrics import LOWER_IS_BETTER

TAG = "mlflow.sharedViewState."
BEST, COMPUTE, METHODS, FAILURES = "best", "compute", "methods", "failures"
NAMES = {
    BEST: "Best configurations",
    COMPUTE: "Backbones at equal compute",
    METHODS: "Methods on one task",
    FAILURES: "Failures",
}
CONFIG = ("learning_rate", "p", "b0", "bT", "delta_T", "beta1", "beta2", "rank")
"""Settings of a configuration that have a column."""

ADJUSTED = "flops_adjusted_step"
USUAL: dict[str, Any] = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "columnOrder": [],
    "columnWidths": {},
    "runsHiddenMode": "FIRST_10_RUNS",
    "viewMaximized": False,
    "runListHidden": False,
    "isAccordionReordered": False,
    "useGroupedValuesInCharts": True,
    "hideEmptyCharts": True,
    "groupsExpanded": {},
    "groupBy": None,
}


def views(metrics: Sequence[str], tasks: Sequence[str], owner: str = "") -> dict[str, dict[str, Any]]:
    """The state of each view, by its key.

    Args:
        metrics: Selection metric of each study; the most frequent one is the column by which studies are sorted.
        tasks: Names of the tasks; the first is shown by *Methods on one task*.
        owner: Condition that leaves only one benchmark's runs, where others share the experiment.
    """
    metric = Counter(metrics).most_common(1)[0][0] if metrics else "mcc"
    best, both = f"metrics.`best/{metric}`", ["tags.`task`", "tags.`backbone`", "tags.`method`"]
    scores = [best, f"metrics.`test/{metric}_mean`"]
    config = [f"tags.`best.{name}`" for name in CONFIG]
    ascending = metric in LOWER_IS_BETTER

    def where(condition: str) -> str:
        return f"{condition}{owner}"

    return {
        BEST: USUAL
        | {
            "searchFilter": where("tags.stage = 'study'"),
            "orderByKey": best,
            "orderByAsc": ascending,
            "selectedColumns": [*both, *scores, *config],
        },
        COMPUTE: USUAL
        | {
            "searchFilter": where("tags.stage = 'search' and tags.status = 'finished'"),
            "orderByKey": f"metrics.`dev_{metric}`",
            "orderByAsc": ascending,
            "selectedColumns": [
                *both,
                f"metrics.`dev_{metric}`",
                f"metrics.`{ADJUSTED}`",
                "metrics.`gigaflops`",
            ],
            "groupBy": {
                "groupByKeys": [{"mode": "tag", "groupByData": "backbone"}],
                "aggregateFunction": "average",
            },
            "globalLineChartConfig": _across(),
            **_charts(f"dev_{metric}"),
        },
        METHODS: USUAL
        | {
            "searchFilter": where(f"tags.stage = 'study' and tags.task = '{tasks[0] if tasks else ''}'"),
            "orderByKey": best,
            "orderByAsc": ascending,
            "selectedColumns": [
                "tags.`method`",
                "tags.`backbone`",
                *scores,
                "metrics.`trained_parameters`",
                *config,
            ],
        },
        FAILURES: USUAL
        | {
            "searchFilter": where("attributes.status = 'FAILED'"),
            "orderByKey": "attributes.start_time",
            "orderByAsc": False,
            "selectedColumns": [*both, "tags.`stage`", "tags.`error`"],
        },
    }


def _across() -> dict[str, Any]:
    return {"xAxisKey": "metric", "selectedXAxisMetricKey": ADJUSTED, "lineSmoothness": 0}


def _charts(metric: str) -> dict[str, Any]:
    """One line chart of a metric against FLOPs-adjusted steps, at the top."""
    section = {"uuid": "curves", "name": "Dev score at equal compute", "display": True, "isReordered": True}
    chart = {
        "type": "LINE",
        "uuid": "dev-curves",
        "runsCountToCompare": 10,
        "metricSectionId": "curves",
        "deleted": False,
        "isGenerated": False,
        "displayName": f"{metric} over FLOPs-adjusted steps",
        "metricKey": metric,
        "selectedMetricKeys": [metric],
        "useGlobalLineSmoothing": False,
        "useGlobalXaxisKey": False,
        "scaleType": "linear",
        "xAxisScaleType": "linear",
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": ADJUSTED,
        "lineSmoothness": 0,
        "yAxisKey": "metric",
        "selectedYAxisMetricKey": metric,
        "range": {},
    }
    return {
        "compareRunSections": [section],
        "compareRunCharts": [chart],
        "isAccordionReordered": True,  # else generated sections come first
        "runListHidden": True,
    }


def tags(states: Mapping[str, Mapping[str, Any]], prefix: str, now: float | None = None) -> dict[str, str]:
    """The views as tags of an experiment.

    Args:
        states: See `views`.
        prefix: Begins their keys: what tells them from those of other benchmarks.
        now: Seconds since 1970.
    """
    moment = int(1000 * (time.time() if now is None else now))
    return {
        f"{TAG}{prefix}-{key}": json.dumps(
            {"name": NAMES[key], "createdAt": moment, "updatedAt": moment, "state": packed(state)}
        )
        for key, state in states.items()
    }


def same(one: str, other: str) -> bool:
    """Whether two tags of a view differ in their times alone."""
    try:
        return bool(json.loads(one)["state"] == json.loads(other)["state"])
    except (ValueError, KeyError, TypeError):
        return False


def packed(state: Mapping[str, Any]) -> str:
    """The state of a page as MLflow keeps it."""
    return "deflate;" + base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()


def unpacked(text: str) -> dict[str, Any]:
    """The inverse of `packed`."""
    state: dict[str, Any] = json.loads(zlib.decompress(base64.b64decode(text.removeprefix("deflate;"))))
    return state


def address(server: str, experiment: str, prefix: str, key: str = BEST) -> str:
    """Where a view opens.

    Args:
        server: Address of the UI.
        experiment: Id of the experiment.
        prefix, key: As in `tags`.
    """
    mode = "&compareRunsMode=CHART" if key == COMPUTE else ""
    share = quote(f"{prefix}-{key}", safe="")
    return f"{server}/#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={share}{mode}"
