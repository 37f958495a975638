"""Greedy deduplication over faiss indexes: each item joins a leader before it, or leads itself.

The index holds the leaders alone, so it stays small where there are many repeats, and blocks of
items are looked up in it together; within a block all pairs are compared.
"""

from __future__ import annotations

from math import comb, isqrt
from typing import Any, Protocol, cast

import faiss
import numpy as np
from numpy.typing import NDArray

from facefoundry.progress import track

Floats = NDArray[np.float32]
Hashes = NDArray[np.uint64]
Ints = NDArray[np.int64]

BLOCK = 256
HASH_BITS = 64
FAR = np.float32(-np.inf)

EXACT_CENTRES = 100_000  # up to here every pair of them is compared
CELLS_SEARCHED = 256  # of the inverted file beyond; its recall stands in docs/measured/scale.md
CANDIDATES = 8  # by their codes, then compared exactly
TRAINING_PER_CELL = 40
TRAINING_STEPS = 10


class Index(Protocol):
    """Leaders, numbered in the order in which they were added. Closeness is larger where two items
    are more alike, and FAR where one does not lead the other."""

    def nearest(self, items: Any) -> tuple[Ints, Floats]:
        """The closest leader of each of (B, ...) items, the first of equals, and how close it is;
        any number where that is FAR."""

    def closeness(self, items: Any) -> Floats:
        """(B, B), of every two items."""

    def add(self, items: Any) -> None: ...


def leaders(items: NDArray[Any], index: Index, label: str) -> Ints:
    """For each of (N, ...) items the place of its leader, which is its own where it leads.

    Greedy in the order given: an item joins the closest leader before it, where one is close
    enough, else it leads.
    """
    leader = np.arange(len(items))
    leading, count = np.empty(len(items), np.int64), 0
    for start in track(range(0, len(items), BLOCK), label, unit="blocks"):
        block = items[start : start + BLOCK]
        number, close = index.nearest(block)
        found = np.flatnonzero(close > FAR)
        leader[start + found] = leading[number[found]]
        _join_within(leader[start : start + BLOCK], start, close, index.closeness(block))
        new = np.flatnonzero(leader[start : start + BLOCK] == start + np.arange(len(block)))
        index.add(block[new])
        leading[count : count + len(new)] = start + new
        count += len(new)
    return leader


def _join_within(leader: Ints, start: int, close: Floats, among: Floats) -> None:
    """Let the items of a block join leaders of the same block that are closer than earlier ones."""
    closer = np.tril(among > close[:, None], k=-1)
    for row in np.flatnonzero(closer.any(axis=1)):
        candidates = np.flatnonzero(closer[row])
        candidates = candidates[leader[candidates] == start + candidates]
        if len(candidates):
            leader[row] = start + candidates[np.argmax(among[row, candidates])]


class HashIndex:
    """64-bit hashes at a Hamming distance of at most `bits`; all leaders that near are equally
    close. Exact: two such hashes, cut into more than bits / (flips + 1) parts, differ by at most
    `flips` in one part (Norouzi et al., "Fast exact search in Hamming space with multi-index
    hashing", 2014).

    expected: how many hashes it is laid out for.
    """

    def __init__(self, bits: int, expected: int) -> None:
        self._bits = bits
        parts = min(range(1, bits + 2), key=lambda parts: _cost(parts, bits, expected))
        self._index = faiss.IndexBinaryMultiHash(HASH_BITS, parts, _width(parts))
        self._index.nflip = bits // parts

    def nearest(self, items: Hashes) -> tuple[Ints, Floats]:
        ends, _, numbers = self._index.range_search(_as_bytes(items), self._bits + 1)
        near = ends[1:] > ends[:-1]
        first = np.zeros(len(items), np.int64)
        if near.any():
            first[near] = np.minimum.reduceat(numbers, ends[:-1][near].astype(np.int64))
        return first, _close_where(near)

    def closeness(self, items: Hashes) -> Floats:
        return _close_where(np.bitwise_count(items[:, None] ^ items[None, :]) <= self._bits)

    def add(self, items: Hashes) -> None:
        self._index.add(_as_bytes(items))


def _width(parts: int) -> int:
    """Bits in one of some parts of a hash; half of it at most, so that tables stay small."""
    return min(HASH_BITS // parts, HASH_BITS // 2)


def _cost(parts: int, bits: int, expected: int) -> float:
    """Buckets that one search looks into, and what it finds in them if hashes were random."""
    flips = sum(comb(_width(parts), flipped) for flipped in range(bits // parts + 1))
    return parts * flips * (1 + expected / 2 ** _width(parts))


def _as_bytes(hashes: Hashes) -> NDArray[np.uint8]:
    return np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, HASH_BITS // 8)


def _close_where(near: NDArray[np.bool_]) -> Floats:
    return np.where(near, np.float32(0), FAR)


class CentreIndex:
    """Unit vectors by cosine above `min_similarity`: all of them up to EXACT_CENTRES; beyond that
    the CANDIDATES best of the CELLS_SEARCHED nearest cells of an inverted file, by four-bit product
    codes for two dimensions each (André et al., "Accelerated nearest neighbor search with Quick
    ADC", 2017).

    sample: (N, D) all that will be looked up, to lay out the cells by.
    """

    def __init__(self, min_similarity: float, sample: Floats) -> None:
        self._min = min_similarity
        count, size = sample.shape
        cells = 4 * isqrt(count)
        name = "Flat" if count <= EXACT_CENTRES else f"IVF{cells},PQ{size // 2}x4fs,RFlat"
        self._index = cast(Any, faiss.index_factory(size, name, faiss.METRIC_INNER_PRODUCT))
        if count > EXACT_CENTRES:
            self._index.k_factor = CANDIDATES
            cut = faiss.extract_index_ivf(self._index)
            cut.cp.niter, cut.nprobe = TRAINING_STEPS, CELLS_SEARCHED
            self._index.train(sample[:: max(1, count // (TRAINING_PER_CELL * cells))])

    def nearest(self, items: Floats) -> tuple[Ints, Floats]:
        similarity, number = self._index.search(np.ascontiguousarray(items), 1)
        return number[:, 0], self._above(similarity[:, 0])

    def closeness(self, items: Floats) -> Floats:
        return self._above(items @ items.T)

    def add(self, items: Floats) -> None:
        self._index.add(np.ascontiguousarray(items))

    def _above(self, similarity: Floats) -> Floats:
        return np.where(similarity > self._min, similarity, FAR)
