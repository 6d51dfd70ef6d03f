"""Prepared tasks on disk: checked, tokenised once, and memory-mapped by every worker.

A prepared task is a folder named by the digest of its inputs (data, tokenizer, prompt, length, limit), so that
studies, worker groups and later runs share it. Training opens train and dev through `open_prepared`; the test split is
a separate file that only `open_test` opens, in the final stage.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import lock_descriptor
from numpy.typing import NDArray

from harness.core.errors import InputError
from harness.data.encoding import Encoder
from harness.data.labelled_files import Rows
from harness.data.leakage import audited
from harness.data.sequence_views import Concatenated, OtherStrand
from harness.data.sources import (
    label_names,
    read_splits,
    source_marks,
    source_schema,
    split_digests,
    split_places,
    variant_facts,
    variant_marks,
)
from harness.data.split_arrow import open_split, write_split
from harness.data.split_checks import constant_outputs, look_at_labels, refuse_same_tokens
from harness.data.steps import Listener
from harness.data.tasks import DEFAULT_METRICS, Strands, TaskRow
from harness.data.token_checks import Reading, caveats, frame_tokens, read, refuse_unknown_bases
from lingo.data import Kind, Split, TaskData
from lingo.long_sequences import seen
from lingo.nucleotides import Units
from lingo.prompts import Prompt
from lingo.tokenization import SPACER, pair_joint
from lingo.trial import Long
from lingo.vocabulary import spelling

REVERSE = "_reverse"
"""Suffix of the files with the reverse complements of dev and test."""

FORMAT = 1
"""Format version, part of every digest: incremented when earlier prepared folders must not be reused."""


@dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A tokenised task on disk.

    Attributes:
        folder: Absolute path of the folder with `{train,dev,test}.arrow` and `meta.json`.
        name, kind, num_labels, metric: As in `lingo.data.TaskData`.
        digest: sha256 of data, tokenizer, prompt, length and limit.
        rows: Sequences of each split.
        longest: Tokens of the longest sequence of each split.
        truncated: Number of sequences of each split truncated to the backbone's maximum length.
        marks: Caveats (`smoke`, `changed split`, `truncated`, `undefined test score`),
            each with the line that says why.
        leaks: What the leakage audit counted before `--limit`, see `harness.data.leakage.Leaks.to_dict`.
        undefined_labels: Of a multi-label task, in each split, the labels without positives or without
            negatives: they have no AUROC.
        label_names: Names of a multi-label task's labels, of several targets, and of classes that have names.
        schema: Summary of a custom dataset, see `harness.data.schema.schema_of`.
        seen: Share of the bases of each split that the backbone reads, counted in tokens.
        variant: How the rows of a variant were made, see `harness.data.varied_splits.VariedRows`.
        unread: What the tokenizer cannot represent of each split, see `harness.data.token_checks.Reading`.
    """

    folder: Path
    name: str
    kind: Kind
    num_labels: int
    metric: str
    digest: str
    rows: Mapping[str, int]
    longest: Mapping[str, int]
    truncated: Mapping[str, int]
    marks: Mapping[str, str]
    leaks: Mapping[str, Any]
    undefined_labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    label_names: Sequence[str] = ()
    schema: Mapping[str, Any] = field(default_factory=dict)
    variant: Mapping[str, Any] = field(default_factory=dict)
    unread: Mapping[str, Any] = field(default_factory=dict)
    seen: Mapping[str, float] = field(default_factory=dict)


def prepare(
    row: TaskRow,
    data_dir: Path | str,
    out: Path | str,
    *,
    tokenizer: Any,
    pad_id: int,
    max_length: int | None = None,
    prompt: Prompt | None = None,
    limit: int | None = None,
    drop_leaks: bool = False,
    strands: Strands = "none",
    long: Long = "truncate",
    backbone: str = "",
    progress: Listener | None = None,
) -> PreparedTask:
    """Tokenise a task into a folder below `out`, unless it is there already.

    Args:
        row: The task.
        data_dir: Folder with the task's files, see `harness.data.sources`.
        out: Folder of prepared tasks; created if absent.
        tokenizer: The backbone's tokenizer, or units of one (`lingo.nucleotides`).
        pad_id: Token id of padding.
        max_length: Maximum number of tokens, prompt and special tokens included. Longer sequences are truncated, which
            `truncated` and a caveat record. `None` for no limit.
        prompt: Language prefix and suffix of each sequence; `None` for none.
        limit: Maximum number of rows per split: the first ones of a permutation that depends on the file alone.
        drop_leaks: Remove training rows that also occur in dev or test, on either strand.
        strands: Where reverse complements are prepared as well: as additional rows of train, or beside dev and test
            for `open_reverse_dev` and `open_reverse_test`.
        long: How longer sequences are handled, see `lingo.long_sequences.encode`.
        backbone: Name of the tokenizer's backbone, for messages.
        progress: Progress callback; `None` for the current listener (`harness.data.steps`).

    Raises:
        InputError: with one line for each problem of the files; nothing is left on disk then. After an interruption,
            the next call with the same arguments continues.
    """
    if limit is not None and limit < 1:
        raise InputError(f"`--limit` must be at least 1, but got {limit}.")
    digests = split_digests(row, data_dir)
    recipe = {
        "format": FORMAT,
        "task": [row.name, row.kind, row.num_labels, DEFAULT_METRICS[row.kind]],
        "files": digests,
        "tokenizer": tokenizer_digest(tokenizer.tokenizer if isinstance(tokenizer, Units) else tokenizer),
        "pad_id": pad_id,
        "prompt": None if prompt is None else [prompt.prefix, prompt.suffix],
        "max_length": max_length,
        "limit": limit,
        "published": row.published,
    }
    if drop_leaks:
        recipe["drop_leaks"] = True
    if isinstance(tokenizer, Units):
        recipe |= tokenizer.recipe()
    elif table := spelling(tokenizer):
        recipe["letters"] = "ACGTN".translate(table)
    if strands != "none":
        recipe["strands"] = strands
    if long != "truncate":
        recipe["long"] = long
    schema = source_schema(row)
    if (case := schema.get("case", "upper")) != "upper":
        recipe["case"] = case
    if schema.get("pairs"):
        recipe["pair"] = SPACER if isinstance(tokenizer, Units) else pair_joint(tokenizer)
    digest = _digest(recipe)
    folder = Path(out).resolve() / f"{row.name.replace('/', '_')}-{digest[:16]}"
    ready = read_prepared(folder)
    if ready is not None:
        return ready
    splits = read_splits(row, data_dir)
    refuse_unknown_bases(tokenizer, backbone)
    meta: dict[str, Any] = {"digest": digest, "recipe": recipe, "marks": _count_marks(row, splits, limit)}
    meta["marks"] |= variant_marks(row, data_dir)
    if row.variant.text:
        meta["variant"] = variant_facts(row, data_dir)
    splits, meta["leaks"] = audited(row.name, splits, meta["marks"], drop=drop_leaks)
    if limit is not None:
        splits = {split: rows.take(_sample(digests[split], rows, limit)) for split, rows in splits.items()}
    names = label_names(row, data_dir)
    meta["marks"] |= look_at_labels(row, splits, split_places(row, data_dir), limit=limit, names=names)
    if names:
        meta["label_names"] = names
    if schema:
        meta["schema"] = schema
    if row.kind == "multilabel":
        meta["undefined_labels"] = _undefined(splits, names)
    with _made_in_parts(folder) as made:
        encoder, longest = Encoder(tokenizer, prompt, max_length, progress, made, long), 0
        readings: dict[str, Reading] = {}
        for split, part in _stranded(splits, strands).items():
            coded = encoder.encode(f"tokenising {row.name} {split}", split, part.sequences)
            if split == "train":
                refuse_same_tokens(row, part, coded.ids, coded.offsets, backbone)
            path = made / f"{split}.arrow"
            if not coded.written:
                encoder.written(split, write_split(path, coded.ids, coded.offsets, part.labels))
            longest = max(longest, coded.longest)
            meta.setdefault("bytes", {})[split] = path.stat().st_size
            if split in splits:
                readings[split] = read(part.sequences, coded.ids, coded.offsets, tokenizer, prompt)
                meta.setdefault("rows", {})[split] = len(part.labels)
                meta.setdefault("longest", {})[split] = int(np.diff(coded.offsets).max())
                meta.setdefault("truncated", {})[split] = coded.cut
                counts = coded.whole, len(coded.ids), len(part.labels), frame_tokens(tokenizer, prompt)
                meta.setdefault("seen", {})[split] = round(seen(*counts, long), 6)
        marks, meta["unread"] = caveats(row.name, backbone, readings)
        meta["marks"] |= marks | _new_token_mark(row, tokenizer, backbone)
        meta["marks"] |= _truncation_mark(row, meta, longest, max_length, long)
        encoder.finish()
        (made / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    prepared = read_prepared(folder)
    assert prepared is not None, folder
    return prepared


def read_prepared(folder: Path | str) -> PreparedTask | None:
    """The metadata of a prepared folder; `None` if it is missing or incomplete."""
    folder = Path(folder).resolve()
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        whole = "leaks" in meta and all(
            (folder / f"{split}.arrow").stat().st_size == size for split, size in meta["bytes"].items()
        )
    except (OSError, ValueError, KeyError):
        return None
    if not whole:
        return None
    name, kind, num_labels, metric = meta["recipe"]["task"]
    return PreparedTask(
        folder=folder,
        name=name,
        kind=kind,
        num_labels=num_labels,
        metric=metric,
        digest=meta["digest"],
        rows=meta["rows"],
        longest=meta["longest"],
        truncated=meta["truncated"],
        marks=meta["marks"],
        leaks=meta["leaks"],
        undefined_labels=meta.get("undefined_labels", {}),
        label_names=meta.get("label_names", ()),
        schema=meta.get("schema", {}),
        variant=meta.get("variant", {}),
        unread=meta.get("unread", {}),
        seen=meta.get("seen", {}),
    )


def open_prepared(folder: Path | str) -> TaskData:
    """Train and dev of a prepared task, memory-mapped. The file of the test split is not opened.

    Raises:
        InputError: If the folder holds no prepared task.
    """
    folder = Path(folder)
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        name, kind, num_labels, metric = meta["recipe"]["task"]
        return TaskData(
            name=name,
            kind=kind,
            num_labels=num_labels,
            metric=metric,
            pad_id=meta["recipe"]["pad_id"],
            train=open_split(folder / "train.arrow"),
            dev=open_split(folder / "dev.arrow"),
            digest=meta["digest"],
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder}: is an incomplete prepared task ({error}); remove it and run again."
        ) from None


def read_recipe(folder: Path | str) -> dict[str, Any]:
    """The inputs of a prepared folder: files, tokenizer, prompt (prefix and suffix, or null), length, limit."""
    recipe: dict[str, Any] = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8"))["recipe"]
    return recipe


def open_reverse_dev(folder: Path | str) -> Split | None:
    """The reverse complements of the dev split, row by row; `None` if the task was prepared without."""
    path = Path(folder) / f"dev{REVERSE}.arrow"
    return open_split(path) if path.exists() else None


def read_label_names(folder: Path | str) -> list[str]:
    """Names of a task's outputs in order; empty if they are numbers."""
    names: list[str] = json.loads((Path(folder) / "meta.json").read_text(encoding="utf-8")).get(
        "label_names", []
    )
    return names


def open_test(folder: Path | str) -> Split:
    """The test split of a prepared task, memory-mapped. For the final stage alone.

    Raises:
        InputError: If the folder holds no prepared task.
    """
    try:
        return open_split(Path(folder) / "test.arrow")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder}: has an incomplete test split ({error}); remove it and run again."
        ) from None


def open_reverse_test(folder: Path | str) -> Split | None:
    """The reverse complements of the test split, as `open_reverse_dev`. For the final stage alone."""
    path = Path(folder) / f"test{REVERSE}.arrow"
    return open_split(path) if path.exists() else None


def tokenizer_digest(tokenizer: Any) -> str:
    """sha256 of vocabulary, rules and special tokens, without padding and truncation settings."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    for transient in ("padding", "truncation"):
        rules.pop(transient, None)
    return _digest(
        [type(tokenizer).__name__, rules, {k: str(v) for k, v in tokenizer.special_tokens_map.items()}]
    )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _stranded(splits: Mapping[str, Rows], strands: Strands) -> dict[str, Rows]:
    """The splits to write: reverse complements are appended to train, and separate for dev and test."""
    made: dict[str, Rows] = {}
    for split, rows in splits.items():
        turned = OtherStrand(rows.sequences)
        if split == "train" and strands in ("train", "both"):
            both = Concatenated(rows.sequences, turned)
            made[split] = Rows(both, np.concatenate([rows.labels, rows.labels]))
        else:
            made[split] = rows
        if split != "train" and strands in ("test", "both"):
            made[split + REVERSE] = Rows(turned, rows.labels)
    return made


def _undefined(splits: Mapping[str, Rows], names: Sequence[str]) -> dict[str, list[str]]:
    """Names of the labels that are constant in a split."""
    found = {}
    for split, rows in splits.items():
        found[split] = [names[i] for i in np.flatnonzero(constant_outputs(rows)).tolist()]
    return found


def _sample(digest: str, rows: Rows, limit: int) -> NDArray[np.int64]:
    """`limit` row indices that depend on the file alone; a smaller limit gives a prefix of them."""
    return np.random.default_rng(int(digest[:16], 16)).permutation(len(rows.labels))[:limit]


def _count_marks(row: TaskRow, splits: Mapping[str, Rows], limit: int | None) -> dict[str, str]:
    marks: dict[str, str] = {}
    marks |= source_marks(row)
    if row.generated:
        marks["generated data"] = f"{row.name} is generated DNA with planted motifs."
    changed = [
        f"{split} has {len(splits[split].labels):,} rows (published {published:,})"
        for split, published in row.published.items()
        if len(splits[split].labels) != published
    ]
    if changed:
        marks["changed split"] = (
            f"{row.name}: {', '.join(changed)}; scores do not compare with published ones."
        )
    if limit is not None:
        marks["smoke"] = f"{row.name}: only the first {limit:,} rows of each shuffled split (--limit)."
    return marks


def _new_token_mark(row: TaskRow, tokenizer: Any, backbone: str) -> dict[str, str]:
    if not isinstance(tokenizer, Units) or not tokenizer.new or not backbone:
        return {}
    return {
        "random embeddings": f"{row.name}: the vocabulary of {backbone} lacks the tokens of {tokenizer.scheme}; the "
        f"embeddings of {tokenizer.new:,} new ones are random, and adapters leave them so."
    }


def _truncation_mark(
    row: TaskRow, meta: Mapping[str, Any], longest: int, max_length: int | None, long: Long
) -> dict[str, str]:
    cut: Mapping[str, int] = meta["truncated"]
    parts = [f"{number:,} of {meta['rows'][split]:,} in {split}" for split, number in cut.items() if number]
    if not parts:
        return {}
    how = "their middle of" if long == "center" else ""
    return {
        "truncated": f"{row.name}: sequences are cut to {how}{' ' * bool(how)}the backbone's {max_length:,} tokens "
        f"({', '.join(parts)}; the longest has {longest:,}; of train {meta['seen']['train']:.0%} is read). "
        "`--long chunk` reads all."
    }


@contextmanager
def _made_in_parts(folder: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `folder` when the block succeeds, and removed on an error.

    An interruption leaves it in place, and the next preparation with the same inputs continues there. It is locked: a
    second process with the same inputs uses a folder of its own.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}.part")
    made.mkdir(exist_ok=True)
    handle = os.open(made, os.O_RDONLY)
    try:
        mine = lock_descriptor(handle, blocking=False)
        if not mine or not made.is_dir() or not os.path.samestat(os.fstat(handle), made.stat()):
            made = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
            made.chmod(0o755)
        try:
            yield made
            if folder.exists() and read_prepared(folder) is None:
                shutil.rmtree(folder)
            try:
                made.rename(folder)
            except OSError:
                if read_prepared(folder) is None:
                    raise
        except Exception:
            shutil.rmtree(made, ignore_errors=True)
            raise
        if made.exists():
            shutil.rmtree(made, ignore_errors=True)
    finally:
        os.close(handle)
