"""Faces made while a student learns: each part against the one that works image by image."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn
from torch.nn import functional
from toy_faces import CONF, OPTIONS, STANDARD, toy_crops, toy_data, write_faces

from facefoundry.alignment import TEMPLATE, Detector, warp
from facefoundry.augmentation import augment, build_augmentation
from facefoundry.backbones import build_backbone
from facefoundry.data import NOBODY, normalise
from facefoundry.distiller import DistillerModule, streamed
from facefoundry.errors import FoundryError
from facefoundry.licences import SFACE, YUNET
from facefoundry.losses import build_head
from facefoundry.model_dir import load_model
from facefoundry.precision import torch_threads
from facefoundry.recognizer import RecognizerModule, pool_for, train_recognizer, with_people
from facefoundry.references import sface
from facefoundry.samplers import EpochSampler, Shares
from facefoundry.streaming import mover
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.augmentation import Augmentation, Turned
from facefoundry.streaming.loader import FixedPool, pool_loader
from facefoundry.streaming.morphs import morphs
from facefoundry.streaming.painter import Painter
from facefoundry.streaming.people import PeoplePool, open_people, similar_to_earlier
from facefoundry.streaming.pool import DIMENSIONS, FacePool, Own, Ring, SFace
from facefoundry.streaming.puller import Puller, agreed
from facefoundry.streaming.sight import AIM, Sight, looks_of
from facefoundry.synthesis import build_generator, stylegan
from facefoundry.training import fit
from facefoundry.turning import turned

TINY = {"name": "stylegan", "cut": 64, "fit_images": 12, "engine": "openvino"}
CPU = torch.device("cpu")
Found = tuple[torch.Tensor, torch.Tensor]  # crops, and which of the images they are of
NONE = yaml.safe_load((CONF / "augmentation/none.yaml").read_text()) | {"flip": 0.0}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Iterator[stylegan.StyleGan]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stylegan, "CACHE", tmp_path_factory.mktemp("stylegan"))
        patch.setattr("facefoundry.streaming.painter.CACHE", stylegan.CACHE)
        yield build_generator(**TINY)


@pytest.fixture(scope="module")
def painter(source) -> Painter:
    return Painter(source).eval()


@pytest.fixture(scope="module")
def images(painter) -> torch.Tensor:
    torch.manual_seed(3)
    with torch.no_grad():
        return painter(painter.people(4))


def photographs(images: torch.Tensor) -> list[np.ndarray]:
    """(N, 3, H, W) in 0..255 -> images (H, W, 3) uint8."""
    return list(images.permute(0, 2, 3, 1).to(torch.uint8).numpy())


def unit(embeddings: np.ndarray) -> np.ndarray:
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def toy_planes() -> torch.Tensor:
    return FixedPool.of(toy_crops()[0], np.zeros(24, np.int64), CPU).crops


def test_the_painter_paints_what_the_generator_does(source, painter, monkeypatch):
    torch.manual_seed(1)
    people = painter.people(2)
    styles = painter.styles(people)
    assert styles.shape == (2, 5, 512)
    monkeypatch.setattr(painter, "styles", lambda people: styles)
    with torch.no_grad():
        painted = painter(people)
    expected = source._network.images(styles.numpy())
    for one, two in zip(photographs(painted), expected, strict=True):
        assert np.abs(one.astype(int) - two).max() <= 1


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1.5), (torch.bfloat16, 2)])
def test_in_16_bits_it_paints_nearly_the_same(
    dtype: torch.dtype, most: float, painter, monkeypatch
):
    torch.manual_seed(1)
    people = painter.people(1)
    styles = painter.styles(people)
    fast = copy.deepcopy(painter)
    fast.fast(dtype)
    painted = []
    for one in (painter, fast):
        monkeypatch.setattr(one, "styles", lambda people: styles)
        with torch.no_grad():
            painted.append(one(people))
    assert (painted[0] - painted[1]).square().mean().sqrt() < most  # of 255
    planes, teacher = toy_planes()[:2], SFace().eval()
    with torch.no_grad():
        exact = teacher(planes)
        teacher.fast(dtype)
        assert (exact * teacher(planes)).sum(1).min() > 0.999


def test_its_styles_spread_as_the_generators_do(source, painter):
    """The same distribution: means and deviations of both along the components of each group."""
    torch.manual_seed(0)
    ours = painter.styles(painter.people(300)).numpy()
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
    with pytest.raises(FoundryError, match=r"generator\.weights: only the wheel's"):
        Painter(own)


def test_the_aligner_finds_and_cuts_what_opencv_does(images):
    aligner = Aligner(256).eval()
    with torch.no_grad():
        landmarks, scores = aligner.landmarks(images)
        crops, shown = aligner(images)
    assert len(crops) == 4 and shown.all() and crops.dtype == torch.uint8
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
        crops, found = Aligner(256)(torch.cat([noise, images[:1], noise]))
    assert len(crops) == 1 and found.tolist() == [False, True, False]


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


def test_the_teachers_gradient_is_that_of_its_answer():
    """By the difference between two answers a little apart; and nearly the same in 16 bits."""
    teacher, planes = SFace().eval(), toy_planes()[:2].float()
    with torch.no_grad():
        aims = teacher.as_it_is(toy_planes()[6:8])  # others'

    def near(planes: torch.Tensor) -> torch.Tensor:
        return (teacher.as_it_is(planes) * aims).sum()

    def slope() -> torch.Tensor:
        there = planes.clone().requires_grad_()
        (found,) = torch.autograd.grad(near(there), there)
        return found

    exact = slope()
    step = exact / exact.norm()
    with torch.no_grad():
        rise = near(planes + step) - near(planes - step)
    assert rise.item() / 2 == pytest.approx(exact.norm().item(), rel=0.03)
    teacher.fast(torch.bfloat16)
    assert functional.cosine_similarity(slope().flatten(), exact.flatten(), 0) > 0.9


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
    "effect",
    ["turn", "mask", "sunglasses", "lens_distortion", "tone_curve", "noise", "low_resolution"],
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


def test_its_tone_curve_and_white_balance_are_those_of_the_cpu(monkeypatch):
    """The curve unmoved; the colours of a grey under one light or another."""
    for module in ("facefoundry.augmentation", "facefoundry.streaming.augmentation"):
        monkeypatch.setattr(f"{module}.CURVE", 0.0)
    options = NONE | {"flip": 0.0, "tone_curve": 1.0}
    greys = np.repeat(np.arange(256, dtype=np.uint8), 147).reshape(112, 112, 3)
    expected = augment(build_augmentation(options), greys, 0).astype(int)
    found = Augmentation(options)(torch.from_numpy(greys.transpose(2, 0, 1).copy())[None])
    assert np.abs(expected - greys).max() > 3
    assert np.abs(found[0].permute(1, 2, 0).numpy() - expected).max() <= 1

    options = NONE | {"flip": 0.0, "white_balance": 1.0}
    middle = np.full((112, 112, 3), 100, np.uint8)
    transform = build_augmentation(options)
    cpu = np.stack([augment(transform, middle, seed)[0, 0] for seed in range(200)]).astype(float)
    torch.manual_seed(0)
    lit = Augmentation(options)(torch.full((200, 3, 112, 112), 100, dtype=torch.uint8))
    colours = lit[..., 0, 0].numpy().astype(float)
    nearest = np.linalg.norm(colours[:, None] - cpu, axis=2).min(1)
    assert np.mean(nearest < 5) > 0.9
    assert np.ptp(colours[:, 0]) > 50 and np.ptp(colours[:, 2]) > 50


def test_its_turns_are_those_of_the_cpu():
    crops = toy_crops()[0][:4]
    turn = Turned([(30.0, -10.0)], p=1.0)
    found = turn(torch.from_numpy(crops).permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1)
    expected = np.stack([turned(crop, 30.0, -10.0) for crop in crops])
    assert np.abs(found.numpy() - expected).max() <= 3
    assert np.abs(expected.astype(int) - crops).mean() > 5


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


class ToyPainter:
    """Styles of 3 groups whose images are their numbers; a person looks like the first eight."""

    key = "toy"

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.scales, self.mean = torch.ones(3), torch.zeros(16)
        self.basis = torch.eye(16)[:12] * 2
        self.identity = torch.randn(3, 12, 8, generator=generator) * 0.3
        self.common, self.yaw = torch.zeros(8), torch.eye(12)[1]

    def people(self, count: int) -> torch.Tensor:
        return torch.randn(count, 16)

    def paint(self, styles: torch.Tensor) -> torch.Tensor:
        return styles


class Looking(nn.Module):
    """An aligner that paints each of 16 numbers as a square."""

    def landmarks(self, images: torch.Tensor) -> tuple[None, None]:
        return None, None

    def cut(self, images: torch.Tensor, landmarks: None) -> torch.Tensor:
        return functional.interpolate(images.unflatten(2, (4, 4)), size=112)


def toy_judge(crops: torch.Tensor) -> torch.Tensor:
    numbers = crops[:, :, 14::28, 14::28].flatten(2)
    return functional.normalize(numbers.mean(1)[:, :8] + numbers[:, 0, 4:12].tanh(), dim=1)


@pytest.fixture
def toy_sight(tmp_path: Path, monkeypatch) -> Sight:
    monkeypatch.setattr(mover, "CACHE", tmp_path)
    monkeypatch.setattr(mover, "MOST", (0.3, 0.2, 0.0))
    return Sight(ToyPainter(), Looking(), toy_judge, 8)


def test_a_mover_begins_along_the_fitted_directions_and_leaves_the_yaw():
    """Along orthogonal directions of one length, ridge regression of that strength gives half."""
    painter = ToyPainter()
    axes = torch.linalg.qr(torch.randn(36, 8, generator=torch.Generator().manual_seed(1)))[0] * 3
    painter.identity = axes.reshape(3, 12, 8)
    targets = functional.normalize(torch.randn(4, 8), dim=1)
    moves = mover.Mover(painter).moves(torch.zeros(4, 3, 16), targets)
    expected = torch.einsum("gkd,nd->ngk", painter.identity, targets) / 18
    expected[:, 0, 1] = 0
    assert torch.allclose(moves, expected, atol=1e-6)


def test_the_slope_is_that_of_what_is_wanted(painter, monkeypatch):
    """Against a difference along one direction, through StyleGAN, the alignment and SFace; where
    the landmarks lie is taken as given. No two pictures differ enough here."""
    for name in ("ALIKE", "LOOKS"):
        monkeypatch.setattr(f"facefoundry.streaming.sight.{name}", -1.0)
    torch.manual_seed(6)
    aligner = Aligner(256)
    sight = Sight(painter, aligner, SFace().as_it_is, 2)
    people = painter.people(1).expand(2, -1)
    start, targets = mover.strangers(painter, people), sight.people(people)
    with torch.no_grad():
        where = aligner.landmarks(painter.paint(start))
    monkeypatch.setattr(aligner, "landmarks", lambda images: where)
    moves = torch.zeros(2, 5, 60)
    slope = sight.slope(start, moves, targets)
    ahead = slope * 0.01 / slope.norm()

    def wanted(moves: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            crops = sight.crops(start + moves @ painter.basis)
            seen, own = (
                functional.normalize(x - painter.common) for x in (sight.judge(crops), targets)
            )
            looks = looks_of(crops, sight.average)
        return (
            (seen * own).sum(1).clamp(max=AIM).sum()
            - seen[0] @ seen[1]
            - (looks[0] * looks[1]).sum()
        )

    difference = wanted(moves + ahead) - wanted(moves - ahead)
    assert difference.item() == pytest.approx(2 * (slope * ahead).sum().item(), rel=0.1)


def test_looks_are_compared_in_the_middle_and_around_it():
    torch.manual_seed(0)
    average, crops = torch.rand(1, 3, 112, 112) * 255, torch.rand(2, 3, 14, 14)
    crops[1, :, 3:11, 3:11] = crops[0, :, 3:11, 3:11] * 2
    crops = functional.interpolate(crops, size=112)
    around = crops[0].clone()
    around[:, 24:88, 24:88] = -crops[1, :, 24:88, 24:88]
    looks = looks_of(torch.stack([*crops, around]) + average, average)
    alike = (looks[0] * looks).sum(2)
    assert alike[0].tolist() == pytest.approx([1, 1], abs=1e-4)
    assert alike[1, 0].item() == pytest.approx(1, abs=1e-4) and alike[1, 1] < 0.9
    assert alike[2].tolist() == pytest.approx([-1, 1], abs=1e-4)


def test_a_mover_learns_to_pull_and_not_to_paint_one_picture(toy_sight):
    before = Puller(toy_sight, mover.Mover(toy_sight.painter))
    after = Puller(toy_sight, mover.fit_mover(toy_sight, 120 * mover.BATCH))
    cosines, alike = {}, {}
    for name, puller in (("before", before), ("after", after)):
        torch.manual_seed(5)
        people = toy_sight.painter.people(100).repeat_interleave(2, 0)
        targets = puller.targets(people)
        with torch.no_grad():
            seen = toy_sight(puller.styles(people, targets))
        cosines[name] = (seen * targets).sum(1).mean()
        alike[name] = (seen[::2] * seen[1::2]).sum(1).mean()
    assert cosines["after"] > cosines["before"] + 0.1 and cosines["after"] > 0.6
    assert alike["after"] < 0.6


def test_steps_of_the_gradient_bring_pictures_nearer_and_leave_the_yaw(toy_sight, monkeypatch):
    """Also those that are near enough for the network that is learnt."""
    monkeypatch.setattr("facefoundry.streaming.sight.AIM", -1.0)
    net = mover.Mover(toy_sight.painter)
    people = toy_sight.painter.people(40).repeat_interleave(2, 0)
    targets, cosines, coarse = toy_sight.people(people), [], []
    for steps in range(3):
        torch.manual_seed(5)
        styles = Puller(toy_sight, net, steps).styles(people, targets)
        cosines.append((toy_sight.own(toy_sight(styles)) * toy_sight.own(targets)).sum(1).mean())
        coarse.append((styles[:, 0] - net.mean) @ net.white @ net.yaw)
    assert cosines[0] + 0.02 < cosines[1] and cosines[1] + 0.02 < cosines[2]
    assert torch.allclose(coarse[0], coarse[2], atol=1e-4)


def test_steps_of_the_gradient_grow_shorter(toy_sight, monkeypatch):
    """From 0.12 to 0.01 deviations of a component, each step as long as the middle of its third."""
    path, slope, net = [], toy_sight.slope, mover.Mover(toy_sight.painter)

    def traced(styles, *arguments, **options):
        path.append(styles)
        return slope(styles, *arguments, **options)

    monkeypatch.setattr(toy_sight, "slope", traced)
    people = toy_sight.painter.people(4).repeat_interleave(2, 0)
    path.append(Puller(toy_sight, net, 3).styles(people, toy_sight.people(people)))
    moved = (torch.stack(path).diff(dim=0) @ net.white).square().mean((2, 3)).sqrt()
    lengths = torch.tensor([0.12 - 0.11 / 6, 0.065, 0.01 + 0.11 / 6])
    torch.testing.assert_close(moved, lengths[:, None].expand(-1, 8), rtol=1e-3, atol=0)


def test_pictures_of_a_person_agree_on_a_part_of_where_they_go():
    """By hand: two slopes at a right angle meet at 45 degrees, of which each goes half as far as by
    itself: tan = sin 45 / (2 + cos 45). A person of one picture goes its own way, and opposite ones
    theirs."""
    slopes = torch.tensor([[2.0, 0.0], [0.0, 0.1], [3.0, 4.0], [5.0, 0.0], [-1.0, 0.0]])
    targets = torch.tensor([[1.0], [1.0], [2.0], [3.0], [3.0]])
    ways = agreed(slopes, targets)
    turned = np.arctan(np.sqrt(0.5) / (2 + np.sqrt(0.5)))
    expected = [[np.cos(turned), np.sin(turned)], [np.sin(turned), np.cos(turned)]]
    expected += [[0.6, 0.8], [1, 0], [-1, 0]]
    np.testing.assert_allclose(ways, expected, atol=1e-6)


def test_pictures_do_not_hang_on_the_number_of_threads(toy_sight, monkeypatch):
    """A sum's last digit does, and steps of the gradient make another picture of it: so one thread,
    as in a worker, and the caller's afterwards."""
    threads, climb = [], Puller._climb

    def watched(*arguments: object) -> torch.Tensor:
        threads.append(torch.get_num_threads())
        return climb(*arguments)

    monkeypatch.setattr(Puller, "_climb", watched)
    person = toy_sight.painter.people(1)
    with torch_threads(2):
        Puller(toy_sight, mover.Mover(toy_sight.painter), 1).pictures(person, 2)
        assert (threads, torch.get_num_threads()) == ([1], 2)


def test_a_mover_whose_training_was_killed_ends_as_if_it_had_not_been(toy_sight, monkeypatch):
    monkeypatch.setattr(mover, "KEPT_EVERY", 3)
    whole = mover.fit_mover(toy_sight, 8 * mover.BATCH).state_dict()
    (path,) = mover.CACHE.iterdir()
    path.unlink()
    learn, steps = mover._learn, []

    def killed(*arguments: object) -> None:
        steps.append(1)
        if len(steps) == 6:
            raise KeyboardInterrupt
        learn(*arguments)

    monkeypatch.setattr(mover, "_learn", killed)
    with pytest.raises(KeyboardInterrupt):
        mover.fit_mover(toy_sight, 8 * mover.BATCH)
    resumed = mover.fit_mover(toy_sight, 8 * mover.BATCH).state_dict()
    assert len(steps) == 6 + 5
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_a_generator_pulls_too(source, monkeypatch):
    """Pictures of one person, the same in every run, and not one picture; what chose them is in the
    licence chain."""
    monkeypatch.setattr(mover, "CACHE", stylegan.CACHE)
    monkeypatch.setattr(mover, "BATCH", 4)
    pulling = build_generator(**TINY, pull=8, pull_steps=1)
    names = {entry["name"] for entry in pulling.licences}
    assert names == {stylegan.MOBILE.name, YUNET.name, SFACE.name}
    first = pulling.faces("s000001", 3, 0)
    monkeypatch.setattr(mover, "_learn", None)  # it has learnt
    again = build_generator(**TINY, pull=8, pull_steps=1).faces("s000001", 3, 0)
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert np.abs(first[0].image.astype(int) - first[1].image).mean() > 15


class Counter(nn.Module):
    """A painter: people are numbers from 1 on, images have theirs in every pixel."""

    licences = ()

    def __init__(self) -> None:
        super().__init__()
        self.painted = 0

    def fast(self, dtype: torch.dtype) -> None:
        pass

    def people(self, count: int) -> torch.Tensor:
        numbers = torch.arange(count) + 1 + self.painted
        self.painted += count
        return numbers.float()[:, None]

    def forward(self, people: torch.Tensor) -> torch.Tensor:
        return people[:, :, None, None].expand(-1, 3, 112, 112)


class Odd(nn.Module):
    """An aligner that finds the odd ones alone."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = images[:, 0, 0, 0] % 2 == 1
        return images[found].to(torch.uint8), found


class Mean(nn.Module):
    """A teacher: the mean of all pixels, in every dimension."""

    def fast(self, dtype: torch.dtype) -> None:
        pass

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
TEACHING = {
    "scale": 24.0,
    "margin_cos": 0.2,
    "regression": 4.0,
    "among": 99,
    "labels": 0.1,
    "averaged": [],
    "averaging": 1.0,
}


def test_a_student_learns_from_a_stream(tmp_path: Path, monkeypatch):
    nets = lambda _: (Counter(), Odd())  # noqa: E731
    monkeypatch.setattr("facefoundry.streaming.pool.streaming_nets", nets)
    monkeypatch.setattr("facefoundry.streaming.pool.SFace", Mean)
    options = OPTIONS | {
        "teacher": "sface",
        "policy": "none",
        "stream": STREAM,
        "sface": TEACHING | {"embeddings": "none", "morphs": 0},
        "augmentation": NONE,
        "patience": None,
    }
    data = toy_data()
    pool, teacher, licences = streamed(options, data, DIMENSIONS, nn.Identity())
    assert len(pool.crops) == 34 and licences == ()
    with pytest.raises(FoundryError, match=r"embedding_size: 64 cannot follow teacher: sface"):
        streamed(options, data, 64, nn.Identity())
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


def test_a_network_of_ours_answers_a_stream_too(tmp_path: Path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr("facefoundry.streaming.pool.computes_bf16", lambda: False)
    own = build_backbone("small_resnet", widths=[8] * 3, head=16, embedding_size=16).eval()
    with torch.no_grad():
        embeddings = [own(normalise(seen)) for seen in (toy_planes(), toy_planes().flip(3))]
        expected = sum(functional.normalize(part) for part in embeddings)
        found = Own(own)(toy_planes())
    assert torch.allclose(found, functional.normalize(expected), atol=1e-5)
    monkeypatch.setattr("facefoundry.streaming.pool.streaming_nets", lambda _: (Counter(), Odd()))
    options = {"teacher": "own", "policy": "none", "stream": STREAM, "sface": TEACHING}
    pool, teacher, _ = streamed(options, toy_data(), 16, own)
    assert torch.allclose(pool.targets[:24], found, atol=1e-5)
    assert torch.equal(teacher.head.centres, pool.targets)


class Clock(Mean):
    """A teacher: the brightness as the hour of a clock, in the first two dimensions."""

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        angle = 2 * torch.pi * super().forward(crops)[:, :1] / 255
        return functional.pad(torch.cat([angle.cos(), angle.sin()], 1), (0, DIMENSIONS - 2))


def test_heads_beside_a_stream_are_answered_by_their_mean(monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.pool.streaming_nets", lambda _: (Counter(), Odd()))
    monkeypatch.setattr("facefoundry.streaming.pool.SFace", Clock)
    data = toy_data()  # two identities of six renders, two of six painted faces
    averaged = TEACHING | {"averaged": ["render"]}
    options = {"teacher": "sface", "policy": "none", "stream": STREAM, "sface": averaged}
    pool, teacher, _ = streamed(options, data, DIMENSIONS, nn.Identity())
    own = Clock()(toy_planes())
    means = [functional.normalize(own[rows].sum(0), dim=0) for rows in (range(6), range(6, 12))]
    expected = torch.cat([torch.stack(means).repeat_interleave(6, 0), own[12:]])
    assert torch.allclose(pool.targets[:24], expected, atol=1e-6)
    assert torch.equal(teacher.head.centres, pool.targets)
    with pytest.raises(FoundryError, match=r"sface\.averaged: .* by 'dream'"):
        streamed(options | {"sface": averaged | {"averaged": ["dream"]}}, data, 128, nn.Identity())


class Tens(nn.Module):
    """A judge of Counter's pictures: ten people in a row look alike, and the second picture of any
    batch shows another."""

    def fast(self, dtype: torch.dtype) -> None:
        pass

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        places = (crops[:, 0, 0, 0].long() - 1) // 10
        if len(places) > 1:
            places[1] = DIMENSIONS - 1
        return functional.one_hot(places, DIMENSIONS).float()


class All(nn.Module):
    """An aligner that finds a face in every picture."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images.to(torch.uint8), torch.ones(len(images), dtype=torch.bool)


RULES = {"min_consistency": 0.5, "min_images": 3, "max_similarity": 0.75}


def toy_people(aligner: nn.Module, monkeypatch, **rules: float) -> PeoplePool:
    """40 are asked for, four images each, two people in a batch."""
    monkeypatch.setattr("facefoundry.streaming.people.AT_ONCE", {"cpu": 8})
    kept = FixedPool.of(toy_crops()[0], np.repeat(np.arange(4), 6), CPU)
    parts = {"painter": Counter(), "aligner": aligner, "judge": Tens()}
    return PeoplePool(kept, 40, 4, 0.5, **(RULES | rules), **parts)


def test_people_are_let_in_by_the_rules_of_curate(monkeypatch):
    """Of each ten who look alike the first stays, without the picture that does not agree."""
    pool = toy_people(All(), monkeypatch)
    assert pool.identities == 4 + 4 and pool.counts == {"people": 4, "streamed": 12}
    assert torch.equal(pool.crops[:24], toy_planes())
    assert pool.labels.tolist() == [n // 6 for n in range(24)] + [4 + n // 3 for n in range(12)]
    assert pool.crops[24:, 0, 0, 0].tolist() == [1] * 3 + [11] * 3 + [21] * 3 + [31] * 3
    stricter = toy_people(All(), monkeypatch, min_images=4)  # the first of a batch has but three
    assert stricter.crops[24:, 0, 0, 0].tolist() == [2] * 4 + [12] * 4 + [22] * 4 + [32] * 4
    every = toy_people(All(), monkeypatch, max_similarity=1.0)
    assert every.identities == 4 + 40 and len(every.crops) == 24 + 20 * 7
    odd = toy_people(Odd(), monkeypatch)
    assert odd.crops[24:, 0, 0, 0].tolist() == [1] * 3 + [11] * 3 + [21] * 3 + [31] * 3
    with pytest.raises(FoundryError, match=r"people\.identities: none of 40 has 5 images"):
        toy_people(All(), monkeypatch, min_images=5)
    monkeypatch.setattr(Odd, "forward", lambda self, images: (images[:0], images[:, 0, 0, 0] < 0))
    with pytest.raises(FoundryError, match=r"people\.identities: none of 40"):
        toy_people(Odd(), monkeypatch)


class Echo:
    """A puller that is told whom it pulls to, and shows each person as the next."""

    def __init__(self) -> None:
        self.asked: list[torch.Tensor] = []

    def targets(self, people: torch.Tensor) -> torch.Tensor:
        return people + 0.5

    def __call__(self, people: torch.Tensor, targets: torch.Tensor) -> Found:
        self.asked.append(torch.cat([people, targets[:, :1]], 1))
        crops = Counter.forward(None, people + 1).byte()
        return crops, torch.ones(len(people), dtype=torch.bool)


def test_people_may_be_pulled_strangers(monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.people.AT_ONCE", {"cpu": 8})
    kept, puller = FixedPool.of(toy_crops()[0], np.repeat(np.arange(4), 6), CPU), Echo()
    parts = {"painter": Counter(), "aligner": All(), "judge": Tens(), "puller": puller}
    pool = PeoplePool(kept, 40, 4, 0.5, **RULES, **parts)
    assert torch.equal(puller.asked[1][:5, 0], torch.tensor([3.0, 3.0, 3.0, 3.0, 4.0]))
    assert all(torch.equal(asked[:, 0] + 0.5, asked[:, 1]) for asked in puller.asked)
    assert pool.crops[24].unique().tolist() == [pool.people[0].item() + 1]
    pool.refresh(4)  # now they are pulled to the mean of their images
    assert torch.equal(puller.asked[-1][:, 1], pool.means[pool.owners[:2], 0])


def test_a_puller_learns_from_as_many_pictures_as_the_options_say(monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.people.AT_ONCE", {"cpu": 8})
    monkeypatch.setattr("facefoundry.streaming.people.prepared", lambda nets: nets)
    learnt = []
    monkeypatch.setattr(
        "facefoundry.streaming.people.open_puller",
        lambda nets, images, steps: learnt.append((images, steps)) or Echo(),
    )
    kept = FixedPool.of(toy_crops()[0], np.repeat(np.arange(4), 6), CPU)
    for pull in (0, 800):
        options = PEOPLE | {"generator": TINY | {"pull": pull, "pull_steps": 2}}
        pool = open_people(options, (Counter(), All(), Tens()), kept)
        assert isinstance(pool.puller, Echo) == (pull > 0)
    assert learnt == [(800, 2)]


def test_only_who_came_before_counts_as_similar():
    turn = torch.tensor([0.0, 0.1, 1.5, 1.6, 0.05])
    means = torch.stack([turn.cos(), turn.sin()], 1)
    assert similar_to_earlier(means, 0.9).tolist() == [False, True, False, True, True]
    assert similar_to_earlier(means, 1.0).sum() == 0


@pytest.mark.parametrize("compared", [1, 2, 4096])
def test_it_does_not_matter_how_many_are_compared_at_once(compared: int, monkeypatch):
    torch.manual_seed(0)
    means = functional.normalize(torch.randn(50, 3))
    expected = (means @ means.T).tril(-1).amax(1) > 0.95
    monkeypatch.setattr("facefoundry.streaming.people.COMPARED", compared)
    assert torch.equal(similar_to_earlier(means, 0.95), expected) and expected.any()


def test_new_images_of_people_take_the_places_of_old_ones(monkeypatch):
    pool = toy_people(All(), monkeypatch)
    pool.painter.forward = lambda people: Counter.forward(pool.painter, people + 1)
    kept, before = pool.crops[:24].clone(), pool.labels.clone()
    pool.refresh(10)  # five of the twelve; the judge refuses the second
    pictures = pool.crops[24:, 0, 0, 0].tolist()
    assert pictures == [2, 1, 2] + [12, 12, 11] + [21] * 3 + [31] * 3
    pool.refresh(10)
    assert pool.crops[24:, 0, 0, 0].tolist() == [2, 1, 2, 12, 12, 12, 21, 22, 22, 32, 31, 31]
    assert torch.equal(pool.crops[:24], kept) and torch.equal(pool.labels, before)
    assert pool.counts["streamed"] == 12 + 8


PEOPLE = {
    "identities": 40,
    "images": 4,
    "fresh": 0.5,
    "generator": TINY | {"pull": 0, "pull_steps": 0},
} | RULES


def test_labels_of_people_are_learnt_beside_those_of_the_train_faces(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_faces(tmp_path)
    for name, part in (("streaming_nets", lambda _: (Counter(), All())), ("SFace", Tens)):
        monkeypatch.setattr(f"facefoundry.streaming.pool.{name}", part)
    monkeypatch.setattr("facefoundry.streaming.people.AT_ONCE", {"cpu": 8})
    options = OPTIONS | {
        "people": PEOPLE,
        "policy": "none",
        "teacher": "none",
        "init_from": None,
        "augment_on": "cpu",
        "augmentation": NONE,
        "workers": 1,
        "wccn": 0.1,
        "loss": {"loss": "arcface"},
        "backbone": {"architecture": "small_resnet", "widths": [8] * 3, "head": 16},
        "sface": TEACHING,
    }
    seen = []
    monkeypatch.setattr(
        "facefoundry.recognizer.normalise_within",
        lambda net, read, labels, *_: seen.append((read(np.array([0, 24])), labels)),
    )
    metrics = train_recognizer(options, Path("data/split"), Path("out"), lambda *_: None)
    assert metrics["people"] == 4 and metrics["streamed"] > 12 and metrics["identities"] == 4
    ((read, labels),) = seen
    assert labels.max() == 7 and read.shape == (2, 112, 112, 3) and read[1].std() == 0
    names = {entry["name"] for entry in load_model(Path("out"))[1].licences}
    assert names == {YUNET.name, SFACE.name}
    with pytest.raises(FoundryError, match=r"people\.identities: .* set train\.teacher: none"):
        with_people(options | {"teacher": "sface"}, toy_data())
    with pytest.raises(FoundryError, match="policy no-real-faces forbids YuNet"):
        with_people(options | {"policy": "no-real-faces"}, toy_data())


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


@pytest.mark.parametrize("key", ["augment_on: gpu", "stream.faces", "people.identities"])
def test_without_kornia_the_extra_is_named(key: str, monkeypatch):
    monkeypatch.setattr("facefoundry.streaming.find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=rf"{key}: needs Kornia; run `pip install"):
        if key == "stream.faces":
            streamed({"teacher": "sface"}, toy_data(), DIMENSIONS, nn.Identity())
        if key == "people.identities":
            with_people({"teacher": "none"}, toy_data())
        pool_for("gpu", toy_data())
