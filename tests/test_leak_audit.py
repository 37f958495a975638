"""The leak audit, on directions whose cosines are known."""

import numpy as np
import pytest

from facefoundry.benchmarks import Pairs
from facefoundry.leak_audit import audit, closest, identity_groups, nearest, stranger_threshold


def directions(count: int, seed: int, size: int = 32) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def pairs_of(genuine: list[tuple[int, int]], impostors: list[tuple[int, int]]) -> Pairs:
    same = [True] * len(genuine) + [False] * len(impostors)
    return Pairs(np.array(genuine + impostors), np.array(same), np.zeros(len(same), np.int64))


def strangers(count: int) -> Pairs:
    """Each image with itself genuine, and every pair of two an impostor."""
    impostors = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return pairs_of([(0, 0)], impostors)


def test_groups_follow_genuine_pairs_through_others():
    groups = identity_groups(5, pairs_of([(0, 1), (1, 4)], [(2, 3)]))
    assert groups[0] == groups[1] == groups[4]
    assert len({*groups}) == 3


def test_the_nearest_may_have_to_be_of_another_group():
    references = np.eye(3, dtype=np.float32)
    samples = np.array([[0.8, 0.6, 0.0]], np.float32)
    assert nearest(samples, references).index.tolist() == [0]
    other = nearest(samples, references, (np.array([7]), np.array([7, 8, 9])))
    assert (other.index.tolist(), other.similarity.tolist()) == ([1], [pytest.approx(0.6)])


def test_the_threshold_lets_the_asked_share_of_strangers_pass():
    references = directions(60, 0)
    pairs = strangers(60)
    threshold = stranger_threshold(references, pairs, 0.05)
    left, right = pairs.index[~pairs.same].T
    cosine = (references[left] * references[right]).sum(1)
    assert abs((cosine > threshold).mean() - 0.05) < 0.002


LIMITS = {"ratio": 2.0, "near_copies": 0.01}


def people(count: int) -> tuple[np.ndarray, Pairs]:
    """Two photographs of each of `count` people, and all pairs of them."""
    first = directions(count, 0)
    photographs = unit(np.concatenate([first, first + 0.5 * directions(count, 5)]))
    impostors = [(a, b) for a in range(count) for b in range(a + 1, count)]
    return photographs, pairs_of([(n, n + count) for n in range(count)], impostors)


def unit(values: np.ndarray) -> np.ndarray:
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def test_invented_faces_pass():
    photographs, pairs = people(60)
    metrics, _ = audit(directions(200, 1), photographs, pairs, fmr=0.05, limits=LIMITS)
    assert metrics["passed"]
    assert metrics["near_copies"] == 0
    assert 0.5 < metrics["ratio"] < 1.5


def test_a_few_copies_among_many_inventions_are_found_and_shown():
    photographs, pairs = people(60)
    samples = directions(200, 1)
    samples[:6] = unit(photographs[:6] + 0.2 * directions(6, 7))
    metrics, found = audit(samples, photographs, pairs, fmr=0.05, limits=LIMITS)
    assert (metrics["near_copies"], metrics["passed"]) == (0.03, False)
    assert metrics["ratio"] < 2  # the copies drown in the mean
    assert sorted(closest(found, 6)) == [(n, n) for n in range(6)]


def test_where_strangers_come_as_near_by_chance_only_more_than_that_are_copies():
    """Fifty faces of one family: the next of kin is as near as another photograph."""

    def photographed(members: np.ndarray, seed: int) -> np.ndarray:
        return unit(np.concatenate([members, members]) + 0.5 * directions(100, seed))

    family, another = (unit(directions(1, 0) + 0.5 * directions(50, seed)) for seed in (1, 2))
    photographs = photographed(family, 3)
    impostors = [(a, b) for a in range(50) for b in range(a + 1, 50)]
    pairs = pairs_of([(n, n + 50) for n in range(50)], impostors)
    limits = {"ratio": 50.0, "near_copies": 0.3}

    def passed(samples: np.ndarray, labelled: bool) -> bool:
        metrics, _ = audit(samples, photographs, pairs, 0.05, limits, labelled=labelled)
        assert metrics["strangers_near"] > 0.3, "the case shows nothing"
        return metrics["passed"]

    assert not passed(photographed(another, 4), labelled=False)
    assert passed(photographed(another, 4), labelled=True)
    assert not passed(photographed(family, 5), labelled=True)


def test_a_generator_that_makes_a_few_people_again_and_again_fails():
    photographs, pairs = people(10)
    samples = unit(photographs[np.arange(200) % 10] + 1.5 * directions(200, 2))
    metrics, _ = audit(samples, photographs, pairs, fmr=0.05, limits=LIMITS)
    assert not metrics["passed"]
    assert metrics["ratio"] > 2
