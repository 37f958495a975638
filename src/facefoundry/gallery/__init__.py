"""Who is known: identities with one or more templates each, on disk and in memory."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facefoundry.errors import FoundryError
from facefoundry.gallery.crypto import Sealer
from facefoundry.gallery.index import LARGE, SEGMENT, Index
from facefoundry.gallery.store import Block, Store, merge
from facefoundry.onnx_file import Floats

MAX_NAME = 100
FUSIONS = ("mean", "max")
SHORTLIST = 16  # templates whose identities are compared by all of their templates
SMALL_BLOCKS = 256  # more of them than this are merged when the gallery is opened


class UnknownIdentityError(FoundryError):
    """No identity of that name."""


@dataclass(frozen=True)
class Candidate:
    """An identity of the gallery and its similarity (cosine, -1..1) to the probe."""

    name: str
    similarity: float


def check_name(name: str) -> str:
    """The name in Unicode's composed form. Raises FoundryError for one that could be a path, is
    empty, longer than 100 characters, or has control characters or blanks at its ends."""
    name = unicodedata.normalize("NFC", name)
    if not 1 <= len(name) <= MAX_NAME or name != name.strip():
        raise FoundryError(f"name: 1 to {MAX_NAME} characters without blanks at the ends")
    if any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cf", "Cs") for c in name):
        raise FoundryError("name: no slashes, backslashes or invisible characters, please")
    if not name.strip("."):
        raise FoundryError("name: not only dots, please")
    return name


class Gallery:
    """Safe to call from several threads; other processes' changes are seen at the next call."""

    def __init__(self, path: Path, model: str, size: int, key: bytes, fusion: str = "mean") -> None:
        """`model` is the hash of the model file and `size` its D; `key` has 32 bytes.

        fusion: an identity's similarity to a probe is that of its templates' normalised `mean`,
        or the `max` over its templates. Raises FoundryError; see `store.Store`.
        """
        if fusion not in FUSIONS:
            raise FoundryError(f"fusion {fusion!r}: unknown; choose one of {', '.join(FUSIONS)}")
        self._fusion, self._lock = fusion, threading.RLock()
        self._store = Store(path, model, size, Sealer(key))
        self._index = Index(size)
        self._seen, self._count = -1, (0, 0)
        self._compact()
        self._refresh()

    def _refresh(self) -> None:
        """Load the blocks that another connection has written and forget those it has deleted."""
        seen = self._store.changes()
        if seen != self._seen:
            stored = set(self._store.blocks())
            for number in self._index.numbers - stored:
                self._index.drop(number)
            for number in sorted(stored - self._index.numbers):
                self._index.add(number, self._store.read_block(number))
            self._count = self._store.count()  # counting a million rows takes a while
            self._seen = seen

    def _compact(self) -> None:
        """Merge many small blocks into few, none larger than a segment."""
        small = [number for number, count in self._store.blocks().items() if count < LARGE]
        if len(small) <= SMALL_BLOCKS:
            return
        with self._store.transaction():
            merged = merge(self._store.read_block(number) for number in small)
            self._store.delete_blocks(small)
            self._write_blocks(merged)

    def _write_blocks(self, block: Block) -> None:
        for start in range(0, len(block.identities), SEGMENT):
            part = slice(start, start + SEGMENT)
            self._store.write_block(Block(block.identities[part], block.embeddings[part]))

    def enroll(
        self, name: str, embeddings: Floats, replace: bool = False, photos: Sequence[bytes] = ()
    ) -> int:
        """Add templates (N, D) to an identity, new or known, or replace all that it has.

        photos: image files to keep, sealed, beside them. On disk when this returns. Returns the
        number of its templates.
        Raises FoundryError for a bad name or embeddings, and then nothing is changed.
        """
        name = check_name(name)
        self._check_embeddings(embeddings)
        with self._lock:
            with self._store.transaction():
                identity = self._store.identity_of(name)
                if identity is None:
                    identity = int(self._store.add_identities([name])[0])
                elif replace:
                    self._store.remove_templates(identity)
                    self._store.photos.remove(identity)
                self._store.photos.add(identity, photos)
                kept = 0 if replace else self._store.templates_of(identity)
                total = kept + len(embeddings)
                self._store.write_block(Block(np.full(len(embeddings), identity), embeddings))
                self._store.count_templates([(total, identity)])
            self._reload()
            if replace:
                self._store.empty_log()
            return total

    def enroll_many(self, names: Sequence[str], embeddings: Floats) -> None:
        """One template (N, D) for each of N new identities, all or none, in large blocks."""
        checked = [check_name(name) for name in names]
        self._check_embeddings(embeddings)
        with self._lock, self._store.transaction():
            identities = self._store.add_identities(checked)
            self._write_blocks(Block(identities, embeddings))
            self._store.count_templates([(1, int(identity)) for identity in identities])
        self._reload()

    def _check_embeddings(self, embeddings: Floats) -> None:
        if embeddings.ndim != 2 or embeddings.shape[1] != self._store.size or not len(embeddings):
            raise FoundryError(
                f"embeddings of shape {embeddings.shape}, not (N, {self._store.size});"
                " embed with the gallery's own model"
            )
        if not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
            raise FoundryError("embeddings are not of unit length; take them from the recognizer")

    def photos(self, name: str) -> list[bytes]:
        """The image files that were kept of an identity. Raises FoundryError if unknown."""
        with self._lock:
            return self._store.photos.of(self._known(name))

    def _known(self, name: str) -> int:
        identity = self._store.identity_of(check_name(name))
        if identity is None:
            raise UnknownIdentityError("identity: no such name in the gallery")
        return identity

    def delete(self, name: str) -> None:
        """Remove an identity and its photos from the file, its log and the index. Raises
        FoundryError if unknown or while another process holds the log open."""
        with self._lock:
            with self._store.transaction():
                identity = self._known(name)
                self._store.remove_templates(identity)
                self._store.remove_identity(identity)
            self._reload()
            self._store.empty_log()

    def _reload(self) -> None:
        self._seen = -1
        self._refresh()

    def identify(self, probe: Floats, k: int = 1) -> list[Candidate]:
        """The `k` identities most similar to the probe (D,), best first; fewer in a small one."""
        with self._lock:
            self._refresh()
            identities, _ = self._index.nearest(probe, SHORTLIST + 4 * k)
            templates = self._index.templates(np.unique(identities))
            scores = {who: self._fuse(rows, probe) for who, rows in templates.items()}
            best = sorted(scores, key=lambda who: -scores[who])[:k]
            names = {who: self._store.name_of(who) for who in best}
            return [Candidate(name, scores[who]) for who, name in names.items() if name]

    def _fuse(self, templates: Floats, probe: Floats) -> float:
        if self._fusion == "max":
            return float((templates @ probe).max())
        mean = templates.mean(axis=0)
        return float(mean @ probe / max(float(np.linalg.norm(mean)), 1e-12))

    def identities(self, limit: int = 1000, after: str = "") -> list[tuple[str, int, str]]:
        """(name, templates, time of enrolment in UTC) by name, from the first beyond `after`."""
        with self._lock:
            return self._store.identities(limit, after)

    def count(self) -> tuple[int, int]:
        """(identities, templates)."""
        with self._lock:
            self._refresh()
            return self._count

    def rotate(self, key: bytes) -> None:
        """Seal the gallery anew with another key of 32 bytes."""
        with self._lock:
            self._store.rotate(Sealer(key))

    def close(self) -> None:
        with self._lock:
            self._store.close()
