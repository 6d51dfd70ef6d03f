"""A pretrained model's folder in the hub's layout: content, completeness and digest."""

import hashlib
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from lingo.text_files import file_digest, one_line, read_json

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = (("tokenizer.json",), ("tokenizer.model",), ("vocab.json", "merges.txt"), ("vocab.txt",))
TOKENIZER_EXTRAS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


class BackboneError(ValueError):
    """A backbone cannot be used. One clear line per problem, in `problems`."""

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_config(folder: Path) -> dict[str, Any]:
    """The fields of `config.json`. Raises `BackboneError` if it is missing or not a JSON object."""
    path = folder / "config.json"
    try:
        config = read_json(path)
    except FileNotFoundError:
        raise BackboneError(f"{folder}: a backbone must have a config.json, but there is none.") from None
    except (OSError, ValueError) as error:
        raise BackboneError(f"{path}: must be JSON, but cannot be read ({one_line(error)}).") from None
    if not isinstance(config, dict):
        raise BackboneError(f"{path}: must be a JSON object, but got {type(config).__name__}.")
    return config


def weight_files(folder: Path) -> list[Path]:
    """The files that hold the weights, safetensors before pickled ones; shards as the index lists them.

    Raises:
        BackboneError: If there are none, or one is absent or empty.
    """
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if (folder / name).exists():
            return _non_empty([folder / name])
        if index.exists():
            return _non_empty([folder / shard for shard in _shards(index)])
    raise BackboneError(
        f"{folder}: a backbone must have weights ({' or '.join(WEIGHTS)} or an index), but there are none."
    )


def _shards(index: Path) -> list[str]:
    try:
        shards = sorted(set(read_json(index)["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BackboneError(
            f"{index}: must be an index with a weight_map, but got {one_line(error)}."
        ) from None
    # A shard is a plain file name: an index must not lead out of its folder.
    outside = [shard for shard in shards if not isinstance(shard, str) or Path(shard).name != shard]
    if outside or not shards:
        raise BackboneError(f"{index}: must list files of its own folder, but got {outside or 'none'}.")
    return shards


def _non_empty(files: list[Path]) -> list[Path]:
    problems = [f"{file}: the checkpoint's file is missing." for file in files if not file.is_file()]
    problems += [f"{file}: holds no bytes." for file in files if file.is_file() and not file.stat().st_size]
    if problems:
        raise BackboneError(*problems)
    return files


def tokenizer_files(folder: Path) -> list[Path]:
    """The tokenizer's files. Raises `BackboneError` if there are none."""
    from lingo.dna_tokenizers import is_built  # it imports transformers

    for names in TOKENIZERS:
        if all((folder / name).exists() for name in names):
            extras = [folder / name for name in TOKENIZER_EXTRAS if (folder / name).exists()]
            return _non_empty([folder / name for name in names] + extras)
    if is_built(folder):
        return _non_empty([folder / name for name in TOKENIZER_EXTRAS if (folder / name).exists()])
    choices = ", ".join(" + ".join(names) for names in TOKENIZERS)
    raise BackboneError(f"{folder}: a backbone must have a tokenizer (one of {choices}), but there is none.")


def digest(folder: Path) -> str:
    """sha256 over names and bytes of configuration, weights and tokenizer, without other files."""
    total = hashlib.sha256()
    for path in sorted({folder / "config.json", *weight_files(folder), *tokenizer_files(folder)}):
        total.update(f"{path.name} {file_digest(path)}\n".encode())
    return total.hexdigest()


def tensors(folder: Path, *, meta: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the checkpoint by its name, one file at a time.

    Args:
        folder: The backbone's folder.
        meta: Return shapes and types only (device `meta`), without reading safetensors' values.

    Raises:
        BackboneError: If a file is damaged or has another format.
    """
    for file in weight_files(folder):
        try:
            yield from _safetensors(file, meta) if file.suffix == ".safetensors" else _pickled(file, meta)
        except pickle.UnpicklingError:
            raise BackboneError(
                f"{file}: is damaged, or holds more than tensors, which is never read."
            ) from None
        except (SafetensorError, RuntimeError, OSError, ValueError, EOFError) as error:
            raise BackboneError(f"{file}: is damaged or not a weights file ({one_line(error)}).") from None


def _pickled(file: Path, meta: bool) -> Iterator[tuple[str, torch.Tensor]]:
    # Files of PyTorch before 1.6 are not zip archives and cannot be memory-mapped.
    device, mapped = "meta" if meta else "cpu", zipfile.is_zipfile(file)
    held = torch.load(file, map_location=device, weights_only=True, mmap=mapped)
    if not isinstance(held, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in held.values()):
        raise ValueError("not a dictionary of tensors")
    yield from held.items()


def _safetensors(file: Path, meta: bool) -> Iterator[tuple[str, torch.Tensor]]:
    with safe_open(file, framework="pt") as checkpoint:
        for name in checkpoint.keys():  # noqa: SIM118 (not a mapping)
            if meta:
                yield name, torch.empty(checkpoint.get_slice(name).get_shape(), device="meta")
            else:
                yield name, checkpoint.get_tensor(name)
