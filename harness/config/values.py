"""Kinds of values that settings have, each with its check."""

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from lingo.trial import targets_problem

DEFAULT_TARGETS = ("default",)
"""Of `--targets`: the matrices that the search spaces name."""

SCORE, PARAMETERS = "score", "parameters"
OBJECTIVES = (SCORE, PARAMETERS)
"""What a search may weigh: the dev score, and the number of trained parameters (of which fewer are better)."""

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def seconds_of(text: str) -> float:
    """Seconds of a span of time like `45s`, `90m`, `12h`, `1.5d` or `1h30m`.

    Raises:
        ValueError: for anything else, or nothing.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"must be a span of time like 45s, 90m, 12h or 1h30m, but got {text!r}.")
    total = sum(float(number) * UNITS[unit] for number, unit in parts)
    if total <= 0:
        raise ValueError(f"must be above 0, but got {text!r}.")
    return total


def _span(text: str) -> str:
    seconds_of(text)
    return text


def _run_name(name: str) -> str:
    if not re.fullmatch(r"\w[\w .+-]{0,99}", name) or name.endswith((".", " ")):
        raise ValueError(
            f"must be up to 100 letters, digits and . _ + - or spaces between them, but got {name!r}."
        )
    return name


def _network(text: str) -> str:
    try:
        return str(ipaddress.IPv4Network(text))
    except ValueError:
        raise ValueError(
            f"must be an IPv4 address or network like 198.51.100.7 or 198.51.100.0/24, but got {text!r}."
        ) from None


def _shots(shots: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [one for one in shots if one != "all" and not re.fullmatch(r"[1-9]\d{0,6}", one)]
    if wrong or not shots:
        raise ValueError(
            f"must be whole numbers from 1 to 9999999, or all, but got {wrong[0] if wrong else 'nothing'!r}."
        )
    return tuple(dict.fromkeys(shots))


def _seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    wrong = [seed for seed in seeds if not 0 <= seed < 2**31]
    if wrong:
        raise ValueError(f"must be at least 0 and below 2147483648, but got {wrong[0]}.")
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"must differ from each other, but got {','.join(map(str, seeds))}.")
    return seeds


def _objectives(names: tuple[str, ...]) -> tuple[str, ...]:
    wrong = [f"unknown {name!r}" for name in dict.fromkeys(names) if name not in OBJECTIVES]
    wrong += [f"{name} twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    if wrong or SCORE not in names:
        why = f" ({', '.join(wrong)})" if wrong else ""
        raise ValueError(f"must be score or score,parameters, but got {','.join(names) or 'nothing'}{why}.")
    return tuple(name for name in OBJECTIVES if name in names)


def _targets(targets: tuple[str, ...]) -> tuple[str, ...]:
    if targets != DEFAULT_TARGETS and (problem := targets_problem(targets)):
        raise ValueError(problem)
    return targets


Shots = Annotated[tuple[str, ...], AfterValidator(_shots)]
Similarity = Annotated[float, Field(ge=0.5, le=1.0), AfterValidator(lambda value: round(value, 4))]
Positive = Annotated[int, Field(ge=1, lt=2**31)]
Names = Annotated[tuple[str, ...], Field(min_length=1)]
Amount = Annotated[float, Field(gt=0)]
Span = Annotated[str, AfterValidator(_span)]
Network = Annotated[str, AfterValidator(_network)]
Objectives = Annotated[tuple[str, ...], AfterValidator(_objectives)]
Targets = Annotated[tuple[str, ...], Field(min_length=1), AfterValidator(_targets)]
RunName = Annotated[str, AfterValidator(_run_name)]
Seeds = Annotated[tuple[int, ...], Field(min_length=1), AfterValidator(_seeds)]


class Learned(BaseModel):
    """What earlier runs teach about a method on a backbone, see `harness.config.learned_points`.

    Attributes:
        runs, tasks: Names of the runs, and the tasks of their studies.
        points: Configurations to try first, in order.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    backbone: str
    method: str
    runs: tuple[str, ...]
    tasks: tuple[str, ...]
    points: tuple[dict[str, Any], ...]
