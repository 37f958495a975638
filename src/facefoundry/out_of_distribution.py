"""What the model makes of images that it was not made for, and a score to reject them by.

The score is recognisability: the length of the embedding before it is normalised, which falls with
the evidence for any identity at all (Meng et al., "MagFace", CVPR 2021). The limit below which an
image is rejected comes from held-out faces. In our ONNX files it is the output of `ReduceL2_norm`.
What it rejects of each kind is measured in docs/measured/evaluation.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score

from facefoundry.benchmarks import BATCH, Embed, Embeddings, Images
from facefoundry.errors import FoundryError
from facefoundry.scores import histogram
from facefoundry.strangers import (
    cartoon,
    drawn,
    non_face,
    rendered_heads,
    unrecognisable,
)
from facefoundry.verification import Floats

REJECTED_FACES = 0.01  # share of good faces that the limit may cost


def raw_embeddings(embed: Embed, images: Images) -> Embeddings:
    """(N, D) as the model gives them, not normalised."""
    starts = range(0, len(images), BATCH)
    return np.concatenate([embed(images[start : start + BATCH]) for start in starts])


def recognisability(raw: Embeddings) -> Floats:
    """(N,) from 0 on; higher is more of a face."""
    return np.linalg.norm(raw, axis=1)


def rejection_limit(embed: Embed, faces: Images) -> float:
    """The recognisability that all but REJECTED_FACES of good faces reach."""
    return float(np.quantile(recognisability(raw_embeddings(embed, faces)), REJECTED_FACES))


def stranger_sets(faces: Images, count: int, seed: int) -> tuple[dict[str, Images], list[str]]:
    """Sets of `count` images by name, and a note on each set that could not be made."""
    ruined = np.random.default_rng(seed).permutation(len(faces))[:count]
    sets = {
        "cartoons": drawn(cartoon, count, seed),
        "non-faces": drawn(non_face, count, seed),
        "faces of 6 x 6 pixels": unrecognisable(faces[np.sort(ruined)]),
    }
    try:
        return sets | {"rendered heads": rendered_heads(count, seed)}, []
    except FoundryError as error:
        return sets, [f"rendered heads: not run ({error})"]


def out_of_distribution_metrics(
    embed: Embed, faces: Images, count: int, threshold: float | None, limit: float, seed: int
) -> dict[str, Any]:
    """`{limit, faces: row, sets: {name: row}, not_run}` for good faces and each set of strangers.

    false_accept: share of the pairs of two different images of the set that pass the model's
    threshold (None without one). false_accept_with_faces: the same of pairs with a good face.
    rejected: share below `limit`. false_accept_kept: of the pairs of which neither is rejected.
    auc: chance that a good face is more recognisable than an image of the set.
    """
    sets, notes = stranger_sets(faces, count, seed)
    chosen = np.random.default_rng(seed).permutation(len(faces))[: 2 * count]
    good = raw_embeddings(embed, faces[np.sort(chosen)])
    rows = {
        name: _row(raw_embeddings(embed, images), good, threshold, limit)
        for name, images in sets.items()
    }
    rejected = float((recognisability(good) < limit).mean())
    return {"limit": limit, "faces_rejected": rejected, "sets": rows, "not_run": notes}


def _row(raw: Embeddings, good: Embeddings, threshold: float | None, limit: float) -> Any:
    score, good_score = recognisability(raw), recognisability(good)
    units, good_units = (_unit(raw), _unit(good))
    left, right = np.triu_indices(len(raw), k=1)
    within = (units @ units.T)[left, right]
    kept = score >= limit
    kinds = np.repeat([True, False], [len(good), len(raw)])
    return {
        "images": len(raw),
        "false_accept": _accepted(within, threshold),
        "false_accept_with_faces": _accepted((units @ good_units.T).ravel(), threshold),
        "rejected": float(1 - kept.mean()),
        "false_accept_kept": _accepted(within[kept[left] & kept[right]], threshold),
        "auc": float(roc_auc_score(kinds, np.concatenate([good_score, score]))),
        "histogram": histogram(within),
    }


def _unit(raw: Embeddings) -> Embeddings:
    """Normalised rows; an embedding without length stays zero: it is like nothing."""
    return raw / np.maximum(np.linalg.norm(raw, axis=1, keepdims=True), 1e-12)


def _accepted(similarity: Floats, threshold: float | None) -> float | None:
    if threshold is None:
        return None
    return float((similarity >= threshold).mean()) if len(similarity) else 0.0
