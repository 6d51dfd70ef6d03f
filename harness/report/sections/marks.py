"""What each mark on a result means to its reader."""

from harness.data.split_checks import UNDEFINED, UNSEEN
from harness.runs.intervals import NO_BETTER

MARKS = {
    "smoke": "only the first rows of each split were used (--limit): a check that the machinery runs, not a result.",
    "changed split": "the splits are not the published ones (rows taken out or of another number): compare such scores "
    "with each other, not with published ones.",
    "untrained backbone": "the backbone has random weights: its scores say nothing about a pretrained model.",
    "overlapping splits": "dev or test rows stand in the training split as well, on one of the strands, as published; "
    "scores flatter every method a little. --drop-leaks takes those rows out of train.",
    "truncated": "sequences were cut to what the backbone can read; signal beyond the cut is lost.",
    "generated data": "the DNA was made by this program with planted motifs: scores say nothing about biology.",
    "cut split": "splits that were missing were cut from the training rows by this program.",
    "cut by budget": "a budget of time, GPU-hours or cost ended the trial before its last epoch; with a larger budget "
    "it might have scored higher.",
    UNDEFINED: "every row of the test split has the same label: the metric is undefined on it, and "
    "nothing says how good these models are.",
    UNSEEN: "dev or test has labels that no training row has, which no model can predict.",
    NO_BETTER: "a prediction that is the same for every row (train's largest class, or its mean) scores as well on the "
    "test split, by the study's metric or by its squared error.",
    "no model dropout": "every weight was trained without the dropout that the model's own configuration asks for "
    "(fact model_dropout), as frozen backbones run; with it full fine-tuning might score otherwise.",
    "selected on test": "the configuration was chosen by test scores, as some published results are: it flatters.",
}
"""Known marks. Others are shown with the words that the run gave them."""

UNKNOWN = "set by the run; the log of its preparation says why."


def meaning(mark: str) -> str:
    """What a mark means; by its beginning where it carries details (`changed split: …`)."""
    return MARKS.get(mark) or next((text for name, text in MARKS.items() if mark.startswith(name)), UNKNOWN)
