"""1:N identification measures: who in the gallery is this probe, and is it anyone at all?

Embeddings are L2-normalised rows; the gallery holds one template for each enrolled identity. A
mated probe is of an enrolled identity, an unmated one is of a stranger. FPIR is the share of
unmated probes for which some template reaches the threshold; FNIR the share of mated probes whose
own template does not come first at or above it (ISO/IEC 19795-1; NIST FRVT 1:N, "identification").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.verification import Floats, Ints, pairs_needed, threshold_at

RANKS = (1, 5)
FPIR_RATES = (1e-1, 1e-2)
SMALLEST_GALLERY = 10
STRANGERS = 4  # one identity in so many is never enrolled in the open set
DRAWS = 20
SHOWN_RANKS = 50


@dataclass(frozen=True)
class Search:
    """What P probes found. best: (P,) highest similarity in the gallery. rank: (P,) place of the
    own template from 1 on, ties counted against it; 0 for an unmated probe."""

    best: Floats
    rank: Ints


def search(gallery: Floats, probes: Floats, mate: Ints) -> Search:
    """Compare probes (P, D) with templates (G, D); `mate` (P,) is each probe's row of the gallery,
    or -1. Raises FoundryError where the two have different dimensions."""
    if gallery.shape[1] != probes.shape[1]:
        raise FoundryError(
            f"templates have {gallery.shape[1]} dimensions and probes {probes.shape[1]};"
            " embed both with one model"
        )
    similarity = probes @ gallery.T
    own = similarity[np.arange(len(probes)), mate]
    rank = (similarity >= own[:, None]).sum(axis=1)
    return Search(similarity.max(axis=1), np.where(mate >= 0, rank, 0))


def cmc(rank: Ints, size: int) -> NDArray[np.float64]:
    """Cumulative match characteristic (size,): share of mated probes found at rank 1, 2, ..."""
    found = np.bincount(rank[rank > 0], minlength=size + 1)[1 : size + 1]
    return np.asarray(np.cumsum(found) / (rank > 0).sum())


def fnir_at(result: Search, fpir: float) -> float | None:
    """FNIR at the threshold that lets at most the share `fpir` of unmated probes through, or None
    where those are fewer than `pairs_needed`."""
    mated = result.rank > 0
    if (~mated).sum() < pairs_needed(fpir):
        return None
    accepted = result.best >= threshold_at(result.best, mated, fpir)
    return float(1 - (accepted & (result.rank == 1))[mated].mean())


def identification_metrics(embeddings: Floats, identities: Ints, seed: int) -> dict[str, Any]:
    """Closed set: every identity's first image enrolled, all others searched. Open set: FNIR at
    each FPIR by gallery size, over random galleries.

    `identities` (N,) are numbers from 0 on. Raises FoundryError where no identity has two images.
    """
    first = np.unique(identities, return_index=True)[1]
    probe = np.setdiff1d(np.arange(len(identities)), first)
    if not len(probe):
        raise FoundryError("no identity has two images: nothing to identify; add images")
    rank = search(embeddings[first], embeddings[probe], identities[probe]).rank
    curve = cmc(rank, len(first))
    return {
        "gallery": len(first),
        "probes": len(probe),
        **{f"rank_{k}": float(curve[min(k, len(curve)) - 1]) for k in RANKS},
        "cmc": [round(share, 6) for share in curve[:SHOWN_RANKS].tolist()],
        "open_set": _open_set(embeddings, identities, first, probe, seed),
    }


def _open_set(
    embeddings: Floats, identities: Ints, first: Ints, probe: Ints, seed: int
) -> list[dict[str, Any]]:
    """Rows `{gallery, fpir, fnir, unmated_probes, needs_probes}`; the strangers are the same for
    every gallery, so that the rows differ by its size alone."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(np.unique(identities[probe]))
    strangers, known = np.split(order, [max(len(order) // STRANGERS, 1)])
    unmated = probe[np.isin(identities[probe], strangers)]
    rows = []
    for size in gallery_sizes(len(known)):
        results = []
        for _ in range(DRAWS if size < len(known) else 1):
            enrolled = rng.permutation(known)[:size]
            mated = probe[np.isin(identities[probe], enrolled)]
            place = np.full(identities.max() + 1, -1)
            place[enrolled] = np.arange(size)
            searched = np.concatenate([mated, unmated])
            gallery = embeddings[first[enrolled]]
            results.append(search(gallery, embeddings[searched], place[identities[searched]]))
        rows += [_open_row(results, size, len(unmated), fpir) for fpir in FPIR_RATES]
    return rows


def _open_row(results: list[Search], size: int, unmated: int, fpir: float) -> dict[str, Any]:
    fnir = [found for result in results if (found := fnir_at(result, fpir)) is not None]
    return {
        "gallery": size,
        "fpir": fpir,
        "fnir": float(np.mean(fnir)) if fnir else None,
        "unmated_probes": unmated,
        "needs_probes": None if fnir else pairs_needed(fpir),
    }


def gallery_sizes(identities: int) -> list[int]:
    """10, 30, 100, 300, ... below `identities`, and `identities`; none where that is 0."""
    sizes = [SMALLEST_GALLERY * step * 10**power for power in range(5) for step in (1, 3)]
    return [*(size for size in sizes if size < identities), *([identities] if identities else [])]
