"""Makes `tests/lingo/golden.json`: losses of twelve steps of every method on the toy backbone, in float64.

Run as `python -m tests.reference.golden` from the repository's root when the numbers are meant to change;
`tests/lingo/test_golden.py` fails on any other.
"""

import json
from pathlib import Path

import torch

from lingo.pack import Pack
from lingo.trial import TrialConfig
from tests.lingo import toy

FILE = Path(__file__).resolve().parents[1] / "lingo" / "golden.json"
STEPS = 12
TASK = toy.task(rows=18, labels=3)

TRIALS: dict[str, TrialConfig] = {
    name: toy.trial(method, seed, epochs=3, **settings)
    for seed, (name, method, settings) in enumerate(
        [
            ("fmft", "fmft", {"learning_rate": 1e-3}),
            ("lora", "lora", {}),
            ("adalora", "adalora", {}),
            ("ars in_place", "ars", {"rank_update": "in_place"}),
            ("ars held", "ars", {"rank_update": "held"}),
            ("ars published_code", "ars", {"rank_update": "published_code"}),
            ("lingo", "lingo", {}),
            ("rslora", "rslora", {}),
            ("lora_plus", "lora_plus", {}),
            ("pissa", "pissa", {}),
            ("dora", "dora", {}),
            ("vera", "vera", {}),
        ]
    )
}
"""15 steps, 5 an epoch: allocations after 3, 6, 9 and, the last, 11."""

Numbers = dict[str, list[float]]


def golden(config: TrialConfig) -> Numbers:
    """Loss of each step, and the logits on the dev split summed for each output."""
    pack = Pack(
        toy.opt_backbone(), full=config.method == "fmft", max_rank=4, max_labels=3,
        outputs=config.kind.outputs != "none", dtype=torch.float64,
    )  # fmt: skip
    slot = pack.admit(config, TASK)
    losses = []
    for _ in range(STEPS):
        pack.step()
        losses.append(pack.take_loss(slot))
    return {"losses": losses, "logits": pack.predict(slot, TASK.dev).sum(0).tolist()}


def main() -> None:
    """Write the file."""
    numbers = {name: golden(config) for name, config in TRIALS.items()}
    FILE.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
