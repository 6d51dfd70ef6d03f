"""Tokenizers of DNA models whose checkpoints have custom code for them, which is never run.

Each is built from the rule of its model's vocabulary, and gives the ids of the public code. A folder's
`tokenizer.json`, which transformers reads, takes precedence.
"""

import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer

from lingo.text_files import read_json, read_text

ORDER = "ATCG"
"""Bases in the order of all k-mer vocabularies here; the first base is the most significant."""

NO_LIMIT = 10**30
"""Default of `model_max_length` in transformers."""

LETTERS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]", *"ACGTN")

_NAMES = "oov s /s pad mask bog eog bok eok + - mam vrt inv pln fng prt cds pseudo tRNA rRNA ncRNA misc_RNA"
GENERATOR_SPECIAL = tuple(f"<{name}>" for name in (*_NAMES.split(), *(f"sp{i}" for i in range(9))))
"""Of the first releases; later ones use the ids from 11 on for other tokens."""

DNABERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
DNABERT_LENGTH = 512

CARBON_TAGS = ("<dna>", "</dna>")
CARBON_FIRST = 151_669
"""Tokens of the language that Carbon's tokenizer begins with."""
CARBON_ROWS = 155_776
CARBON_PAD = "<|endoftext|>"
CARBON_SIGN = "dna:"


def kmers(k: int) -> list[str]:
    """All k-mers in the order of their ids."""
    return ["".join(letters) for letters in product(ORDER, repeat=k)]


def letters(*, upper: bool, max_length: int = NO_LIMIT) -> PreTrainedTokenizerFast:
    """HyenaDNA's tokenizer, or Caduceus' (`upper`: lower case is read as upper case): one id a character and [SEP]."""
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(LETTERS)}, unk_token="[UNK]"))
    if upper:
        inner.normalizer = normalizers.Sequence([_upper(letter) for letter in string.ascii_lowercase])
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    inner.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=max_length,
        padding_side="right",
        cls_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        bos_token="[BOS]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        unk_token="[UNK]",
        additional_special_tokens=["[RESERVED]"],
    )


def _upper(letter: str) -> normalizers.Normalizer:
    return normalizers.Replace(letter, letter.upper())


def generator(
    special: Sequence[str] = GENERATOR_SPECIAL, *, max_length: int = NO_LIMIT
) -> PreTrainedTokenizerFast:
    """GENERator's tokenizer: 6-mers without overlap from the left; what is left over, 1 to 5 bases, is one unknown
    token, as is a 6-mer with another letter than A, C, G and T.

    Args:
        special: The 32 tokens before the 6-mers.
        max_length: Its `model_max_length`.
    """
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*special, *kmers(6)])}, unk_token=special[0])
    )
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[A-Z]{1,6}|[^A-Z]"), "isolated")
    inner.post_processor = processors.TemplateProcessing(
        single=f"{special[1]} $A {special[2]}", special_tokens=[(special[1], 1), (special[2], 2)]
    )
    named = dict(zip(("unk", "bos", "eos", "pad", "mask"), special, strict=False))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=max_length,
        padding_side="right",
        additional_special_tokens=list(special[5:]),
        **{f"{name}_token": token for name, token in named.items()},
    )


class DNABert1Tokenizer(PreTrainedTokenizer):
    """DNABERT's tokenizer (doi:10.1093/bioinformatics/btab083): overlapping k-mers between [CLS] and [SEP].

    It reads plain sequences; a k-mer with another letter than A, C, G and T is unknown, and fewer than k bases are no
    token at all.
    """

    vocab_files_names = {"vocab_file": "vocab.txt"}  # noqa: RUF012 (as transformers declares it)
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, k: int = 6, **options: Any) -> None:
        self.k = k
        self._words = [*DNABERT_SPECIAL, *kmers(k)]
        self._ids = {word: number for number, word in enumerate(self._words)}
        names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
        given = dict(zip(names, DNABERT_SPECIAL, strict=True)) | {"padding_side": "right"}
        super().__init__(k=k, **given | options)

    @property
    def vocab_size(self) -> int:
        """Tokens."""
        return len(self._words)

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return dict(self._ids)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        return [text[at : at + self.k] for at in range(len(text) - self.k + 1)]

    def _convert_token_to_id(self, token: str) -> int:
        return self._ids.get(token, 1)

    def _convert_id_to_token(self, index: int) -> str:
        return self._words[index]

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """[CLS] ids [SEP]."""
        return [2, *token_ids_0, 3]

    def save_vocabulary(self, save_directory: str, filename_prefix: str | None = None) -> tuple[str]:
        """Write vocab.txt, from which `own_tokenizer` knows this tokenizer."""
        path = Path(save_directory) / f"{filename_prefix or ''}vocab.txt"
        path.write_text("\n".join(self._words) + "\n", encoding="utf-8")
        return (str(path),)


class CarbonTokenizer(PreTrainedTokenizer):
    """Carbon's tokenizer: byte pairs of a language, and 6-mers between `<dna>` and `</dna>`.

    DNA is read in upper case; a last piece of 1 to 5 bases is filled up with A on its right, and a 6-mer with another
    letter than A, C, G and T is `<oov>`. A missing `</dna>` stands at the end, a missing `<dna>` at the start. No
    special token is ever added.

    Args:
        bpe: The language's tokenizer, of ids below `first`.
        first: Id of `<dna>`, before `</dna>`, `<oov>` and the 6-mers.
        options: As `PreTrainedTokenizer` takes them.
    """

    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012 (as transformers declares it)
    dna_tags = CARBON_TAGS
    """What `lingo.tokenization.tokenize` puts around a sequence."""

    def __init__(self, bpe: Any, first: int = CARBON_FIRST, **options: Any) -> None:
        self.bpe, self.first = bpe, first
        # A 6-mer has another id than the same letters of the language: 6-mers are spelt with a sign before them.
        own = [*CARBON_TAGS, "<oov>", *(f"{CARBON_SIGN}{kmer}" for kmer in kmers(6))]
        self._own = {word: first + number for number, word in enumerate(own)}
        self._own_words = own
        pad = {"pad_token": CARBON_PAD, "eos_token": CARBON_PAD} if CARBON_PAD in bpe.get_vocab() else {}
        super().__init__(**{"padding_side": "right", "unk_token": "<oov>"} | pad | options)

    @property
    def vocab_size(self) -> int:
        """Ids, those that only fill up a multiple of 128 included."""
        return -(-(self.first + len(self._own)) // 128) * 128

    def get_vocab(self) -> dict[str, int]:
        """Token to id."""
        return self.bpe.get_vocab() | self._own

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        begin, end = CARBON_TAGS
        found: list[str] = []
        rest, inside = "", False
        for piece in re.split(f"({begin}|{end})", text):
            if piece not in CARBON_TAGS:
                rest = piece
                continue
            found += [*self._piece(rest, dna=inside or piece == end), piece]
            inside, rest = piece == begin, ""
        return found + self._piece(rest, dna=inside)

    def _piece(self, text: str, *, dna: bool) -> list[str]:
        if not dna:
            return list(self.bpe.tokenize(text)) if text else []
        text = text.strip().upper()
        words = [f"{CARBON_SIGN}{text[at : at + 6].ljust(6, 'A')}" for at in range(0, len(text), 6)]
        return [word if word in self._own else "<oov>" for word in words]

    def _convert_token_to_id(self, token: str) -> int:
        if token in self._own:
            return self._own[token]
        found: int = self.bpe.convert_tokens_to_ids(token)
        return found

    def _convert_id_to_token(self, index: int) -> str:
        if 0 <= index - self.first < len(self._own_words):
            return self._own_words[index - self.first]
        return str(self.bpe.convert_ids_to_tokens(index))

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """The unchanged ids."""
        return token_ids_0

    def save_pretrained(self, save_directory: Any, *args: Any, **options: Any) -> Any:
        """Write the language's files, and settings by which `own_tokenizer` knows this tokenizer."""
        written = self.bpe.save_pretrained(save_directory, *args, **options)
        path = Path(save_directory) / "tokenizer_config.json"
        settings = read_json(path) | {
            "tokenizer_class": type(self).__name__,
            "first_dna_id": self.first,
            "model_max_length": self.model_max_length,
        }
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
        return written


def own_tokenizer(folder: Path) -> Any:
    """The tokenizer that this module builds for a backbone's folder, or `None` if transformers reads its files."""
    build = _builder(folder)
    return build() if build else None


def is_built(folder: Path) -> bool:
    """Whether a backbone's tokenizer is built here without a tokenizer file."""
    has_own = any((folder / name).exists() for name in ("vocab.txt", "vocab.json", "tokenizer.json"))
    return not has_own and _builder(folder) is not None


def _builder(folder: Path) -> Callable[[], Any] | None:
    settings, config = (_fields(folder / name) for name in ("tokenizer_config.json", "config.json"))
    told = settings.get("model_max_length")
    length = told if isinstance(told, int) and told > 0 else NO_LIMIT
    name = _class_name(settings)
    if name == CarbonTokenizer.__name__ or (
        config.get("vocab_size") == CARBON_ROWS and "auto_map" in settings
    ):
        first = settings.get("first_dna_id", CARBON_FIRST)
        return lambda: CarbonTokenizer(_language(folder), first, model_max_length=length)
    if (folder / "tokenizer.json").exists():
        return None
    if name == "CaduceusTokenizer" or "rcps" in config:
        return lambda: letters(upper=True, max_length=length)
    if name == "HyenaDNATokenizer" or config.get("model_type") == "hyenadna":
        return lambda: letters(upper=False, max_length=length)
    if name == "DNAKmerTokenizer":
        return lambda: generator(_special(settings), max_length=length)
    if k := _dnabert_k(folder / "vocab.txt"):
        return lambda: DNABert1Tokenizer(k, model_max_length=min(length, DNABERT_LENGTH))
    return None


def _language(folder: Path) -> Any:
    """The tokenizer of byte pairs in a folder, whatever class its settings name."""
    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    return Qwen2Tokenizer(vocab=str(folder / "vocab.json"), merges=str(folder / "merges.txt"))


def _fields(path: Path) -> Mapping[str, Any]:
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_name(settings: Mapping[str, Any]) -> str:
    """The class that tokenizer_config.json names."""
    code = settings.get("auto_map")
    named = code.get("AutoTokenizer") if isinstance(code, Mapping) else None
    first = next((name for name in named if name), "") if isinstance(named, list) else named
    return str(first or settings.get("tokenizer_class") or "").rpartition(".")[2]


def _special(settings: Mapping[str, Any]) -> list[str]:
    """GENERator's special tokens, those of tokenizer_config.json where it names them."""
    added = settings.get("added_tokens_decoder")
    words = list(GENERATOR_SPECIAL)
    for number, token in added.items() if isinstance(added, Mapping) else ():
        content = token.get("content") if isinstance(token, Mapping) else token
        if str(number).isdecimal() and int(number) < len(words) and isinstance(content, str):
            words[int(number)] = content
    return words


def _dnabert_k(vocabulary: Path) -> int | None:
    """k of a vocab.txt that is DNABERT's, else `None`."""
    try:
        words = read_text(vocabulary).split()
    except (OSError, ValueError):
        return None
    rest = len(words) - len(DNABERT_SPECIAL)
    k = (rest.bit_length() - 1) // 2
    return k if 3 <= k <= 6 and words == [*DNABERT_SPECIAL, *kmers(k)] else None
