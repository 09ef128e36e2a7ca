"""Numbers stay with things from frame to frame."""

import numpy as np
import pytest

from edgewright.detection import Boxes
from edgewright.errors import UsageError
from edgewright.runtime.tracking import Tracker


def at(*centres: tuple[float, float], size: float = 20, classes: tuple[int, ...] = ()) -> Boxes:
    found = np.array([(x - size / 2, y - size / 2, x + size / 2, y + size / 2) for x, y in centres], np.float32).reshape(-1, 4)
    return Boxes(found, np.ones(len(found), np.float32), np.array(classes or (0,) * len(found), np.int64))


def test_a_number_is_given_when_a_thing_was_seen_often_enough():
    tracker = Tracker(confirm=3)
    assert [tracker.update(at((50, 50))) for _ in range(4)] == [[None], [None], [1], [1]]
    assert Tracker(confirm=1).update(at((50, 50), (90, 90))) == [1, 2]


def test_a_single_false_box_gets_no_number_and_uses_none_up():
    tracker = Tracker(confirm=2)
    seen = [tracker.update(at((50, 50), (200, 10 * n)) if n % 3 == 0 else at((50, 50))) for n in range(12)]
    assert [numbers[0] for numbers in seen] == [None] + [1] * 11
    assert all(number is None for numbers in seen for number in numbers[1:])


def test_two_things_that_cross_keep_their_numbers():
    tracker = Tracker(confirm=1)
    rng = np.random.default_rng(0)
    first: list[int | None] = []
    for n in range(60):
        places = [(10 + 4 * n, 100.0), (250 - 4 * n, 108.0)]
        noisy = [(x + rng.normal(0, 0.7), y + rng.normal(0, 0.7)) for x, y in places]
        order = [0, 1] if n % 2 else [1, 0]
        numbers = tracker.update(at(*[noisy[k] for k in order]))
        first.append(numbers[order.index(0)])
    assert set(first) == {first[0]}


def test_what_is_hidden_is_found_again_where_it_must_be_by_then():
    tracker = Tracker(keep=30, confirm=3)
    for n in range(10):
        numbers = tracker.update(at((10 + 5 * n, 50)))
    for _ in range(20):
        assert tracker.update(at()) == []
    assert numbers == [1]
    assert tracker.update(at((10 + 5 * 30, 50))) == [1]


def test_what_is_lost_for_longer_gets_a_new_number():
    tracker = Tracker(keep=5, confirm=1)
    assert tracker.update(at((50, 50))) == [1]
    for _ in range(5):
        tracker.update(at())
    assert tracker.update(at((50, 50))) == [1]
    for _ in range(6):
        tracker.update(at())
    assert tracker.update(at((50, 50))) == [2]


def test_classes_do_not_mix():
    tracker = Tracker(confirm=1)
    assert tracker.update(at((50, 50), (50, 50), classes=(0, 1))) == [1, 2]
    assert tracker.update(at((50, 50), (50, 50), classes=(1, 0))) == [2, 1]
    assert tracker.update(at((50, 50), classes=(2,))) == [3]


def test_one_box_has_one_number():
    tracker = Tracker(confirm=1)
    rng = np.random.default_rng(1)
    for _ in range(50):
        places = rng.uniform(0, 100, (rng.integers(0, 12), 2))
        numbers = tracker.update(at(*map(tuple, places)))
        assert len(numbers) == len(places) == len(set(numbers))


def test_impossible_settings_are_refused():
    for wrong in ({"iou": 0.0}, {"keep": -1}, {"confirm": 0}):
        with pytest.raises(UsageError):
            Tracker(**wrong)
