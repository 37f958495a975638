"""1:1 verification measures over pairs of faces: are these two images the same identity?

Everywhere: `similarity` (P,) is the cosine of two embeddings, in [-1, 1], higher is closer;
`same` (P,) bool is true for a genuine pair, false for an impostor pair; a pair is accepted when
`similarity >= threshold`. FMR is the share of impostor pairs accepted, TAR the share of genuine
pairs accepted, FNMR = 1 - TAR.

Which similarity: this package's own models are measured on flip-sum embeddings (the embedding of
the image plus that of its mirror image, L2-normalised again; see `benchmarks.embed_images`), as
InsightFace's `verification.py` does. The reference embedders are measured without the flip.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError

Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]
Ints = NDArray[np.integer[Any]]

FMR_RATES = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
HEADLINE_RATES = (1e-2, 1e-3)
PREFERRED_FMR = 1e-3

# InsightFace's grid: squared L2 distances of unit vectors, 0 to 4 by 0.01.
DISTANCES = np.arange(0, 4, 0.01)


@dataclass(frozen=True)
class Roc:
    """Operating points from strict to lax: `threshold` falls while `fmr` and `tar` rise from 0
    to 1, all (T,). The DET curve is (`fmr`, `fnmr`)."""

    threshold: Floats
    fmr: Floats
    tar: Floats

    @property
    def fnmr(self) -> Floats:
        return 1.0 - self.tar


def pair_similarity(embeddings: Floats, pairs: Ints) -> NDArray[np.float32]:
    """Cosine (P,) of the pairs (P, 2) of rows of `embeddings` (N, D), which are L2-normalised."""
    left, right = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
    return np.einsum("pd,pd->p", left, right).astype(np.float32)


def fold_accuracies(similarity: Floats, same: Bools, fold: Ints) -> NDArray[np.float64]:
    """Accuracy of each fold at the threshold that is best on all the other folds.

    The protocol of InsightFace's `verification.py`: thresholds are the 400 squared distances
    `DISTANCES` (distance = 2 - 2 cosine), a pair is accepted below the threshold, and the first
    of several equally good thresholds is taken. Pairs of a negative `fold` take no part.
    Raises FoundryError with fewer than two folds.
    """
    right = fold_correct(similarity, same, fold)
    return np.array([right[fold == name].mean() for name in np.unique(fold[fold >= 0])])


def fold_thresholds(similarity: Floats, same: Bools, fold: Ints) -> dict[int, float]:
    """Each fold's squared-distance threshold: the first that is best on all the other folds."""
    names = np.unique(fold[fold >= 0])
    if len(names) < 2:
        raise FoundryError("k-fold accuracy needs at least two folds; number the pairs' folds")
    distance = _squared_distance(similarity)
    correct = np.stack([_correct(distance[fold == name], same[fold == name]) for name in names])
    best = np.argmax(correct.sum(axis=0) - correct, axis=1)  # over the other folds
    return dict(zip(names.tolist(), DISTANCES[best].tolist(), strict=True))


def fold_correct(similarity: Floats, same: Bools, fold: Ints) -> Bools:
    """(P,) whether each pair is judged rightly at its fold's threshold; false without a fold."""
    chosen = fold_thresholds(similarity, same, fold)
    threshold = np.array([chosen.get(name, np.nan) for name in fold.tolist()])
    accepted = _squared_distance(similarity) < threshold
    return (accepted == same) & np.isfinite(threshold)


def _squared_distance(similarity: Floats) -> NDArray[np.float64]:
    return 2.0 - 2.0 * similarity.astype(np.float64)


def _correct(distance: Floats, same: Bools) -> NDArray[np.int64]:
    """(400,) how many pairs are classified rightly at each of `DISTANCES`."""
    accepted_genuine = np.searchsorted(np.sort(distance[same]), DISTANCES, side="left")
    accepted_impostor = np.searchsorted(np.sort(distance[~same]), DISTANCES, side="left")
    return accepted_genuine + (~same).sum() - accepted_impostor


def roc(similarity: Floats, same: Bools, weight: Floats | None = None) -> Roc:
    """Every operating point that the scores can reach; a pair counts `weight` (P,) times, or once.
    Raises FoundryError unless there are both genuine and impostor pairs with finite scores."""
    check_scores(similarity, same)
    weight = np.ones(len(same)) if weight is None else weight
    threshold, inverse = np.unique(-similarity.astype(np.float64), return_inverse=True)
    genuine, impostor = (
        np.cumsum(np.bincount(inverse[kind], weight[kind], minlength=len(threshold)))
        for kind in (same, ~same)
    )
    return Roc(
        threshold=np.concatenate([[np.inf], -threshold]),
        fmr=np.concatenate([[0.0], impostor / impostor[-1]]),
        tar=np.concatenate([[0.0], genuine / genuine[-1]]),
    )


def check_scores(similarity: Floats, same: Bools) -> None:
    """Raise FoundryError on a missing kind of pair or on a score that is not a number."""
    if same.all() or not same.any():
        missing = "impostor" if len(same) and same.all() else "genuine"
        raise FoundryError(f"no {missing} pairs: nothing to verify; add pairs of both kinds")
    wrong = np.flatnonzero(~np.isfinite(similarity))
    if len(wrong):
        raise FoundryError(
            f"pair {wrong[0]}: the similarity is not a number; check this pair's embeddings"
        )


def auc(curve: Roc) -> float:
    """Area under the ROC: the chance that a genuine pair scores above an impostor pair."""
    return float(np.trapezoid(curve.tar, curve.fmr))


def eer(curve: Roc) -> float:
    """Equal error rate: where FMR = FNMR, on the straight line between two operating points."""
    gap = curve.fmr - curve.fnmr  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(curve.fmr[after - 1] + share * (curve.fmr[after] - curve.fmr[after - 1]))


def pairs_needed(fmr: float) -> int:
    """Impostor pairs that a false-match rate needs before it can be measured.

    The rule of three: no error in N tries bounds the rate by 3/N with 95 % confidence.
    """
    return math.ceil(round(3 / fmr, 6))


def threshold_at(similarity: Floats, same: Bools, fmr: float) -> float:
    """The lowest similarity threshold that accepts at most the share `fmr` of impostor pairs."""
    impostors = np.sort(similarity[~same])[::-1]
    allowed = math.floor(round(fmr * len(impostors), 6))
    if allowed >= len(impostors):
        return -1.0
    return float(np.nextafter(impostors[allowed], np.inf, dtype=impostors.dtype))


def tar_at(similarity: Floats, same: Bools, fmr: float) -> float | None:
    """TAR at `fmr`, or None where the impostor pairs are fewer than `pairs_needed`."""
    if (~same).sum() < pairs_needed(fmr):
        return None
    return float((similarity[same] >= threshold_at(similarity, same, fmr)).mean())


def threshold_table(
    similarity: Floats, same: Bools, rates: tuple[float, ...] = FMR_RATES
) -> list[dict[str, Any]]:
    """Rows `{fmr, threshold, tar, impostor_pairs, needs_pairs}` for `model.json`.

    Meant for the pairs of held-out synthetic identities: the model's thresholds are calibrated
    there and a benchmark never sets one. Where the pairs cannot support a rate, `threshold` and
    `tar` are None and `needs_pairs` says how many impostor pairs it would take.
    """
    impostor_pairs = int((~same).sum())
    table = []
    for fmr in rates:
        supported = impostor_pairs >= pairs_needed(fmr)
        table.append(
            {
                "fmr": fmr,
                "threshold": threshold_at(similarity, same, fmr) if supported else None,
                "tar": tar_at(similarity, same, fmr),
                "impostor_pairs": impostor_pairs,
                "needs_pairs": None if supported else pairs_needed(fmr),
            }
        )
    return table


def operating_point(
    table: Sequence[Mapping[str, Any]], fmr: float = PREFERRED_FMR
) -> Mapping[str, Any] | None:
    """The row of a threshold table to judge by: `fmr`, or the strictest rate above it that the
    calibration pairs could support; None where there is none."""
    known = [row for row in table if row["threshold"] is not None and row["fmr"] >= fmr]
    return min(known, key=lambda row: row["fmr"], default=None)


def confusion(similarity: Floats, same: Bools, threshold: float) -> dict[str, float]:
    """Counts and rates when every pair with `similarity >= threshold` is accepted."""
    accepted = similarity >= threshold
    true_accept = int((accepted & same).sum())
    false_accept = int((accepted & ~same).sum())
    genuine = int(same.sum())
    return {
        "threshold": float(threshold),
        "true_accept": true_accept,
        "false_reject": genuine - true_accept,
        "false_accept": false_accept,
        "true_reject": len(same) - genuine - false_accept,
        "accuracy": float((accepted == same).mean()),
        "precision": true_accept / max(true_accept + false_accept, 1),
        "recall": true_accept / max(genuine, 1),
        "f1": 2 * true_accept / max(genuine + true_accept + false_accept, 1),
    }


def rate_key(fmr: float) -> str:
    """The metric's name: 0.001 -> `tar_at_fmr_1e-3`."""
    return f"tar_at_fmr_1e{round(math.log10(fmr))}"


def verification_metrics(similarity: Floats, same: Bools, fold: Ints) -> dict[str, Any]:
    """`accuracy`, `accuracy_std` (over folds), `auc`, `eer`, `tar_at_fmr_1e-2`, `_1e-3` and the
    numbers of pairs. Rates are shares in 0..1; an unsupported TAR is None."""
    curve = roc(similarity, same)
    accuracies = fold_accuracies(similarity, same, fold)
    return {
        "accuracy": float(accuracies.mean()),
        "accuracy_std": float(accuracies.std()),
        "auc": auc(curve),
        "eer": eer(curve),
        **{rate_key(fmr): tar_at(similarity, same, fmr) for fmr in HEADLINE_RATES},
        "folds": len(accuracies),
        "genuine_pairs": int(same.sum()),
        "impostor_pairs": int((~same).sum()),
    }


def hardest_pairs(similarity: Floats, same: Bools, k: int) -> tuple[Ints, Ints]:
    """Row numbers of the `k` genuine pairs that look least alike and of the `k` impostor pairs
    that look most alike, worst first."""
    genuine, impostor = np.flatnonzero(same), np.flatnonzero(~same)
    return (
        genuine[np.argsort(similarity[genuine], kind="stable")[:k]],
        impostor[np.argsort(-similarity[impostor], kind="stable")[:k]],
    )
