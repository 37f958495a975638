"""How models know a face again that is turned to profile: rendered heads, whose angles are known,
or a benchmark's photographs, whose angles are read off the five points that YuNet finds.

Run: python benchmarks/pose.py pretrained/clean pretrained/distilled [--identities 250]
     python benchmarks/pose.py pretrained/distilled --benchmark ../shared/benchmarks/lfw
SFace stands beside them. Each column compares images from the front (up to 12 degrees of yaw) with
others: EER and TAR at FMR 1e-2 over all pairs, mirror sum. The heads are not those that a run of
the pipeline trains on, but of their kind: a model of rendered heads is at home here.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from facefoundry.alignment import Detector, warp
from facefoundry.annotations import linked_identities
from facefoundry.benchmarks import embed_images, load_images, read_benchmark
from facefoundry.generator_quality import sample_generator
from facefoundry.inference import open_model
from facefoundry.progress import track
from facefoundry.references import sface
from facefoundry.synthesis import build_generator
from facefoundry.turning import pose_of
from facefoundry.verification import eer, roc, tar_at

FRONT = (0.0, 12.0)
OTHERS = {"from the front": FRONT, "25 to 45 degrees": (25.0, 45.0), "beyond 45": (45.0, 90.0)}
FMR = 1e-2
MARGIN = 20  # pixels around a crop in which YuNet finds its face


@dataclass(frozen=True)
class Faces:
    """crops (N, 112, 112, 3) uint8 RGB, labels (N,), yaw (N,) in degrees."""

    crops: np.ndarray
    labels: np.ndarray
    yaw: np.ndarray


def heads(identities: int, images: int, seed: int, spread: float) -> Faces:
    generator = build_generator("render", spread=spread)
    sampled = sample_generator(generator, identities, images, seed)
    crops = np.stack([warp(face.image, face.landmarks) for face in sampled.faces])
    yaw = np.array([face.attributes["yaw_deg"] for face in sampled.faces])
    return Faces(crops, sampled.labels, yaw)


def photographs(directory: Path) -> Faces:
    """Those of a benchmark in which YuNet finds a face again."""
    benchmark = read_benchmark(directory)
    crops, pairs = load_images(benchmark), benchmark.pairs
    labels = linked_identities(pairs.index, pairs.same, len(crops))
    detector, yaw = Detector(), np.full(len(crops), np.nan)
    for place, crop in enumerate(track(crops, "finding angles", unit="images")):
        border = cv2.copyMakeBorder(crop, *[MARGIN] * 4, cv2.BORDER_REPLICATE)
        if found := detector.detect(border):
            yaw[place] = pose_of(found[0].landmarks)[0]
    seen = np.isfinite(yaw)
    return Faces(crops[seen], labels[seen], yaw[seen])


def within(yaw: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """The places of (N,) degrees, to either side, that lie in [low, high)."""
    return np.flatnonzero((abs(yaw) >= bounds[0]) & (abs(yaw) < bounds[1]))


def compared(seen: np.ndarray, labels: np.ndarray, front: np.ndarray, other: np.ndarray) -> str:
    """EER and TAR of embeddings (N, D) of all pairs of a frontal image and another one."""
    different = front[:, None] != other
    similarity = (seen[front] @ seen[other].T)[different]
    same = (labels[front][:, None] == labels[other])[different]
    tar = tar_at(similarity, same, FMR)
    return f"{eer(roc(similarity, same)):.2%}, {'too few pairs' if tar is None else f'{tar:.2%}'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="files or directories, as pretrained/clean")
    parser.add_argument("--identities", type=int, default=250)
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--seed", type=int, default=2**20, help="far from those of trainings")
    parser.add_argument("--spread", type=float, default=0.25)
    parser.add_argument("--benchmark", type=Path, help="a folder of photographs with pairs.csv")
    arguments = parser.parse_args()
    faces = (
        photographs(arguments.benchmark)
        if arguments.benchmark
        else heads(arguments.identities, arguments.images, arguments.seed, arguments.spread)
    )
    yaw = faces.yaw
    places = {name: within(yaw, bounds) for name, bounds in OTHERS.items()}
    front = within(yaw, FRONT)
    print("| model | " + " | ".join(f"{k}, {len(v)} images" for k, v in places.items()) + " |")
    print("|" + "---|" * (len(places) + 1))
    models = {name: open_model(name).embed for name in arguments.models}
    for name, embed in (models | {"SFace": sface()}).items():
        seen = embed_images(embed, faces.crops, title=name)
        cells = [compared(seen, faces.labels, front, other) for other in places.values()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
