"""Masks of dropout: uniform, independent, and the same wherever a row is trained."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from lingo.dropout import POSITIONS, RATES, Draws, Masks, finalized, hashed
from lingo.layout import Input
from lingo.pack import Pack
from lingo.sites import inputs_of
from tests.lingo import toy
from tests.lingo.tiny import Checkpoints

CPU = torch.device("cpu")
INPUTS = (Input(0, ("a",), 16), Input(3, ("b", "c"), 10), Input(4, ("d",), 16))


def mixed(x: Tensor) -> Tensor:
    return finalized(x, torch.empty_like(x))


def masks(
    rates: list[float], *, seeds: list[int], steps: list[int], rows: int = 3, width: int = 5
) -> dict[int, Tensor]:
    drawn = Draws.of(seeds, steps, rates, np.tile(np.arange(rows), (len(seeds), 1)), device=CPU)
    return Masks(INPUTS, device=CPU, dtype=torch.float32).draw(drawn, width)


def test_the_generator_is_splitmix64() -> None:
    """The first numbers from key 0, as its authors publish them."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hashed(0, np.arange(3, dtype=np.uint64)).view(np.uint64).tolist() == published


def test_the_device_mixes_as_the_host_does() -> None:
    sums = np.random.default_rng(0).integers(0, 2**64, (7, 9), dtype=np.uint64)
    golden = pow(0x9E3779B97F4A7C15, -1, 2**64)  # `hashed` adds multiples of it, the device nothing
    expected = hashed(0, sums * np.uint64(golden) - np.uint64(1))
    np.testing.assert_array_equal(mixed(torch.from_numpy(sums.view(np.int64).copy())).numpy(), expected)


def test_masks_are_those_of_the_formula() -> None:
    """One by one, in whole numbers of Python."""
    from lingo.dropout import COLUMNS
    from lingo.streams import stream_seed

    def word(key: int, counter: int) -> int:
        return int(hashed(key, np.array([counter], dtype=np.uint64)).view(np.uint64)[0])

    found = masks([0.3], seeds=[5], steps=[7])
    for one in INPUTS:
        for row, place, column in ((0, 0, 0), (2, 4, one.width - 1), (1, 3, 6)):
            total = word(stream_seed(5, "dropout", 7), row) + word(POSITIONS, place)
            total = (total + word(COLUMNS, (one.number << 32) + column // 4)) % 2**64
            number = int(mixed(torch.tensor([total - 2**64 if total >= 2**63 else total]))[0])
            draw = np.array([number], dtype=np.int64).view(np.int16)[column % 4]
            kept = draw >= round(0.3 * RATES) - RATES // 2
            assert found[one.number].view(3, 5, -1)[row, place, column] == kept


@pytest.mark.parametrize("rate", [0.0, 1 / RATES, 0.05, 0.5, 0.9, 1 - 1 / RATES])
def test_the_rate_is_kept(rate: float) -> None:
    found = torch.cat(
        [mask.flatten() for mask in masks([rate], seeds=[1], steps=[2], rows=50, width=400).values()]
    )
    sd = math.sqrt(rate * (1 - rate) / len(found))
    assert abs(float(found.mean()) - (1 - rate)) <= 4 * sd


def words(rows: int = 64, width: int = 64, columns: int = 256, *, seed: int = 1, step: int = 2) -> Tensor:
    """Masks of rate ½ as ±1, [rows, positions, columns]."""
    one = (Input(0, ("a",), columns),)
    drawn = Draws.of([seed], [step], [0.5], np.arange(rows)[None], device=CPU)
    mask = Masks(one, device=CPU, dtype=torch.float32).draw(drawn, width)[0]
    return mask.view(rows, width, columns) * 2 - 1


def test_draws_are_uniform() -> None:
    """χ² of the upper and of the lower byte of a million draws."""
    keys = hashed(9, np.arange(1 << 18, dtype=np.uint64))
    for sums in (keys, np.arange(1 << 18)):  # sums of hashes, and the least random ones that there are
        bytes_ = mixed(torch.from_numpy(sums.copy())).numpy().view(np.uint8).reshape(-1, 2)
        for place in range(2):
            counts = np.bincount(bytes_[:, place], minlength=256)
            expected = len(bytes_) / 256
            chi2 = float(((counts - expected) ** 2 / expected).sum())
            assert abs(chi2 - 255) < 4.5 * math.sqrt(2 * 255)


@pytest.mark.parametrize(
    "pairs",
    [
        lambda m: m[1:] * m[:-1],
        lambda m: m[:, 1:] * m[:, :-1],
        lambda m: m[..., 1:] * m[..., :-1],
        lambda m: m[..., 4:] * m[..., :-4],
        lambda m: m[1:, 1:] * m[:-1, :-1],
        lambda m: m[1:, :-1] * m[:-1, 1:],
        lambda m: m[1:, 1:] * m[:-1, 1:] * m[1:, :-1] * m[:-1, :-1],
        lambda m: m[1:, :, 4:] * m[:-1, :, 4:] * m[1:, :, :-4] * m[:-1, :, :-4],
        lambda m: m[:, 1:, 4:] * m[:, :-1, 4:] * m[:, 1:, :-4] * m[:, :-1, :-4],
        lambda m: m * words(step=3),
        lambda m: m * words(seed=2),
    ],
    ids=["rows", "positions", "columns", "words", "diagonal", "other diagonal", "rows x positions", "rows x words",
         "positions x words", "steps", "seeds"],
)  # fmt: skip
def test_draws_are_independent(pairs: Callable[[Tensor], Tensor]) -> None:
    """Products of two or four draws that share a part of their counters have mean 0: as a whole, and their sums along
    each axis have the spread of independent ones."""
    products = pairs(words())
    assert abs(float(products.mean())) < 4.5 / math.sqrt(products.numel())
    for axis in range(3):
        sums = products.sum(axis) / math.sqrt(products.shape[axis])
        spread = float(sums.square().mean())
        assert abs(spread - 1) < 4.5 * math.sqrt(2 / sums.numel())


def test_a_rows_mask_is_its_own() -> None:
    """Whatever the neighbours, the padding, the part of the batch, and the other inputs that are drawn."""
    whole = masks([0.2, 0.5], seeds=[1, 9], steps=[4, 0], rows=6, width=9)
    alone = masks([0.2], seeds=[1], steps=[4], rows=6, width=7)
    drawn = Draws.of([9], [0], [0.5], np.array([[2, 3]]), device=CPU)
    part = Masks(INPUTS[1:2], device=CPU, dtype=torch.bfloat16).draw(drawn, 9)
    assert part.keys() == {3} and part[3].dtype == torch.bfloat16
    torch.testing.assert_close(part[3][0].view(2, 9, 10).float(), whole[3][1].view(6, 9, 10)[2:4])
    for one in INPUTS:
        short = whole[one.number][0].view(6, 9, -1)[:, :7].reshape(42, -1)
        assert torch.equal(alone[one.number][0], short)
    assert not torch.equal(whole[0][0], whole[4][0]) and not torch.equal(whole[0][0], whole[0][1])


def test_masks_are_dense_and_of_the_activations_type_on_a_cpu() -> None:
    found = masks([0.1, 0.2], seeds=[1, 2], steps=[0, 0])
    assert all(mask.is_contiguous() and mask.dtype == torch.float32 for mask in found.values())


def test_queries_keys_and_values_share_a_mask_and_others_have_their_own() -> None:
    backbone = toy.opt_backbone()
    together = [one.paths for one in inputs_of(backbone) if len(one.paths) > 1]
    assert together == [
        tuple(f"decoder.layers.{i}.self_attn.{name}_proj" for name in ("k", "v", "q")) for i in range(2)
    ]
    pack = Pack(backbone, capacity=2, max_rank=4)
    pack.admit(toy.trial("lora", 1, adapter_dropout=0.0, targets=("W_q",)), toy.task())
    pack.admit(toy.trial("adalora", 2, adapter_dropout=0.5, targets=("W_q", "W_v", "W_f2")), toy.task())
    pack.step()
    masks = {one.paths: dropped.kept for one, dropped in pack.bank._dropped.items()}  # type: ignore[union-attr]
    for paths, mask in masks.items():
        if len(paths) > 1 or paths[0].endswith("fc2"):
            assert mask is not None and bool(mask[0].all()) and 0.4 < float(mask[1].mean()) < 0.6
        else:
            assert mask is None  # nobody adapts it


def test_gate_and_up_projection_share_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone = Checkpoints(tmp_path_factory.mktemp("models"))("llama")
    shared = [[path.rpartition(".")[2] for path in one.paths] for one in inputs_of(backbone)][:4]
    assert shared == [["q_proj", "k_proj", "v_proj"], ["o_proj"], ["gate_proj", "up_proj"], ["down_proj"]]
