"""Deduplication by faiss indexes against the same rules spelt out over all pairs."""

import numpy as np
import pytest

from facefoundry.curation import neighbours, rules


def first_kept_within(hashes: np.ndarray, quality: np.ndarray, bits: int) -> list[int]:
    found = [-1] * len(hashes)
    kept: list[int] = []
    for image in np.argsort(-quality, kind="stable"):
        near = [k for k in kept if int(hashes[k] ^ hashes[image]).bit_count() <= bits]
        if near:
            found[image] = near[0]
        else:
            kept.append(int(image))
    return found


def closest_kept_above(centres: np.ndarray, counts: np.ndarray, threshold: float) -> list[int]:
    found = list(range(len(centres)))
    kept: list[int] = []
    for identity in np.argsort(-counts, kind="stable"):
        similarity = centres[kept] @ centres[identity]
        if kept and similarity.max() > threshold:
            found[identity] = kept[int(similarity.argmax())]
        else:
            kept.append(int(identity))
    return found


def clumped_hashes(count: int, bits: int, rng: np.random.Generator) -> np.ndarray:
    """Families of hashes, each a few bits, some of them more than `bits`, from its ancestor."""
    hashes = rng.integers(0, 2**64, count // 4, dtype=np.uint64)[rng.integers(0, count // 4, count)]
    for _ in range(bits + 2):
        bit = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        hashes ^= np.where(rng.random(count) < 0.6, bit, np.uint64(0))
    return hashes


@pytest.mark.parametrize("bits", [0, 1, 4, 9])
def test_duplicates_are_those_of_all_pairs_also_where_qualities_tie(bits: int):
    rng = np.random.default_rng(bits)
    hashes = clumped_hashes(600, bits, rng)  # some blocks of the index
    quality = rng.integers(0, 5, 600).astype(np.float32)
    found = rules.near_duplicates(hashes, quality, bits)
    assert found.tolist() == first_kept_within(hashes, quality, bits)
    assert 0 < (found >= 0).sum() < 599


@pytest.mark.parametrize("expected", [10**3, 10**6, 10**8])
def test_hashes_are_found_for_every_number_that_an_index_is_laid_out_for(expected: int):
    rng = np.random.default_rng(0)
    hashes = clumped_hashes(600, 4, rng)
    index = neighbours.HashIndex(4, expected)
    found = neighbours.leaders(hashes, index, "hashes")
    repeats = np.array(first_kept_within(hashes, -np.arange(600), 4))
    assert found.tolist() == np.where(repeats < 0, np.arange(600), repeats).tolist()


def test_identities_are_those_of_all_pairs():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((700, 8)).astype(np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    counts = rng.integers(1, 5, 700)
    found = rules.similar_identities(centres, counts, 0.75)
    assert found.tolist() == closest_kept_above(centres, counts, 0.75)
    assert 0 < (found != np.arange(700)).sum() < 699


@pytest.mark.parametrize("threshold", [-0.1, 0.4, 0.6, 0.99])
def test_of_equally_close_identities_the_first_is_named(threshold: float):
    rng = np.random.default_rng(1)
    corners = rng.choice([-0.5, 0.5], (600, 4))  # so that all cosines are exact, and most tie
    axes = np.eye(4)[rng.integers(0, 4, 100)]
    centres = rng.permutation(np.concatenate([corners, axes])).astype(np.float32)
    counts = rng.integers(1, 4, 700)
    found = rules.similar_identities(centres, counts, threshold)
    assert found.tolist() == closest_kept_above(centres, counts, threshold)


def test_beyond_exact_sizes_an_inverted_file_finds_most_and_invents_nothing(monkeypatch):
    monkeypatch.setattr(neighbours, "EXACT_CENTRES", 1000)
    rng = np.random.default_rng(2)
    originals = rng.standard_normal((3000, 32)).astype(np.float32)
    copies = originals[:600] + 0.3 * rng.standard_normal((600, 32)).astype(np.float32)
    centres = np.concatenate([originals, copies])
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    counts = np.repeat([9, 5], [3000, 600])
    exact = np.array(closest_kept_above(centres, counts, 0.75))
    found = rules.similar_identities(centres, counts, 0.75)
    joined = np.flatnonzero(found != np.arange(3600))
    assert (np.einsum("nd,nd->n", centres[joined], centres[found[joined]]) > 0.75).all()
    assert (found == exact).mean() > 0.98
    monkeypatch.setattr(neighbours, "CELLS_SEARCHED", 1)
    fewer = rules.similar_identities(centres, counts, 0.75)
    assert (fewer == exact).mean() < (found == exact).mean()  # it is the inverted file that answers
