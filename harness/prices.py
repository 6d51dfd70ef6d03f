"""What an hour costs where nobody said it: the prices beside the cluster files."""

from pathlib import Path

from harness.config import Benchmark
from harness.errors import InputError


def with_price(benchmark: Benchmark) -> Benchmark:
    """The benchmark with the most that an hour of its cluster can cost, unless it names a price itself.

    Raises:
        InputError: when a budget of money has no price; a cluster file with problems of its own is left to its
            checks.
    """
    if benchmark.price_per_hour is not None or benchmark.cluster is None:
        return benchmark
    from harness.cluster_files import read_cluster

    try:
        price = read_cluster(Path(benchmark.cluster), filled_in=False).ceiling()
    except (InputError, OSError):
        return benchmark
    if price:
        return benchmark.model_copy(update={"price_per_hour": round(price, 4)})
    if benchmark.max_cost is not None or benchmark.study_max_cost is not None:
        raise InputError(
            f"`--price-per-hour` is needed with a budget of money: clusters/prices.yaml does not price all of "
            f"{benchmark.cluster}."
        )
    return benchmark
