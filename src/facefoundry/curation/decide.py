"""What stays of measured images, and why the rest goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facefoundry.centres import identity_centres
from facefoundry.curation import rules
from facefoundry.errors import FoundryError
from facefoundry.sharding import Row

NO_FACE = "no face found"
LOW_QUALITY = "low detector score"
DUPLICATE = "near-duplicate"
INCONSISTENT = "unlike its identity"
TOO_CLOSE = "identity too close to another"
TOO_FEW = "identity with too few images"
IMBALANCE = "more images than balance allows"


class Decisions:
    """Rows that are still in, and a reason for each that is out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.removed: list[dict[str, Any]] = []

    def drop(self, out: Sequence[bool], reason: str, other: Sequence[str | None] = ()) -> None:
        """Remove rows where `out` is true; `other` names what each one was compared with."""
        for place, (row, gone) in enumerate(zip(self.rows, out, strict=True)):
            if gone:
                note = {"image_id": row["image_id"], "identity": row["identity"], "reason": reason}
                self.removed.append(note | {"other": other[place] if len(other) else None})
        self.rows = [row for row, gone in zip(self.rows, out, strict=True) if not gone]
        if not self.rows:
            counts = Counter(note["reason"] for note in self.removed)
            raise FoundryError(
                f"nothing is left after '{reason}' ({dict(counts)}); relax conf/curate.yaml"
            )

    def labels(self) -> tuple[list[str], rules.Ints]:
        names, inverse = np.unique([row["identity"] for row in self.rows], return_inverse=True)
        return names.tolist(), inverse.astype(np.int64)

    def column(self, name: str, dtype: Any = np.float32) -> Any:
        return np.array([row[name] for row in self.rows], dtype)


def decide(measured: Sequence[Row], limits: Mapping[str, Any]) -> Decisions:
    """Apply the rules in turn, each to what the ones before it left."""
    faces = Decisions(measured)
    faces.drop([row["landmarks"] is None for row in faces.rows], NO_FACE)
    faces.drop([(row["quality"] or 1.0) < limits["min_quality"] for row in faces.rows], LOW_QUALITY)
    _drop_duplicates(faces, limits["near_duplicate_bits"])
    if limits["judge"] != "none":
        _, labels = faces.labels()
        cosine = rules.consistency(faces.column("embedding"), labels)
        faces.drop((cosine < limits["min_consistency"]).tolist(), INCONSISTENT)
        _separate_identities(faces, limits["max_similarity"], limits["merge_similar"])
    _, labels = faces.labels()
    faces.drop((np.bincount(labels)[labels] < limits["min_images"]).tolist(), TOO_FEW)
    _, labels = faces.labels()
    quality = np.array([row["quality"] or 0.0 for row in faces.rows], np.float32)
    keep = rules.balanced(labels, quality, limits["max_imbalance"])
    faces.drop((~keep).tolist(), IMBALANCE)
    return faces


def _drop_duplicates(faces: Decisions, bits: int) -> None:
    quality = np.array([row["quality"] or 0.0 for row in faces.rows], np.float32)
    original = rules.near_duplicates(faces.column("phash", np.uint64), quality, bits)
    others = [faces.rows[index]["image_id"] if index >= 0 else None for index in original]
    faces.drop((original >= 0).tolist(), DUPLICATE, others)


def _separate_identities(faces: Decisions, max_similarity: float, merge: bool) -> None:
    """Two names for one face: keep the larger, or give both its name."""
    names, labels = faces.labels()
    centres = identity_centres(faces.column("embedding"), labels)
    target = rules.similar_identities(centres, np.bincount(labels), max_similarity)
    if merge:
        for row, label in zip(faces.rows, labels, strict=True):
            row["identity"] = names[target[label]]
        return
    others = [names[target[label]] for label in labels]
    faces.drop((target[labels] != labels).tolist(), TOO_CLOSE, others)
