"""The nearest templates of a probe: exact for small galleries, faiss with exact re-ranking beyond.

Small blocks are compared template by template. Every block of LARGE templates or more has a faiss
product quantizer of four bits for two dimensions (André et al., "Accelerated nearest neighbor
search with Quick ADC", 2017), whose best CANDIDATES are compared exactly. All of it is in memory
and derived from the store's blocks.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from threadpoolctl import threadpool_limits

from facefoundry.gallery.store import Block, Ids, merge
from facefoundry.onnx_file import Floats

SEGMENT = 65_536  # templates in a full block
LARGE = 8_192
CANDIDATES = 128  # from each segment
TRAINING = 4_096  # templates that teach the quantizer of every segment,
ITERATIONS = 8  # in so many steps: it has 16 centroids for two dimensions


class Index:
    """Templates by block. `add`, `drop` and `nearest` are for one thread at a time."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._large: dict[int, tuple[Block, Any]] = {}
        self._small: dict[int, Block] = {}
        self._untaught: Any = None  # the first segment's quantizer, without its codes

    @property
    def numbers(self) -> set[int]:
        return set(self._large) | set(self._small)

    def add(self, number: int, block: Block) -> None:
        if len(block.identities) < LARGE:
            self._small[number] = block
            self.__dict__.pop("_flat", None)
        else:
            self._large[number] = (block, self._encode(block.embeddings))

    def drop(self, number: int) -> None:
        self._large.pop(number, None)
        self._small.pop(number, None)
        self.__dict__.pop("_flat", None)

    @cached_property
    def _flat(self) -> Block:
        """All small blocks as one, made when it is asked for."""
        if not self._small:
            return Block(np.empty(0, np.int64), np.empty((0, self._size), np.float32))
        return merge(self._small.values())

    def _encode(self, embeddings: Floats) -> Any:
        if self._untaught is None:
            name = f"PQ{self._size // 2}x4fs"
            self._untaught = faiss.index_factory(self._size, name, faiss.METRIC_INNER_PRODUCT)
            self._untaught.pq.cp.niter = ITERATIONS
            with threadpool_limits(1):  # hundreds of small steps, which threads make slower
                self._untaught.train(embeddings[:TRAINING])
        codes = faiss.clone_index(self._untaught)
        codes.add(embeddings)
        return codes

    def nearest(self, probe: Floats, count: int) -> tuple[Ids, Floats]:
        """The best `count` templates of a probe (D,): their identities and similarities."""
        identities, similarity = [self._flat.identities], [self._flat.embeddings @ probe]
        for block, codes in self._large.values():
            _, rows = codes.search(probe[None], max(CANDIDATES, count))
            found = rows[0][rows[0] >= 0]
            identities.append(block.identities[found])
            similarity.append(block.embeddings[found] @ probe)
        every, score = np.concatenate(identities), np.concatenate(similarity)
        best = np.argsort(-score)[:count]
        return every[best], score[best]

    def templates(self, identities: Ids) -> dict[int, Floats]:
        """Every template (N, D) of the given identities."""
        found: dict[int, list[Floats]] = {int(identity): [] for identity in identities}
        for block in (self._flat, *(block for block, _ in self._large.values())):
            wanted = np.array(list(found))
            first = np.searchsorted(block.identities, wanted)
            last = np.searchsorted(block.identities, wanted, side="right")
            for identity, start, end in zip(wanted, first, last, strict=True):
                found[int(identity)].append(block.embeddings[start:end])
        return {identity: np.concatenate(parts) for identity, parts in found.items()}
