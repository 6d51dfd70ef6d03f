import numpy as np
import pytest

from lingo.data import Split, TaskData


def make_split(lengths, labels=None, dtype=np.int16):
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 500, sum(lengths)).astype(dtype)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Split(ids, offsets, np.zeros(len(lengths), np.int64) if labels is None else labels)


def test_rows_come_back_in_the_order_asked():
    split = make_split([3, 0, 5, 2])
    rows = split.batch([2, 0, 2, 1])
    assert [row.tolist() for row in rows] == [split.ids[3:8].tolist(), split.ids[:3].tolist()] * 1 + [
        split.ids[3:8].tolist(),
        [],
    ]
    assert all(row.dtype == np.int64 for row in rows)
    assert split.lengths.tolist() == [3, 0, 5, 2] and len(split) == 4


@pytest.mark.parametrize("width", [None, 5, 9])
def test_padded_equals_the_rows(width):
    split = make_split([3, 0, 5, 2], dtype=np.int32)
    order = [3, 2, 1, 0, 2]
    ids, lengths = split.padded(order, pad_id=-7, width=width)
    assert ids.shape == (5, width or 5) and ids.dtype == np.int64
    for row, length, expected in zip(ids, lengths, split.batch(order), strict=True):
        assert row[:length].tolist() == expected.tolist()
        assert (row[length:] == -7).all()


def test_width_of_a_batch_is_that_of_its_own_longest_row():
    assert make_split([3, 0, 5, 2]).padded([0, 3], pad_id=0)[0].shape == (2, 3)
    assert make_split([3, 5]).padded([], pad_id=0)[0].shape == (0, 0)


def test_too_narrow_is_refused():
    with pytest.raises(ValueError, match="at least the longest sequence, 5, but got 4"):
        make_split([3, 5]).padded([0, 1], pad_id=0, width=4)


def test_memory_mapped_ids_are_not_copied(tmp_path):
    np.save(tmp_path / "ids.npy", np.arange(10, dtype=np.int16))
    ids = np.load(tmp_path / "ids.npy", mmap_mode="r")
    split = Split(ids, np.array([0, 4, 10]), np.array([0, 1]))
    assert split.ids is ids
    assert split.padded([1], pad_id=0)[0].tolist() == [[4, 5, 6, 7, 8, 9]]


@pytest.mark.parametrize("offsets", [[0, 3, 9], [1, 3, 5], [0, 4, 3, 5]])
def test_offsets_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ValueError, match="`offsets` must rise from 0 to the 5"):
        Split(np.zeros(5, np.int16), np.array(offsets), np.zeros(len(offsets) - 1, np.int64))


def test_labels_must_be_as_many_as_sequences():
    with pytest.raises(ValueError, match="the 2 sequences, but got 3"):
        make_split([1, 1], labels=np.zeros(3, np.int64))


@pytest.mark.parametrize(
    ("kind", "num_labels", "labels", "message"),
    [
        ("classification", 2, np.array([0, 2]), "labels must be 0 to 1, but got 0 to 2"),
        ("classification", 2, np.array([-1, 1]), "labels must be 0 to 1, but got -1 to 1"),
        ("classification", 2, np.array([0.0, 1.0]), r"int64 \[n\], but got float64"),
        ("multilabel", 3, np.zeros((2, 2), np.float32), r"float32 \[n, 3\], but got float32 \[2, 2\]"),
        ("regression", 1, np.array([0, 1]), r"float64 \[n\], but got int64"),
        ("ranking", 1, np.array([0, 1]), "`kind` must be one of"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(kind, num_labels, labels, message):
    split = make_split([2, 2], labels=labels)
    with pytest.raises(ValueError, match=message) as caught:
        TaskData(name="t", kind=kind, num_labels=num_labels, metric="mcc", pad_id=0, train=split, dev=split)
    assert "t, train" in str(caught.value) and "t, dev" in str(caught.value)


def test_task_of_each_kind():
    for kind, labels in [
        ("classification", np.array([0, 1])),
        ("multilabel", np.zeros((2, 2), np.float32)),
        ("regression", np.arange(2, dtype=np.float32)),
    ]:
        split = make_split([2, 2], labels=labels)
        TaskData(name="t", kind=kind, num_labels=2, metric="mcc", pad_id=0, train=split, dev=split)
