"""Model cards: the facts of an export as a page, with a program that loads it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from lingo.methods import METHODS

FACTS, HEAD, ROWS = "lingo.json", "head.safetensors", "embeddings.safetensors"
"""Files of an export: its facts, the head, and embedding rows that the backbone lacks."""

POOLED = {
    "last": "hidden[range(len(hidden)), inputs.attention_mask.sum(1) - 1]",
    "first": "hidden[:, 0]",
    "mean": "(hidden * inputs.attention_mask[..., None]).sum(1) / inputs.attention_mask.sum(1)[:, None]",
}
POOLED["max"] = "hidden.masked_fill(inputs.attention_mask[..., None] == 0, -torch.inf).amax(1)"
POOLED["strands"] = (
    f"{POOLED['mean']}\npooled = (pooled.chunk(2, -1)[0] + pooled.chunk(2, -1)[1].flip(-1)) / 2  # both strands"
)
ADD_ROWS = f"""\
# embeddings of the tokens that the backbone does not have
rows, old = load_file('{ROWS}')['rows'], model.get_input_embeddings()
weight = torch.cat([old.weight.data, rows.to(old.weight)])
model.set_input_embeddings(torch.nn.Embedding.from_pretrained(weight, padding_idx=old.padding_idx))"""
SPELLED = {
    "one_hot": "Each base of the sequence is one token, in the order A, T, C, G, N",
    "kmer": "Each 6-mer of the sequence is one token, cut from the left without overlap, what is left over and N "
    "base by base; 6-mers in the order AAAAAA, AAAAAT, AAAAAC, … (A, T, C, G), then A, T, C, G, N",
}


def source_of(source: str) -> tuple[str, str | None]:
    """(hub id or folder, commit or None) under which transformers finds a backbone, from `Backbone.source`."""
    name, at, commit = source.rpartition("@")
    hub = at and not Path(source).is_dir() and not source.startswith(("/", "."))
    return (name, commit) if hub else (source, None)


def card_text(
    facts: Mapping[str, Any],
    tables: Mapping[str, Mapping[str, Any]],
    *,
    marks: Sequence[str] = (),
    results: Sequence[EvalResult] = (),
) -> str:
    """The model card of an export.

    Args:
        facts: The content of its `lingo.json`.
        tables: Measured facts, arbitrarily nested, by heading; empty ones are left out.
        marks: Caveats, one line each.
        results: Scores for the page's front matter, as the Hugging Face hub reads them.
    """
    backbone = facts["backbone"]
    sections = [
        _front(facts, results),
        f"# {_title(facts)}",
        *(f"**{mark}**" for mark in [*_marks(facts), *marks]),
        f"## Use\n\n{_predict(facts)}\n\n{_with_peft(facts)}",
        _input(facts),
        *(f"## {heading}\n\n{_table(table)}" for heading, table in tables.items() if table),
        f"## Training\n\n{_table(_backbone(backbone, facts['data_digest']) | facts['training'])}",
    ]
    return "\n\n".join(sections) + "\n"


def _title(facts: Mapping[str, Any]) -> str:
    method = METHODS[facts["config"]["method"]].title
    return f"{method} of {Path(facts['backbone']['name']).name} for {facts['task']}"


def _front(facts: Mapping[str, Any], results: Sequence[EvalResult]) -> str:
    merged = facts["layout"] in ("merged", "probe")
    data = ModelCardData(
        base_model=source_of(facts["backbone"]["source"])[0],
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-classification",
        tags=["dna", "genomics", facts["config"]["method"], facts["layout"]],
        model_name=_title(facts) if results else None,
        eval_results=list(results) or None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _marks(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts["backbone"]["trained"]:
        yield "The backbone has random weights: for demonstrations only."
    if facts["step"] < facts["total_steps"]:
        yield f"Training had not ended: step {facts['step']} of {facts['total_steps']}."


def _predict(facts: Mapping[str, Any]) -> str:
    given = "" if facts["layout"] == "merged" else " (`--backbone FOLDER` where it lies elsewhere now)"
    return (
        f"On DNA in FASTA, CSV or Parquet, with the input built as in training{given}:\n\n```bash\n"
        "lingo-bench predict --adapter . --input sequences.fa --output predictions.csv\n```\n\n"
        "In Python, `lingo.predict.open_adapter('.').predict(sequences)` gives the same probabilities."
    )


def _with_peft(facts: Mapping[str, Any]) -> str:
    library = "transformers" if facts["layout"] in ("merged", "probe") else "peft and transformers"
    return f"With {library} alone, inside this folder:\n\n```python\n{_code(facts)}\n```"


def _code(facts: Mapping[str, Any]) -> str:
    """A program that runs inside the folder and computes `logits` of `inputs`."""
    name, commit = source_of(facts["backbone"]["source"])
    load, merged = facts["load"], facts["layout"] == "merged"
    adapted = facts["layout"] not in ("merged", "probe")
    separate, rows = facts["head"] == HEAD, not merged and _new_tokens(facts) > 0
    options: dict[str, Any] = {"revision": None if merged else commit}
    if not load["own"] and (separate or not merged):
        options |= load["options"]
    arguments = [repr("." if merged else name)] + [f"{k}={v!r}" for k, v in options.items() if v is not None]
    call = "load_backbone({}).model" if load["own"] else f"{load['auto']}.from_pretrained({{}})"
    lines = [
        *(["import torch"] if rows or facts["pooling"] == "max" else []),
        *(["from peft import PeftModel"] if adapted else []),
        *(["from safetensors.torch import load_file"] if separate or rows else []),
        *([] if load["own"] else [f"from transformers import {load['auto']}"]),
        *(["from lingo.backbones import load_backbone"] if load["own"] else []),
        "",
        f"model = {call.format(', '.join(arguments))}",
        *([ADD_ROWS] if rows else []),
        *(["model = PeftModel.from_pretrained(model, '.')"] if adapted else []),
        "model.eval()",
        "# inputs: input_ids and attention_mask, padded on the right, of uniform letters (see below)",
    ]
    if separate:
        lines += [
            *_hidden(facts.get("depth", 1.0)),
            f"pooled = {POOLED[facts['pooling']]}",
            f"head = load_file('{HEAD}')",
            f"logits = pooled @ head['weight'].T{' + head[' + repr('bias') + ']' if facts['format'] > 2 else ''}",
        ]
    else:  # of version 0.1.0
        lines.append("logits = model(**inputs).logits")
    if scale := facts.get("target"):
        lines.append(f"logits = logits * {scale['sd']!r} + {scale['mean']!r}  # in the unit of the targets")
    return "\n".join(lines)


def _hidden(depth: float) -> list[str]:
    """Lines that compute the states of a layer, a share of all, see `lingo.layer_states.layer_number`."""
    if depth >= 1:
        return ["hidden = model(**inputs).last_hidden_state"]
    return [
        "states = model(**inputs, output_hidden_states=True).hidden_states",
        f"hidden = states[min(len(states) - 1, max(1, round({depth!r} * (len(states) - 1))))]",
    ]


def _new_tokens(facts: Mapping[str, Any]) -> int:
    return int((facts["tokenization"] or {}).get("new_tokens", 0))


CUT = {
    "truncate": "cut to {} tokens by shortening the sequence",
    "center": "cut to {} tokens in the middle of the sequence",
    "chunk": "in overlapping chunks of {} tokens, whose pooled states are averaged (`lingo.long_sequences`)",
}


def _input(facts: Mapping[str, Any]) -> str:
    prompt, length = facts["prompt"], facts["max_length"]
    text = f"{prompt['prefix']}{{sequence}}{prompt['suffix']}" if prompt else "{sequence}"
    cut = CUT[facts.get("long", "truncate")].format(length) if length else "never cut"
    strands = (
        "Predictions are the mean of those of the sequence and of its reverse complement. "
        if facts["both_strands"]
        else ""
    )
    return (
        f"## Input and output\n\nThe tokenizer reads `{json.dumps(text)}` (a JSON string), {cut}, padded on "
        f"the right with id {facts['pad_token_id']}. {_tokens(facts)}{_letters(facts)}The head "
        f"reads the {facts['pooling']} hidden state and gives {facts['num_labels']} outputs "
        f"({facts['problem_type']}{_names(facts['labels'])}). "
        f"{_unit(facts.get('target'))}{strands}{_thresholds(facts)}`lingo.json` has the same for programs."
    )


def _tokens(facts: Mapping[str, Any]) -> str:
    recipe = facts["tokenization"]
    if not recipe:
        return ""
    if not recipe["new_tokens"]:
        return f"{SPELLED[recipe['tokenization']]}; all of them are in the tokenizer's vocabulary. "
    return (
        f"{SPELLED[recipe['tokenization']]}, from id {recipe['first_id']} on: their embeddings are the "
        f"{recipe['new_tokens']} rows of `{ROWS}`, which go behind the backbone's. "
    )


LETTERS = {
    "upper": "Lower case was raised, U read as T, and every other ambiguous code as N",
    "mask": "Lower case was read as N, U as T, and every other ambiguous code as N",
    "keep": "Lower case was kept, U read as T, and every other ambiguous code as N",
}


def _letters(facts: Mapping[str, Any]) -> str:
    """How training changed letters, which plain peft does not do."""
    pair = facts.get("pair")
    joint = f"The two sequences of a pair are one text with `{pair}` between them. " if pair else ""
    how = f"`lingo.sequences.uniform(sequence, {facts.get('case', 'upper')!r})`"
    return f"{joint}{LETTERS[facts.get('case', 'upper')]}: {how} does the same, as `predict` does. "


def _thresholds(facts: Mapping[str, Any]) -> str:
    if not (found := facts.get("thresholds")):
        return ""
    names = facts["labels"] or [str(i) for i in range(facts["num_labels"])]
    each = zip(names[-1:] if len(found) == 1 < len(names) else names, found, strict=True)
    told = ", ".join(f"{name} from {value:.4g}" for name, value in each)
    return f"What is predicted was decided on dev: {told}. "


def _unit(scale: Mapping[str, float | Sequence[float]] | None) -> str:
    if not scale:
        return ""
    sd, mean = (_numbers(scale[name]) for name in ("sd", "mean"))
    return (
        f"It was trained on standardised targets: a value is the output times {sd}, the training targets' "
        f"standard deviation, plus {mean}, their mean. "
    )


def _numbers(value: float | Sequence[float]) -> str:
    """A number, or one for each target."""
    return f"{value:g}" if isinstance(value, int | float) else ", ".join(f"{one:g}" for one in value)


def _names(labels: Sequence[str] | None) -> str:
    return f": {', '.join(labels)}" if labels else ""


def _backbone(backbone: Mapping[str, Any], data_digest: str) -> dict[str, Any]:
    name, commit = source_of(backbone["source"])
    facts = {
        "backbone": name,
        "backbone revision": commit,
        "backbone digest": backbone["digest"],
        "backbone licence": backbone["licence"],
        "backbone weights": backbone["dtype"],
        "data digest": data_digest or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name} | {value} |" for name, value in _flat(facts)]
    return "\n".join(["| | |", "| --- | --- |", *rows])


def _flat(facts: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            yield f"{before}{_cell(name)}", _cell(text)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", "<br>")
