"""GPUs of cloud machines: the table `clusters/gpus.yaml`, and the machines that it has for a provider."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import InputError
from harness.core.paths import ROOT
from lingo.text_files import read_text

FILE = ROOT / "clusters" / "gpus.yaml"


@dataclass(frozen=True, kw_only=True)
class GpuMachine:
    """One machine type of a provider.

    Attributes:
        name: The provider's name.
        gpu: Name of its GPUs.
        gpus, cpus: Number of GPUs, and of virtual cores.
        gigabytes: Memory of one GPU.
        bf16: Whether they compute in bfloat16; without it, backbones are trained in fp32.
        tflops: Peak of one GPU in the number type that is trained, in 10^12 operations a second.
        price: US dollars per hour, on demand.
        efa: Whether it can have Amazon's fast network between machines.
        attached: Whether its GPUs are a setting of their own in the cluster file.
    """

    name: str
    gpu: str
    gpus: int
    cpus: int
    gigabytes: float
    bf16: bool
    tflops: float
    price: float
    efa: bool = False
    attached: bool = False

    @property
    def text(self) -> str:
        """Its GPUs in words."""
        return f"{self.gpus} x {self.gpu}, {self.gigabytes:g} GB{'' if self.bf16 else ', no bf16'}"

    @property
    def resources(self) -> str:
        """As in the cluster file."""
        return f"{{CPU: {self.cpus}, GPU: {self.gpus}}}"


@cache
def _table(path: Path) -> dict[str, Any]:
    try:
        read = yaml.safe_load(read_text(path)) if path.is_file() else {}
        return {"as_of": str(read.get("as_of", "")), "machines": {}, "gpus": {}} | read
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]}).") from None


def gpu_machines(provider: str, path: Path = FILE) -> tuple[GpuMachine, ...]:
    """The machine types of a provider; none if the file does not exist.

    Raises:
        InputError: If a row of the file is not one of a machine, or names an unknown GPU.
    """
    table = _table(path)
    found = []
    for name, row in (table["machines"].get(provider) or {}).items():
        try:
            gpu = table["gpus"][row["gpu"]]
            found.append(GpuMachine(name=str(name), **row, **gpu))
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{path}: {name} must have gpu, gpus, cpus and price of a GPU listed there ({error})."
            ) from None
    return tuple(found)


def listed_prices(path: Path = FILE) -> dict[str, float]:
    """Prices per hour by machine type; the spot price never exceeds the on-demand price, which is used for both."""
    rows = [machine for provider in _table(path)["machines"] for machine in gpu_machines(provider, path)]
    return {name: one.price for one in rows for name in (one.name, f"{one.name} spot")}


def as_of(path: Path = FILE) -> str:
    """Date of the prices."""
    return str(_table(path)["as_of"])


def resource_problems(
    path: Path, provider: str, types: dict[str, Any], instances: dict[str, str]
) -> Iterator[str]:
    """Node types whose number of GPUs is not that of their machine: others would never be used, or never be found.

    Args:
        instances: Machine type of each node type.
    """
    known = {machine.name: machine for machine in gpu_machines(provider)}
    for name, row in types.items():
        machine, resources = known.get(instances.get(name, "")), row.get("resources")
        if machine is None or machine.attached or not isinstance(resources, dict):
            continue
        if resources.get("GPU", 0) != machine.gpus:
            yield (
                f"{path}: `available_node_types.{name}.resources` must have GPU: {machine.gpus}, as {machine.name} has "
                f"({machine.text}), but has {resources.get('GPU', 0)}."
            )
