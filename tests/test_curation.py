import numpy as np
import pytest

from facefoundry.curation import rules
from facefoundry.curation.decide import decide
from facefoundry.errors import FoundryError
from facefoundry.scores import EDGES, histogram

LIMITS = {
    "judge": "sface",
    "min_quality": 0.7,
    "near_duplicate_bits": 4,
    "min_consistency": 0.15,
    "max_similarity": 0.6,
    "merge_similar": False,
    "min_images": 2,
    "max_imbalance": 3.0,
}


def unit(*values: float) -> np.ndarray:
    vector = np.array(values, np.float32)
    return vector / np.linalg.norm(vector)


def test_near_duplicates_keep_the_best_picture():
    hashes = np.array([0b0000, 0b0001, 0xFFFF, 0b0111], np.uint64)
    quality = np.array([0.5, 0.9, 0.9, 0.8], np.float32)
    assert rules.near_duplicates(hashes, quality, bits=1).tolist() == [1, -1, -1, -1]
    assert rules.near_duplicates(hashes, quality, bits=2).tolist() == [1, -1, -1, 1]


def test_consistency_leaves_the_image_itself_out():
    embeddings = np.stack([unit(1, 0), unit(1, 0), unit(0, 1), unit(0, 1)])
    labels = np.array([0, 0, 0, 1])
    found = rules.consistency(embeddings, labels)
    assert found[:2] == pytest.approx([1 / np.sqrt(2)] * 2)
    assert found[2] == pytest.approx(0)
    assert found[3] == 1  # alone


def test_pairs_are_told_apart_by_their_labels():
    embeddings = np.stack([unit(1, 0), unit(1, 0), unit(0, 1)])
    genuine, impostor = rules.pair_cosines(embeddings, np.array([0, 0, 1]), seed=0)
    assert genuine.tolist() == [1.0]
    assert impostor.tolist() == [0.0, 0.0]
    assert rules.similarity_summary(genuine, impostor) == {
        "genuine_mean": 1.0,
        "genuine_p5": 1.0,
        "impostor_mean": 0.0,
        "impostor_p99": 0.0,
    }


def test_a_histogram_counts_every_pair_once_whatever_its_similarity():
    shares = histogram(np.array([-0.9, -0.49, 0.01, 0.02, 1.0]))
    assert sum(shares) == pytest.approx(1)
    assert shares[0] == pytest.approx(0.4)  # -0.5 and below stand in the first bin
    assert shares[np.searchsorted(EDGES, 0.01) - 1] == pytest.approx(0.4)
    assert shares[-1] == pytest.approx(0.2)


def test_the_smaller_of_two_similar_identities_goes():
    centres = np.stack([unit(1, 0), unit(1, 0.1), unit(0, 1)])
    found = rules.similar_identities(centres, np.array([3, 5, 4]), 0.6)
    assert found.tolist() == [1, 1, 2]


def test_balance_caps_at_a_multiple_of_the_smallest():
    labels = np.array([0] * 10 + [1] * 2)
    quality = np.arange(12, dtype=np.float32)
    kept = rules.balanced(labels, quality, 3.0)
    assert np.flatnonzero(kept).tolist() == [4, 5, 6, 7, 8, 9, 10, 11]


def faces() -> list[dict]:
    """Two clear identities of three images, spelt out so that each rule has work."""
    rng = np.random.default_rng(1)
    rows = []
    for identity, base in (("ann", unit(1, 0, 0)), ("bob", unit(0, 1, 0))):
        for number in range(3):
            embedding = unit(*(base + rng.normal(0, 0.1, 3)))
            rows.append(
                {
                    "image_id": f"{identity}/{number}",
                    "identity": identity,
                    "quality": 0.9,
                    "landmarks": [0.0] * 10,
                    "phash": int(rng.integers(0, 2**63)),
                    "embedding": embedding.tolist(),
                }
            )
    return rows


def changed(rows: list[dict], image_id: str, **values) -> list[dict]:
    return [row | values if row["image_id"] == image_id else row for row in rows]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"landmarks": None, "quality": None}, "no face found"),
        ({"quality": 0.65}, "low detector score"),
        ({"embedding": [0.0, 0.0, 1.0]}, "unlike its identity"),
    ],
)
def test_a_bad_image_is_removed_with_its_reason(values, reason):
    decided = decide(changed(faces(), "ann/1", **values), LIMITS)
    assert [(note["image_id"], note["reason"]) for note in decided.removed] == [("ann/1", reason)]
    assert len(decided.rows) == 5


def test_a_duplicate_names_what_it_repeats():
    rows = faces()
    decided = decide(changed(rows, "ann/2", phash=rows[0]["phash"] ^ 1), LIMITS)
    assert decided.removed == [
        {"image_id": "ann/2", "identity": "ann", "reason": "near-duplicate", "other": "ann/0"}
    ]


def two_names_for_one_face() -> list[dict]:
    rows = faces()
    twins = [row | {"image_id": f"eve/{n}", "identity": "eve"} for n, row in enumerate(rows[:2])]
    return rows + [row | {"phash": row["phash"] ^ (2**63 - 1)} for row in twins]


def test_two_names_for_one_face_are_dropped_or_merged():
    dropped = decide(two_names_for_one_face(), LIMITS)
    assert {note["reason"] for note in dropped.removed} == {"identity too close to another"}
    assert {note["other"] for note in dropped.removed} == {"ann"}
    merged = decide(two_names_for_one_face(), LIMITS | {"merge_similar": True})
    assert sorted({row["identity"] for row in merged.rows}) == ["ann", "bob"]
    assert len(merged.rows) == 8


def test_nothing_left_says_why():
    with pytest.raises(FoundryError, match=r"nothing is left after 'no face found'.*curate\.yaml"):
        decide([row | {"landmarks": None} for row in faces()], LIMITS)


def test_without_a_judge_the_generator_is_taken_at_its_word():
    strangers = [row | {"embedding": None, "quality": None} for row in two_names_for_one_face()]
    strangers[1]["phash"] = strangers[0]["phash"]
    decided = decide(strangers, LIMITS | {"judge": "none"})
    assert [note["reason"] for note in decided.removed] == ["near-duplicate"]
