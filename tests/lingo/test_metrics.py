import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import expit, softmax
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from lingo.metrics import CALIBRATION_BINS, NAMES, calibration_error, constant_scores, reliability, score


def make(rows, classes, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, rows)
    labels[:classes] = np.arange(classes)
    return rng.normal(size=(rows, classes)) + 1.0 * np.eye(classes)[labels], labels


@pytest.mark.parametrize("seed", range(3))
def test_two_classes_against_scikit_learn(seed):
    logits, labels = make(200, 2, seed)
    predicted, probability = logits.argmax(1), softmax(logits, axis=1)
    assert score("classification", logits, labels) == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "f1": sk.f1_score(labels, predicted, average="macro"),
            "mcc": sk.matthews_corrcoef(labels, predicted),
            "auroc": sk.roc_auc_score(labels, probability[:, 1]),
            "auprc": sk.average_precision_score(labels, probability[:, 1]),
            "brier": sk.brier_score_loss(labels, probability[:, 1]),
            "ece": calibration_error(reliability("classification", logits, labels)),
            "nll": sk.log_loss(labels, probability),
            "loss": sk.log_loss(labels, probability),
            "collapsed": 0.0,
        },
        abs=1e-12,
    )


@pytest.mark.parametrize("classes", [3, 9])
def test_more_classes_against_scikit_learn(classes):
    logits, labels = make(400, classes)
    probability = softmax(logits, axis=1)
    found = score("classification", logits, labels)
    one_hot = np.eye(classes)[labels]
    assert found["auroc"] == pytest.approx(
        sk.roc_auc_score(labels, probability, multi_class="ovr"), abs=1e-12
    )
    assert found["auprc"] == pytest.approx(sk.average_precision_score(one_hot, probability), abs=1e-12)
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, logits.argmax(1)), abs=1e-12)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, logits.argmax(1), average="macro"), abs=1e-12)


def test_losses_equal_torch():
    logits, labels = make(50, 3)
    outputs = torch.from_numpy(logits)
    expected = torch.nn.functional.cross_entropy(outputs, torch.from_numpy(labels)).item()
    assert score("classification", logits, labels)["loss"] == pytest.approx(expected, abs=1e-12)
    many = (np.random.default_rng(1).random(logits.shape) < 0.3).astype(np.float32)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        outputs, torch.from_numpy(many).double()
    ).item()
    assert score("multilabel", logits, many)["loss"] == pytest.approx(expected, abs=1e-12)


def test_large_logits_neither_overflow_nor_saturate():
    logits = np.array([[0.0, 800.0], [0.0, 900.0], [0.0, 1000.0], [1e4, 0.0]], dtype=np.float32)
    found = score("classification", logits, np.array([0, 1, 1, 0]))
    # As probabilities the first three are all exactly 1: a tie, and an AUROC of 0.75.
    assert found["auroc"] == 1.0
    assert found["loss"] == pytest.approx(800 / 4)
    labels = np.array([[0, 1], [0, 1], [1, 1], [1, 0]])
    assert score("multilabel", logits, labels)["loss"] == pytest.approx(4 * math.log(2) / 8)


def test_one_class_predicted_is_collapsed():
    found = score("classification", np.array([[1.0, 0.0]] * 4), np.array([0, 1, 0, 1]))
    assert (
        found["collapsed"] == 1.0
        and found["mcc"] == 0.0
        and found["accuracy"] == 0.5
        and found["auroc"] == 0.5
    )


def test_one_class_in_the_labels_leaves_scores_undefined():
    logits, _ = make(20, 2)
    found = score("classification", logits, np.zeros(20, np.int64))
    assert math.isnan(found["mcc"]) and math.isnan(found["auroc"]) and math.isnan(found["auprc"])
    assert found["loss"] > 0 and found["collapsed"] == 0.0


def test_absent_class_leaves_macro_curves_undefined():
    logits, labels = make(60, 3)
    found = score("classification", logits[labels < 2], labels[labels < 2])
    assert math.isnan(found["auroc"]) and math.isnan(found["auprc"]) and not math.isnan(found["mcc"])


def test_multilabel_leaves_out_labels_of_one_class():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(100, 5))
    labels = (rng.random((100, 5)) < 0.3).astype(np.float32)
    labels[:, 1], labels[:, 3] = 0, 1
    found = score("multilabel", logits, labels)
    kept = [0, 2, 4]
    auroc = [sk.roc_auc_score(labels[:, k], logits[:, k]) for k in kept]
    auprc = [sk.average_precision_score(labels[:, k], logits[:, k]) for k in kept]
    assert found["undefined_labels"] == 2
    assert found["auroc"] == pytest.approx(np.mean(auroc)) and found["auroc_median"] == pytest.approx(
        np.median(auroc)
    )
    assert found["auprc"] == pytest.approx(np.mean(auprc)) and found["auprc_median"] == pytest.approx(
        np.median(auprc)
    )
    assert found["collapsed"] == 0.0
    nothing = score("multilabel", logits, np.zeros_like(labels))
    assert math.isnan(nothing["auroc"]) and nothing["undefined_labels"] == 5
    assert score("multilabel", logits - 9, labels)["collapsed"] == 1.0


@pytest.mark.parametrize("shape", [(50,), (50, 1)])
def test_regression_against_scipy(shape):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=50).astype(np.float32)
    outputs = truth + rng.normal(size=50)
    found = score("regression", outputs.reshape(shape), truth)
    assert found["pearson"] == pytest.approx(stats.pearsonr(outputs, truth).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(outputs, truth).statistic)
    assert found["mse"] == found["loss"] == pytest.approx(sk.mean_squared_error(truth, outputs))


def test_constant_regression_is_undefined_and_collapsed():
    found = score("regression", np.ones(4), np.arange(4, dtype=np.float32))
    assert math.isnan(found["pearson"]) and math.isnan(found["spearman"]) and found["collapsed"] == 1.0


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("case", ["empty", "nan", "good"])
def test_names_are_the_same_whatever_is_defined(kind, case):
    logits, labels = make(12, 2)
    if kind == "multilabel":
        labels = np.eye(2, dtype=np.float32)[labels]
    if kind == "regression":
        logits, labels = logits[:, :1], labels.astype(np.float32)
    if case == "empty":
        logits, labels = logits[:0], labels[:0]
    if case == "nan":
        logits[3] = np.inf
    found = score(kind, logits, labels)
    assert tuple(found) == NAMES[kind]
    assert all(type(value) is float for value in found.values())
    assert all(math.isnan(value) for value in found.values()) == (case != "good")


def test_float32_logits_are_scored_in_float64():
    logits, labels = make(100, 2)
    low = logits.astype(np.float32)
    assert score("classification", low, labels) == score("classification", low.astype(np.float64), labels)


@pytest.mark.parametrize(
    ("kind", "logits", "labels", "message"),
    [
        ("ranking", (4, 2), np.zeros(4, int), "`kind` must be one of"),
        ("classification", (4, 2), np.zeros(5, int), r"but got \[4, 2\] and \[5\]"),
        ("classification", (4,), np.zeros(4, int), r"but got \[4\] and \[4\]"),
        ("classification", (4, 2), np.full(4, 2), "`labels` must be 0 to 1, but got 2 to 2"),
        ("multilabel", (4, 2), np.zeros((4, 3)), r"but got \[4, 2\] and \[4, 3\]"),
        ("regression", (4, 2), np.zeros(4), r"but got \[4, 2\] and \[4\]"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(kind, logits, labels, message):
    with pytest.raises(ValueError, match=message):
        score(kind, np.zeros(logits), labels)


@pytest.mark.parametrize("classes", [2, 4])
def test_probabilities_against_scikit_learn(classes):
    logits, labels = make(400, classes)
    chances = softmax(logits, axis=1)
    found = score("classification", logits, labels)
    expected = sk.brier_score_loss(labels, chances[:, 1] if classes == 2 else chances, scale_by_half=True)
    assert found["brier"] == pytest.approx(expected, abs=1e-12)
    assert found["nll"] == found["loss"] == pytest.approx(sk.log_loss(labels, chances), abs=1e-12)
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == labels
    observed, mean = calibration_curve(right, sure, n_bins=CALIBRATION_BINS, strategy="uniform")
    held = reliability("classification", logits, labels)
    assert held["observed"] == pytest.approx(observed) and held["probability"] == pytest.approx(mean)
    assert sum(held["predictions"]) == 400
    assert found["ece"] == pytest.approx(np.average(abs(observed - mean), weights=held["predictions"]))


def test_probabilities_of_several_labels_against_scikit_learn():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(300, 4)), (rng.random((300, 4)) < 0.3).astype(np.float64)
    chances, found = expit(logits), score("multilabel", logits, labels)
    each = [sk.brier_score_loss(labels[:, i], chances[:, i]) for i in range(4)]
    assert found["brier"] == pytest.approx(np.mean(each), abs=1e-12)
    assert found["f1"] == pytest.approx(sk.f1_score(labels, logits > 0, average="macro"), abs=1e-12)
    observed, mean = calibration_curve(labels.ravel(), chances.ravel(), n_bins=CALIBRATION_BINS)
    counts = np.histogram(chances, bins=np.linspace(0, 1, CALIBRATION_BINS + 1))[0]
    expected = np.average(abs(observed - mean), weights=counts[counts > 0])
    assert found["ece"] == pytest.approx(expected, abs=1e-12)
    holes = np.where(rng.random(labels.shape) < 0.2, np.nan, labels)
    seen = ~np.isnan(holes)
    partial = score("multilabel", logits, holes)
    each = [sk.f1_score(labels[k, i], logits[k, i] > 0) for i, k in enumerate(seen.T)]
    assert partial["f1"] == pytest.approx(np.mean(each), abs=1e-12)
    assert partial["ece"] == pytest.approx(
        calibration_error(reliability("multilabel", logits[seen][:, None], holes[seen][:, None])), abs=1e-12
    )


def test_a_calibrated_model_has_a_small_error_and_a_sure_one_a_large():
    rng = np.random.default_rng(0)
    logits = np.stack([np.zeros(20_000), rng.normal(size=20_000) * 2], axis=1)
    labels = (rng.random(20_000) < expit(logits[:, 1])).astype(int)
    honest, sure = score("classification", logits, labels), score("classification", logits * 5, labels)
    assert honest["ece"] < 0.01 < 0.1 < sure["ece"]
    assert honest["nll"] < sure["nll"] and honest["brier"] < sure["brier"] and honest["mcc"] == sure["mcc"]


def test_the_constant_prediction_has_the_shares_of_train():
    train, test = np.array([0, 0, 0, 1]), np.array([0, 1, 1, 0, 0])
    found = constant_scores("classification", train, test)
    assert found["nll"] == pytest.approx(sk.log_loss(test, np.tile([0.75, 0.25], (5, 1))))
    assert found["brier"] == pytest.approx(sk.brier_score_loss(test, [0.25] * 5))
    assert found["mcc"] == 0 and found["accuracy"] == 0.6 and found["ece"] == pytest.approx(0.15)
    unseen = constant_scores("classification", np.zeros(4, int), test)
    assert np.isfinite(unseen["nll"]) and unseen["accuracy"] == 0.6
