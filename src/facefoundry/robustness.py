"""How the errors grow as one side of the same pairs gets worse."""

from __future__ import annotations

from typing import Any

import numpy as np

from facefoundry.benchmarks import Embed, Embeddings, Images, Pairs, embed_images
from facefoundry.degradations import FACTORS, degrade_all
from facefoundry.verification import Bools, auc, confusion, eer, roc


def sample_pairs(pairs: Pairs, count: int, seed: int) -> Pairs:
    """Up to `count` pairs, half of each kind, drawn by the seed."""
    rng = np.random.default_rng(seed)
    kinds = (np.flatnonzero(pairs.same), np.flatnonzero(~pairs.same))
    rows = np.sort(np.concatenate([rng.permutation(kind)[: count // 2] for kind in kinds]))
    return Pairs(pairs.index[rows], pairs.same[rows], pairs.fold[rows])


def robustness_metrics(
    embed: Embed, images: Images, pairs: Pairs, threshold: float | None, seed: int
) -> dict[str, Any]:
    """`{pairs, clean: row, factors: {factor: {unit, levels: rows}}}`.

    The first image of each pair stays as it is, the second is degraded. A row is {level, auc, eer,
    fmr, fnmr}, the last two at the model's threshold, which is not set anew, or None without one.
    """
    gallery = embed_images(embed, images[pairs.index[:, 0]], title="robustness, clean side")
    probes = images[pairs.index[:, 1]]
    clean = embed_images(embed, probes, title="robustness, other side")
    factors = {}
    for name, factor in FACTORS.items():
        faces = np.concatenate(
            [degrade_all(probes, factor, level, seed) for level in factor.levels]
        )
        embeddings = embed_images(embed, faces, title=f"robustness, {name}")
        parts = np.split(embeddings, len(factor.levels))
        rows = [
            {"level": level, **_row(gallery, part, pairs.same, threshold)}
            for level, part in zip(factor.levels, parts, strict=True)
        ]
        factors[name] = {"unit": factor.unit, "levels": rows}
    clean_row = _row(gallery, clean, pairs.same, threshold)
    return {"pairs": len(pairs.same), "clean": clean_row, "factors": factors}


def _row(
    gallery: Embeddings, probes: Embeddings, same: Bools, threshold: float | None
) -> dict[str, Any]:
    similarity = np.einsum("pd,pd->p", gallery, probes)
    curve = roc(similarity, same)
    counts = None if threshold is None else confusion(similarity, same, threshold)
    return {
        "auc": auc(curve),
        "eer": eer(curve),
        "fmr": counts and counts["false_accept"] / int((~same).sum()),
        "fnmr": counts and counts["false_reject"] / int(same.sum()),
    }
