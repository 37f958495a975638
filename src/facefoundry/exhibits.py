"""What the evaluation shows rather than counts: pairs, neighbours and a map of the embeddings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from sklearn.manifold import TSNE

from facefoundry.benchmarks import Embeddings, Images
from facefoundry.evaluation import PairSet
from facefoundry.images import Image, contact_sheet, save_png
from facefoundry.verification import Floats, Ints, hardest_pairs

MAP, NEIGHBOURS = "embedding_map.json", "neighbours.png"
OWN, OTHER = (11, 143, 119), (214, 51, 108)  # frames of the same and of another identity
FRAME = 5  # pixels


def write_hardest_pairs(path: Path, pair_set: PairSet, similarity: Floats, pairs: int = 8) -> None:
    """A sheet of the worst genuine pairs (two rows, one face above the other) and of the worst
    impostor pairs (two more rows)."""
    rows = []
    for chosen in hardest_pairs(similarity, pair_set.pairs.same, pairs):
        for side in (0, 1):
            rows.append([pair_set.images[i] for i in pair_set.pairs.index[chosen, side]])
    save_png(contact_sheet(rows), path)


def nearest(embeddings: Embeddings, probe: int, count: int) -> Ints:
    """Rows of the `count` images that are most alike to image `probe`, itself left out."""
    similarity = embeddings @ embeddings[probe]
    similarity[probe] = -np.inf
    return np.argsort(-similarity, kind="stable")[:count]


def write_neighbours(
    out: Path,
    images: Images,
    embeddings: Embeddings,
    identity: Ints,
    probes: int = 6,
    count: int = 8,
) -> None:
    """`neighbours.png`: in each row a probe and the images most alike to it, framed by whether they
    are of its identity."""
    first = np.unique(identity, return_index=True)[1]
    chosen = first[:: max(len(first) // probes, 1)][:probes]
    rows = []
    for probe in chosen:
        found = nearest(embeddings, probe, count)
        framed = [_framed(images[i], identity[i] == identity[probe]) for i in found]
        rows.append([images[probe], *framed])
    save_png(contact_sheet(rows), out / NEIGHBOURS)


def _framed(image: Image, own: bool) -> Image:
    framed = np.empty_like(image)
    framed[:] = OWN if own else OTHER
    framed[FRAME:-FRAME, FRAME:-FRAME] = image[FRAME:-FRAME, FRAME:-FRAME]
    return framed


def write_embedding_map(
    out: Path, embeddings: Embeddings, identity: Ints, seed: int, identities: int = 20
) -> None:
    """`embedding_map.json`: {identity, x, y} of the images of the first identities, laid out in a
    plane by t-SNE (van der Maaten and Hinton, 2008), coordinates in 0..1."""
    chosen = np.flatnonzero(identity < identities)
    spread = min(15.0, (len(chosen) - 1) / 3)
    plane = TSNE(perplexity=spread, init="pca", metric="cosine", random_state=seed)
    places = plane.fit_transform(embeddings[chosen])
    places = (places - places.min(axis=0)) / np.maximum(np.ptp(places, axis=0), 1e-9)
    x, y = places.round(4).T.tolist()
    text = json.dumps({"identity": identity[chosen].tolist(), "x": x, "y": y})
    (out / MAP).write_text(text + "\n")
