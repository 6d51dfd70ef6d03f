"""Folders of backbones: find or download, check, and read configuration and tokenizer. No weights are loaded."""

import contextlib
import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import constants, snapshot_download
from transformers import AutoConfig, AutoTokenizer
from transformers.utils import logging as transformers_logging

from lingo import architectures, checkpoint, own_models
from lingo.checkpoint import BackboneError
from lingo.dna_tokenizers import own_tokenizer
from lingo.families import FAMILIES
from lingo.known_models import KNOWN, Known
from lingo.text_files import one_line


def inspect_backbone(name_or_path: str | Path) -> list[str]:
    """Problems that can be found without loading weights or using the network, one line each.

    A folder is checked for configuration, architecture, weights and tokenizer; a hub id only for its form.
    """
    name = str(name_or_path)
    try:
        return folder_problems(_path_of(name)) if _is_folder(name) else _name_problems(name)
    except OSError as error:
        return [f"{name}: cannot be read ({one_line(error)})."]


def _path_of(name: str) -> Path:
    """A folder's path; an unknown home folder is left as written, and does not exist."""
    return Path(os.path.expanduser(name))  # noqa: PTH111 - `Path.expanduser` raises


def _is_folder(name: str) -> bool:
    if name in KNOWN:
        return False
    return name.startswith((".", "/", "~")) or Path(name).exists() or name.count("/") > 1


def _name_problems(name: str) -> list[str]:
    if name in KNOWN or name.count("/") == 1:
        return []
    near = difflib.get_close_matches(name, KNOWN, n=3, cutoff=0.4) or list(KNOWN)
    return [
        f"a backbone must be a known name, a folder or a hub id owner/model, but got {name!r}; "
        f"nearest names: {', '.join(near)}."
    ]


def locate(name: str, revision: str | None) -> tuple[Path, str]:
    """(folder, source) of a backbone, downloaded if it is not a folder."""
    if _is_folder(name):
        folder = _path_of(name)
        if revision is not None:
            raise BackboneError(
                f"`revision` must be for a hub id, but got {revision!r} for the folder {folder}."
            )
        return folder, str(folder.resolve())
    problems = _name_problems(name)
    if problems:
        raise BackboneError(*problems)
    known = KNOWN.get(name, Known(name, "see its model card"))
    folder = _download(known.hub_id, revision or known.revision)
    return folder, f"{known.hub_id}@{folder.name}"


def _download(hub_id: str, revision: str | None) -> Path:
    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        folder = Path(snapshot_download(hub_id, revision=revision, allow_patterns=wanted))
        if not any(folder.glob("*.safetensors")):
            snapshot_download(hub_id, revision=revision, allow_patterns=["pytorch_model*.bin"])
    except Exception as error:  # the hub client raises a dozen types, which all mean the same here
        offline = " (HF_HUB_OFFLINE is set)" if constants.HF_HUB_OFFLINE else ""
        raise BackboneError(
            f"{hub_id}: is neither a folder nor to be had from the hub{offline}: {one_line(error)}; "
            "give the folder of a copy instead."
        ) from None
    return folder


def folder_problems(folder: Path) -> list[str]:
    if not folder.is_dir():
        return [f"{folder}: a backbone must be a folder, but there is none."]
    problems: list[str] = []
    for check in (_config_problems, checkpoint.weight_files, checkpoint.tokenizer_files, _header_problems):
        try:
            check(folder)
        except BackboneError as error:
            problems += error.problems
    return list(dict.fromkeys(problems))


def _header_problems(folder: Path) -> None:
    if all(file.suffix == ".safetensors" for file in checkpoint.weight_files(folder)):
        for _ in checkpoint.tensors(folder, meta=True):
            pass


def _config_problems(folder: Path) -> None:
    config = checkpoint.read_config(folder)
    kind = _model_type(config)
    problems = []
    if not architectures.is_native(kind):
        own = f"; code of its own ({config['auto_map']}) is never run" if config.get("auto_map") else ""
        problems.append(
            f"{folder}: `model_type` must be one that transformers {transformers.__version__} computes (bert, llama "
            f"and some {architectures.COUNT} more), but got {kind!r}{own}."
        )
    if config.get("is_decoder") and isinstance(kind, str) and kind in FAMILIES and not FAMILIES[kind].causal:
        problems.append(
            f"{folder}: must read both directions, but config.json says `is_decoder`, and its first token would see "
            "nothing of the sequence."
        )
    if config.get("quantization_config"):
        problems.append(f"{folder}: weights must be plain, but config.json has a `quantization_config`.")
    if problems:
        raise BackboneError(*problems)


def _model_type(fields: dict[str, Any]) -> Any:
    """`model_type` of a config.json, or of this project's own class for a public checkpoint."""
    own = own_models.public_config(fields)
    return own.model_type if own else fields.get("model_type")


def read_config(folder: Path) -> Any:
    fields = checkpoint.read_config(folder)
    try:
        if own := own_models.public_config(fields):
            return own.from_public(fields)
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # any error of a class on these values is one of the file
        raise BackboneError(
            f"{folder / 'config.json'}: does not describe a model ({one_line(error)})."
        ) from None
    config.use_cache = False
    return config


def read_tokenizer(folder: Path) -> Any:
    def read(**options: Any) -> Any:
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="right", **options
        )

    try:
        if own := own_tokenizer(folder):
            return own
        tokenizer = read()
        # The class of ESM appends an end token even where the vocabulary has none (Nucleotide Transformer).
        vocabulary = folder / "vocab.txt"
        if type(tokenizer).__name__ == "EsmTokenizer" and vocabulary.exists():
            words = vocabulary.read_text(encoding="utf-8").split()
            tokenizer = tokenizer if tokenizer.eos_token in words else read(eos_token=None)
    except Exception as error:  # the tokenizers' Rust errors have no common class
        raise BackboneError(f"{folder}: its tokenizer cannot be read ({one_line(error)}).") from None
    return tokenizer


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bar and reports; relevant problems are raised here."""
    level, bar = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bar:
            transformers_logging.enable_progress_bar()
