"""Faces made while a student learns: each part against the one that works image by image."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from toy_faces import CONF, OPTIONS, STANDARD, toy_crops, toy_data

from facefoundry.alignment import TEMPLATE, Detector, warp
from facefoundry.augmentation import augment, build_augmentation
from facefoundry.backbones import build_backbone
from facefoundry.data import NOBODY
from facefoundry.distiller import DistillerModule, streamed
from facefoundry.errors import FoundryError
from facefoundry.losses import build_head
from facefoundry.recognizer import RecognizerModule, pool_for
from facefoundry.references import sface
from facefoundry.samplers import EpochSampler, Shares
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.augmentation import Augmentation
from facefoundry.streaming.loader import FixedPool, pool_loader
from facefoundry.streaming.morphs import morphs
from facefoundry.streaming.painter import Painter
from facefoundry.streaming.pool import DIMENSIONS, FacePool, Ring, SFace
from facefoundry.synthesis import build_generator, stylegan
from facefoundry.training import fit

TINY = {"name": "stylegan", "cut": 64, "fit_images": 12, "engine": "openvino"}
CPU = torch.device("cpu")
NONE = yaml.safe_load((CONF / "augmentation/none.yaml").read_text()) | {"flip": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> stylegan.StyleGan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stylegan, "CACHE", tmp_path_factory.mktemp("stylegan"))
        patch.setattr("facefoundry.streaming.painter.CACHE", stylegan.CACHE)
        return build_generator(**TINY)


@pytest.fixture(scope="module")
def painter(source) -> Painter:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("facefoundry.streaming.painter.load_head", lambda *_: source._network._head)
        return Painter(source).eval()


@pytest.fixture(scope="module")
def images(painter) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return painter(4)


def photographs(images: torch.Tensor) -> list[np.ndarray]:
    """(N, 3, H, W) in 0..255 -> images (H, W, 3) uint8."""
    return list(images.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def toy_planes() -> torch.Tensor:
    return FixedPool.of(toy_crops()[0], np.zeros(24, np.int64), CPU).crops


def test_the_painter_paints_what_the_generator_does(source, painter, monkeypatch):
    torch.manual_seed(1)
    styles = painter.styles(2)
    assert styles.shape == (2, 5, 512)
    monkeypatch.setattr(painter, "styles", lambda count: styles)
    with torch.no_grad():
        painted = painter(2)
    expected = source._network.images(styles.numpy())
    for one, two in zip(photographs(painted), expected, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1


def test_in_fp16_as_on_a_gpu_it_paints_nearly_the_same(painter, monkeypatch):
    torch.manual_seed(1)
    styles = painter.styles(1)
    fast = copy.deepcopy(painter)
    fast.fast()
    painted = []
    for one in (painter, fast):
        monkeypatch.setattr(one, "styles", lambda count: styles)
        with torch.no_grad():
            painted.append(one(1).float())
    assert (painted[0] - painted[1]).square().mean().sqrt() < 1.5  # of 255
    planes, teacher = toy_planes()[:2], SFace().eval()
    with torch.no_grad():
        exact = teacher(planes)
        teacher.graph.fast()
        assert (exact * teacher(planes)).sum(1).min() > 0.999


def test_its_styles_spread_as_the_generators_do(source, painter):
    """The same distribution: means and deviations of both along the components of each group."""
    torch.manual_seed(0)
    ours = painter.styles(300).numpy()
    rngs = [np.random.default_rng(n) for n in range(600)]
    drawn = source._styles(rngs)
    theirs = np.stack([source._step(*drawn[2 * n : 2 * n + 2], rngs[n])[0] for n in range(300)])
    basis = (
        source.directions.basis[:8] / np.linalg.norm(source.directions.basis[:8], axis=1)[:, None]
    )
    for group in range(5):
        one, two = ours[:, group] @ basis.T, theirs[:, group] @ basis.T
        assert one.std(0) == pytest.approx(two.std(0), rel=0.2)
        assert np.abs(one.mean(0) - two.mean(0)).max() < 0.35 * two.std(0).max()


def test_weights_of_ones_own_are_not_streamed(source):
    own = type("Own", (), {"source": type("Weights", (), {"path": "x.pkl"})})()
    with pytest.raises(FoundryError, match=r"stream\.generator\.weights: only the wheel's"):
        Painter(own)


def test_the_aligner_finds_and_cuts_what_opencv_does(images):
    aligner = Aligner(256).eval()
    with torch.no_grad():
        landmarks, scores = aligner.landmarks(images)
        crops = aligner(images)
    assert len(crops) == 4 and crops.dtype == torch.uint8
    for number, image in enumerate(photographs(images)):
        (found, *_) = Detector().detect(image)
        assert scores[number].item() == pytest.approx(found.score, abs=0.01)
        assert landmarks[number].numpy() == pytest.approx(found.landmarks, abs=0.6)
        cut = warp(image, landmarks[number].numpy())
        ours = crops[number].permute(1, 2, 0).numpy()
        assert np.abs(ours.astype(int) - cut).mean() < 1.0


def test_what_shows_no_face_is_left_out(images):
    noise = torch.rand(1, 3, 256, 256) * 255
    with torch.no_grad():
        assert len(Aligner(256)(torch.cat([noise, images[:1], noise]))) == 1


def test_landmarks_on_the_template_are_cut_without_a_change():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 256, 256), np.uint8))
    cut = Aligner(256).warp(image.float(), torch.from_numpy(TEMPLATE)[None])
    assert torch.equal(cut, image[:, :, :112, :112])


def test_the_teacher_on_a_device_is_sface_and_sees_mirror_images_alike():
    crops, _ = toy_crops()
    planes = FixedPool.of(crops[:3], np.zeros(3, np.int64), CPU).crops
    embed = sface()
    both = sum(unit(embed(seen)) for seen in (crops[:3], crops[:3, :, ::-1]))
    with torch.no_grad():
        teacher = SFace().eval()
        found = teacher(planes)
        assert found.numpy() == pytest.approx(unit(both), abs=1e-4)
        assert teacher(planes.flip(3)).numpy() == pytest.approx(found.numpy(), abs=1e-5)


def test_values_that_nobody_asks_for_again_are_let_go():
    graph = SFace().graph
    spent = [name for names in graph._last_used for name in names]
    assert len(spent) == len(set(spent))
    results = {name for name, _ in graph._results}
    assert not results & set(spent)
    assert {name for _, name, _, _ in graph._steps} <= set(spent) | results


def test_morphs_lie_between_the_two(monkeypatch):
    planes = toy_planes()
    torch.manual_seed(0)
    made = morphs(planes[:4], planes[8:12])
    assert made.shape == (4, 3, 112, 112) and made.dtype == torch.uint8
    monkeypatch.setattr("facefoundry.streaming.morphs.bend", lambda images: images)
    same = morphs(planes[:4], planes[:4])
    assert (same.float() - planes[:4].float()).abs().mean() < 2


def test_no_augmentation_changes_nothing_and_a_seed_repeats_all_others():
    planes = toy_planes()
    assert torch.equal(Augmentation(NONE)(planes), planes)
    augment, seen = Augmentation(STANDARD), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        seen.append(augment(planes))
    assert torch.equal(seen[0], seen[1]) and not torch.equal(seen[0], seen[2])
    changed = (seen[0] != planes).flatten(1).any(1)
    assert changed.float().mean() > 0.9


@pytest.mark.parametrize(
    "effect", ["mask", "sunglasses", "lens_distortion", "noise", "low_resolution"]
)
def test_an_effect_meets_its_share_of_the_rows(effect: str):
    planes = toy_planes()
    torch.manual_seed(0)
    changed = (Augmentation(NONE | {effect: 0.25})(planes) != planes).any(1)
    rows = changed.flatten(1).any(1)
    assert rows.sum() == 6  # of 24
    share = changed[rows].float().mean()
    assert share < 0.5 if effect in ("mask", "sunglasses") else share > 0.5


def test_its_lens_is_that_of_the_cpu(monkeypatch):
    """At one strength for both, on a smooth picture: they sample at the same places."""
    x, y = np.meshgrid(np.linspace(0, 1, 112), np.linspace(0, 1, 112))
    smooth = (255 * np.stack([x, y, x * y], 2)).astype(np.uint8)
    for module in ("facefoundry.augmentation", "facefoundry.streaming.augmentation"):
        monkeypatch.setattr(f"{module}.DISTORTION", (-0.2, -0.2))
    options = NONE | {"lens_distortion": 1.0}
    expected = augment(build_augmentation(options), smooth, 0).astype(int)
    found = Augmentation(options)(torch.from_numpy(smooth.transpose(2, 0, 1).copy())[None])
    difference = found[0].permute(1, 2, 0).numpy().astype(int) - expected
    assert np.abs(expected - smooth.astype(int)).max() > 10
    assert np.abs(difference).max() <= 3


def batches(count: int, size: int = 8, steps: int = 5) -> Shares:
    return Shares(EpochSampler(np.zeros(count, np.int64), size, steps, seed=0), size)


def test_a_pool_loader_gives_the_samplers_batches(monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.loader.AT_ONCE", 16)
    pool = FixedPool.of(toy_crops()[0], np.arange(24), CPU)
    loader = pool_loader(pool, batches(24), NONE, seed=0)
    found = list(loader)
    assert len(found) == len(loader) == 5
    for batch, keys in zip(found, batches(24), strict=True):
        rows = [row for _, row in keys]
        assert batch["index"].tolist() == batch["label"].tolist() == rows
        assert torch.equal(batch["image"], pool.crops[rows])


class Counter(nn.Module):
    """A painter: images whose every pixel is the number of the face, from 1 on."""

    licences = ()

    def __init__(self) -> None:
        super().__init__()
        self.painted = 0

    def forward(self, count: int) -> torch.Tensor:
        numbers = torch.arange(count) + 1 + self.painted
        self.painted += count
        return numbers[:, None, None, None].expand(-1, 3, 112, 112).float()


class Odd(nn.Module):
    """An aligner that finds the odd ones alone."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[images[:, 0, 0, 0] % 2 == 1].to(torch.uint8)


class Mean(nn.Module):
    """A teacher: the mean of all pixels, in every dimension."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return crops.float().mean((1, 2, 3))[:, None].expand(-1, DIMENSIONS)


def toy_pool(fresh: float = 0.5, faces: int = 6, morphs: int = 5) -> FacePool:
    return FacePool(toy_planes(), faces, morphs, fresh, Counter(), Odd(), Mean())


def test_a_pool_keeps_the_first_and_makes_the_others_anew_in_turn():
    torch.manual_seed(0)
    pool = toy_pool()
    kept, painted, mixed = pool.crops[:24], slice(24, 30), slice(30, 35)
    assert len(pool.crops) == 35 and (pool.labels == NOBODY).all()
    assert pool.crops[painted, 0, 0, 0].tolist() == [1, 3, 5, 7, 9, 11]  # full, despite the even
    before = pool.crops.clone()
    pool.refresh(8)  # four of each, of which two painted ones show a face
    assert pool.crops[painted, 0, 0, 0].tolist() == [13, 15, 5, 7, 9, 11]
    assert torch.equal(kept, toy_planes())
    changed = (before[mixed] != pool.crops[mixed]).flatten(1).any(1)
    assert changed.tolist() == [True] * 4 + [False]
    assert pool.made == 6 + 5 + 2 + 4
    assert pool.targets[:, 0].tolist() == pytest.approx(pool.crops.float().mean((1, 2, 3)).tolist())


def test_a_ring_gives_its_places_in_turn():
    ring = Ring(10, 4)
    assert [ring.next(n).tolist() for n in (3, 3, 9, 0)] == [
        [10, 11, 12],
        [13, 10, 11],
        [12, 13, 10, 11],
        [],
    ]
    assert Ring(10, 0).next(2).tolist() == []


STREAM = {"faces": 6, "morphs": 4, "fresh": 0.5, "generator": TINY}
TEACHING = {"scale": 24.0, "margin_cos": 0.2, "regression": 4.0, "among": 99, "labels": 0.1}


def test_a_student_learns_from_a_stream(tmp_path: Path, monkeypatch):
    nets = lambda _: (Counter(), Odd(), Mean())  # noqa: E731
    monkeypatch.setattr("facefoundry.streaming.pool.streaming_nets", nets)
    options = OPTIONS | {
        "teacher": "sface",
        "policy": "none",
        "stream": STREAM,
        "sface": TEACHING | {"embeddings": "none", "morphs": 0},
        "augmentation": NONE,
        "patience": None,
    }
    data = toy_data()
    pool, teacher, licences = streamed(options, data, DIMENSIONS)
    assert len(pool.crops) == 34 and licences == ()
    with pytest.raises(FoundryError, match=r"embedding_size: 64 cannot follow teacher: sface"):
        streamed(options, data, 64)
    student = build_backbone("small_resnet", widths=[8] * 3, head=16, embedding_size=DIMENSIONS)
    module = DistillerModule(
        student,
        teacher,
        options=options,
        data=data,
        log_metrics=lambda metrics, step: None,
        pool=pool,
    )
    painted = pool.made
    curves = fit(module, tmp_path)
    assert curves[-1]["step"] == 12
    assert pool.made > painted + 12
    # what the teacher asks for is what the pool has written down last
    assert torch.equal(teacher.head.centres[24:], pool.targets[24:])


def test_a_stream_wants_a_teacher_that_answers_at_once():
    with pytest.raises(FoundryError, match=r"stream\.faces: .* distill\.teacher: sface"):
        streamed({"teacher": "own", "stream": STREAM}, toy_data(), DIMENSIONS)


def test_labels_are_learnt_on_the_device_too(tmp_path: Path):
    data = toy_data()
    torch.manual_seed(0)
    module = RecognizerModule(
        build_backbone("small_resnet", widths=[8, 8, 8], head=16, embedding_size=16),
        build_head("arcface", identities=4, embedding_size=16),
        options=OPTIONS | {"augmentation": NONE, "steps": 48, "validate_every": 16},
        data=data,
        log_metrics=lambda metrics, step: None,
        pool=pool_for("gpu", data),
    )
    curves = fit(module, tmp_path)
    assert curves[-1]["val_eer"] < 0.1
    assert pool_for("cpu", data) is None
    with pytest.raises(FoundryError, match=r"augment_on: 'tpu' is not one of cpu, gpu"):
        pool_for("tpu", data)


@pytest.mark.parametrize("key", ["augment_on: gpu", "stream.faces"])
def test_without_kornia_the_extra_is_named(key: str, monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=rf"{key}: needs Kornia; run `pip install"):
        if key == "stream.faces":
            streamed({"teacher": "sface", "stream": STREAM}, toy_data(), DIMENSIONS)
        pool_for("gpu", toy_data())
