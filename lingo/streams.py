"""Random streams of a trial, as functions of (seed, purpose, position).

Nothing is drawn from a global generator and no generator has a state that must be saved: each stream has a new key for
    each step or epoch. A trial therefore draws the same numbers alone or packed, on one worker
or two, resumed or not, and a change of `p` or `bT` does not affect its data order and dropout.
"""

import hashlib

import torch


def stream_seed(seed: int, purpose: str, position: int = 0) -> int:
    """A 63-bit seed for one purpose (`order`, `dropout`, `sampling`, `init` …) at one step or epoch."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{position}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def stream(
    seed: int, purpose: str, position: int = 0, *, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator keyed by `stream_seed`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(stream_seed(seed, purpose, position))
    return generator
