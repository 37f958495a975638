"""Identity measures of generators, on embeddings whose answer is known."""

import numpy as np
import pytest
from conftest import ROOT

from facefoundry.generator_quality import (
    Sampled,
    aligned,
    identity_quality,
    judge,
    sample_generator,
)
from facefoundry.images import read_image
from facefoundry.synthesis import Face


def test_perfect_identities_are_all_distinct():
    labels = np.repeat(np.arange(6), 3)
    found = identity_quality(np.eye(6, dtype=np.float32)[labels], labels, threshold=0.5)
    assert (found["eer"], found["rank_1"]) == (0, 1)
    assert (found["identities"], found["distinct"]) == (6, 6)
    assert (found["genuine_mean"], found["impostor_mean"]) == (1, 0)


def test_two_names_for_one_face_count_as_one():
    labels = np.repeat(np.arange(4), 2)
    shown = np.array([0, 1, 2, 2])[labels]
    found = identity_quality(np.eye(3, dtype=np.float32)[shown], labels, threshold=0.5)
    assert (found["identities"], found["distinct"]) == (4, 3)
    assert found["rank_1"] == pytest.approx(0.5), "ties count against both of the two"


def test_labels_may_have_gaps_where_no_face_was_found():
    labels = np.array([0, 0, 7, 7])
    embeddings = np.eye(2, dtype=np.float32)[[0, 0, 1, 1]]
    assert identity_quality(embeddings, labels, 0.5)["identities"] == 2


def test_what_the_detector_misses_is_told_apart():
    sheet = read_image(ROOT / "docs/faces.jpg")
    crops, found = aligned([Face(sheet), Face(np.zeros((128, 128, 3), np.uint8))])
    assert found.tolist() == [True, False]
    assert crops.shape == (1, 112, 112, 3)


def test_what_is_unlike_the_rest_of_its_identity_is_left_out():
    """Six copies of one face under two names, by a judge who sees a stranger in the last."""
    face = Face(read_image(ROOT / "docs/faces.jpg"))
    seen = np.eye(2, dtype=np.float32)[[0, 0, 0, 0, 0, 1]]
    sampled = Sampled([face] * 6, np.array([3, 3, 3, 5, 5, 5]), 1.0)
    judged = judge(sampled, lambda crops: seen[: len(crops)], min_consistency=0.5)
    assert judged.labels.tolist() == [3, 3, 3, 5, 5]
    assert (judged.detected, judged.kept) == (1, pytest.approx(5 / 6))
    assert len(judged.crops) == len(judged.embeddings) == 5


class Echo:
    """Makes one face fewer of every second identity."""

    name = "echo"

    def identities(self, count: int, seed: int) -> list[str]:
        return [str(number) for number in range(count)]

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        shade = np.full((4, 4, 3), int(identity), np.uint8)
        return [Face(shade)] * (count - int(identity) % 2)


def test_labels_follow_the_faces_that_were_made():
    sampled = sample_generator(Echo(), 4, 3, seed=0)
    assert sampled.labels.tolist() == [face.image[0, 0, 0] for face in sampled.faces]
    assert len(sampled.faces) == 3 + 2 + 3 + 2
    assert sampled.seconds > 0
