"""Faces that are blobs: an identity is a colour field, an image is that field with noise."""

from pathlib import Path

import cv2
import numpy as np
import yaml

from facefoundry import manifest
from facefoundry.data import AugmentedCrops, HeldOut, TrainingData, labels_of
from facefoundry.shards import write_shard

CONF = Path(__file__).parents[1] / "conf"
STANDARD = yaml.safe_load((CONF / "augmentation/standard.yaml").read_text())

OPTIONS = {
    "optimizer": {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05},
    "steps": 12,
    "schedule": "cosine",
    "milestones": [0.5, 0.75],
    "step_decay": 0.1,
    "warmup": 0.1,
    "margin_warmup": 0.5,
    "validate_every": 4,
    "batch_size": 8,
    "patience": 2.0,
    "precision": "32-true",
    "gradient_clip": 5.0,
    "sampling": "auto",
    "accumulate": 1,
    "ema": 0,
    "wccn": 0,
    "compile": False,
    "trainer": {"strategy": "auto", "devices": 1, "nodes": 1},
    "seed": 0,
    "loader_workers": 0,
    "embedding_size": 16,
}


def toy_crops(identities: int = 4, images: int = 6) -> tuple[np.ndarray, list[str]]:
    """(N, 112, 112, 3) uint8 RGB and N identities."""
    rng = np.random.default_rng(0)
    fields = rng.integers(0, 256, (identities, 4, 4, 3))
    crops, names = [], []
    for identity, field in enumerate(fields):
        large = field.repeat(28, 0).repeat(28, 1)
        for _ in range(images):
            crops.append(np.clip(large + rng.normal(0, 25, large.shape), 0, 255))
            names.append(f"i{identity}")
    return np.array(crops, np.uint8), names


def toy_data(augmentation: dict = STANDARD) -> TrainingData:
    crops, names = toy_crops()
    return TrainingData(
        train=AugmentedCrops(crops, labels_of(names), augmentation, seed=0),
        image_ids=[f"{name}/{n}" for n, name in enumerate(names)],
        generators=["render" if name in ("i0", "i1") else "stylegan" for name in names],
        identities=4,
        val=HeldOut(crops, names),
        licences=[],
        manifest_sha256="",
    )


def write_faces(project: Path) -> None:
    """A split of 4 train and 2 val identities with 6 images each, as `data/split` of a project."""
    crops, names = toy_crops(identities=6)
    images = [cv2.imencode(".png", crop[..., ::-1])[1].tobytes() for crop in crops]
    ids = [f"{name}/{number:02}" for number, name in enumerate(names)]
    shard = Path("data/align/shards/0.tar")
    (project / shard).parent.mkdir(parents=True)
    places = write_shard(project / shard, zip((f"{i}.png" for i in ids), images, strict=True))
    rows = [
        {"image_id": i, "identity": name, "shard": str(shard), "offset": offset, "size": size}
        | {"split": "val" if name in ("i4", "i5") else "train"}
        for i, name, (offset, size) in zip(ids, names, places, strict=True)
    ]
    manifest.write(manifest.table(rows), project / "data/split")
