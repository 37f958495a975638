"""Several models side by side: the mean of their cosines, near the first."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_faces import toy_crops, write_faces

from facefoundry.backbones import build_backbone
from facefoundry.benchmarks import embed_images
from facefoundry.distiller import distill_student
from facefoundry.ensemble import embedded_together, side_by_side
from facefoundry.errors import FoundryError
from facefoundry.model_dir import ModelSpec, load_model, save_model
from facefoundry.stage import composed, plain
from facefoundry.training import embedder

RNG = np.random.default_rng(0)
FACES = RNG.normal(size=(300, 8))


def directions(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def cosines(embeddings: np.ndarray) -> np.ndarray:
    return directions(embeddings) @ directions(embeddings).T


def seen_by_a_model(size: int) -> np.ndarray:
    """Embeddings (300, size) that tell the faces' eight numbers apart in its own way."""
    return FACES @ RNG.normal(size=(8, size))


def test_cosines_are_the_means_where_there_are_dimensions_enough():
    first, second = seen_by_a_model(16), 7 * seen_by_a_model(24)
    both = side_by_side([first, second])
    assert both.shape == (300, 16)
    assert np.allclose(cosines(both), (cosines(first) + cosines(second)) / 2)


def test_they_lie_as_near_to_the_first_as_a_turn_brings_them():
    first, second = seen_by_a_model(16), seen_by_a_model(16)
    both = side_by_side([first, second])
    near = np.sum(both * directions(first))
    for _ in range(8):
        turn, _ = np.linalg.qr(RNG.normal(size=(16, 16)))
        assert np.sum(both @ turn * directions(first)) < near
    assert near / 300 > 0.8
    assert np.allclose(side_by_side([first]), directions(first))


def test_of_too_few_dimensions_the_principal_ones_are_kept():
    first, second = RNG.normal(size=(300, 4)), seen_by_a_model(8)
    both = side_by_side([first, second])
    joined = np.hstack([directions(first), directions(second)])
    share = np.linalg.svd(joined, compute_uv=False) ** 2
    wanted = (cosines(first) + cosines(second)) / 2
    off = np.corrcoef(cosines(both).ravel(), wanted.ravel())[0, 1]
    assert off**2 > share[:4].sum() / share.sum()


@pytest.mark.parametrize("count", [2, 3])
def test_the_same_model_again_changes_nothing(count: int):
    model = seen_by_a_model(16)
    assert np.allclose(side_by_side([model] * count), directions(model))


def save_toy(name: str, seed: int) -> Path:
    """A narrow net of its own licence."""
    torch.manual_seed(seed)
    shape = {"widths": [8, 8, 8], "head": 16}
    licences = [{"what": name, "licence": "MIT", "commercial": "yes", "real_faces": "no"}]
    net = build_backbone("small_resnet", embedding_size=16, **shape)
    save_model(Path(name), net, ModelSpec("small_resnet", 16, shape, licences=licences))
    return Path(name)


def distilled(*overrides: str) -> tuple[torch.nn.Module, ModelSpec]:
    config = composed(
        "distill", ["model=one", "beside=[other]", "batch_size=8", "validate_every=10", *overrides]
    )
    config.augmentation = dict.fromkeys(config.augmentation, 0) | {
        "turn_degrees": 0,
        "scale": [1, 1],
        "low_resolution_min": 0.5,
        "jpeg_quality": [90, 90],
    }
    distill_student(plain(config), Path("data/split"), Path("out"), lambda metrics, step: None)
    return load_model(Path("out"))


def test_a_student_learns_from_both(project: Path):
    write_faces(project)
    one, other = save_toy("one", 0), save_toy("other", 1)
    crops = toy_crops()[0]
    taught = embedded_together([one, other], crops, threads=1).numpy()

    def near(net: torch.nn.Module) -> float:
        seen = directions(embed_images(embedder(net), crops, flip=True))
        return float(np.mean(np.sum(seen * taught, axis=1)))

    alike = ("backbone.widths=[8,8,8]", "backbone.head=16", "sface.scale=1", "sface.regression=50")
    begun, _ = distilled("steps=1", *alike)
    student, spec = distilled("steps=60", *alike)
    assert near(student) > near(begun) + 0.3
    assert [entry["what"] for entry in spec.licences] == ["one", "other"]
    weights = (other / "model.safetensors").read_bytes()
    assert spec.provenance["options"]["beside_sha256"] == [sha256(weights).hexdigest()]


@pytest.mark.parametrize("override", ["teacher=sface", "stream.faces=64"])
def test_no_other_model_teaches_beside_sface_or_a_stream(project: Path, override: str):
    write_faces(project)
    save_toy("one", 0)
    save_toy("other", 1)
    with pytest.raises(FoundryError, match=r"distill\.beside: only for teacher: own"):
        distilled(override)


def test_the_mean_with_the_model_before_is_kept(project: Path):
    """Two steps at a learning rate of nearly 0 leave the start, so the mean is half way to it."""
    write_faces(project)
    one, other = (load_model(save_toy(name, seed))[0] for seed, name in enumerate(("one", "other")))
    alike = ("backbone=small_resnet", "backbone.widths=[8,8,8]", "backbone.head=16")
    alike += ("steps=2", "optimizer.lr=1e-12")
    student, spec = distilled(*alike, "average_with=other")
    weights = dict(student.named_parameters())
    for (name, first), second in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weights[name], (first + second) / 2, rtol=1e-3, atol=1e-4)
    sha = sha256(Path("other/model.safetensors").read_bytes()).hexdigest()
    assert spec.provenance["options"]["average_with_sha256"] == sha
    with pytest.raises(FoundryError, match=r"distill\.average_with: not with distill\.prune"):
        distilled(*alike, "average_with=other", "prune.share=0.5")
