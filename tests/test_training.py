"""Data order, augmentation, schedules and a real training that is killed and resumed."""

import math
from dataclasses import replace
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from toy_faces import CONF, OPTIONS, STANDARD, toy_crops, toy_data

from facefoundry.array_file import ArrayFile
from facefoundry.augmentation import SENSOR_NOISE, augment, build_augmentation
from facefoundry.backbones import build_backbone
from facefoundry.data import (
    AugmentedCrops,
    TrainingData,
    collate,
    normalise,
    train_loader,
)
from facefoundry.distiller import DistillerModule
from facefoundry.errors import FoundryError
from facefoundry.losses import build_head
from facefoundry.morphs import morphs
from facefoundry.optim import build_optimizer, build_schedule, orthogonal
from facefoundry.recognizer import RecognizerModule
from facefoundry.resumable import LAST
from facefoundry.samplers import EpochSampler
from facefoundry.teachers import (
    LiveTeacher,
    RecordedTeacher,
    centres,
    recorded,
    sface_teacher,
)
from facefoundry.training import TrainingModule, fit, kept_point

NONE = yaml.safe_load((CONF / "augmentation/none.yaml").read_text())
LONGER = {
    "steps": 48,
    "validate_every": 16,
    "margin_warmup": 0.0,
    "optimizer": {"name": "adamw", "lr": 1e-2, "weight_decay": 0.05},
}


@pytest.fixture(scope="module")
def data() -> TrainingData:
    return toy_data()


def recognizer(data: TrainingData, loss: str = "arcface", **options) -> RecognizerModule:
    torch.manual_seed(0)
    return RecognizerModule(
        build_backbone("small_resnet", widths=[8, 8, 8], head=16, embedding_size=16),
        build_head(loss, identities=4, embedding_size=16),
        options=OPTIONS | options,
        data=data,
        log_metrics=lambda metrics, step: None,
    )


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_augmentation_depends_on_the_seed_alone():
    crops, _ = toy_crops()
    transform = build_augmentation(STANDARD)
    first = augment(transform, crops[0], 7)
    augment(transform, crops[1], 8)
    assert np.array_equal(augment(transform, crops[0], 7), first)
    assert not np.array_equal(augment(transform, crops[0], 9), first)
    assert first.shape == (112, 112, 3)
    assert first.dtype == np.uint8


def test_no_augmentation_is_the_image_or_its_mirror():
    crops, _ = toy_crops()
    transform = build_augmentation(NONE)
    seen = {augment(transform, crops[0], seed).tobytes() for seed in range(12)}
    assert seen == {crops[0].tobytes(), crops[0][:, ::-1].tobytes()}


@pytest.mark.parametrize(("name", "rows"), [("mask", (80, 105)), ("sunglasses", (46, 56))])
def test_occlusions_cover_what_they_are_named_for(name, rows):
    transform = build_augmentation(NONE | {"flip": 0.0, name: 1.0})
    white = np.full((112, 112, 3), 255, np.uint8)
    covered = augment(transform, white, 3) != 255
    middle = covered[rows[0] : rows[1], 40:72].any(-1)
    assert middle.mean() > 0.5
    assert not covered[:30].any()


def test_a_lens_bends_straight_lines_and_leaves_the_middle():
    transform = build_augmentation(NONE | {"flip": 0.0, "lens_distortion": 1.0})
    lines = np.zeros((112, 112, 3), np.uint8)
    lines[:, [20, 56, 92]] = 255
    bent = [augment(transform, lines, seed)[..., 0] for seed in range(4)]
    for view in bent:
        edge, middle = (np.abs(view[rows, 60:].argmax(-1).mean() + 60) for rows in ([1, 110], [56]))
        assert 0.3 < abs(edge - middle) < 12
        assert np.all(view[:, 56] > 100), "a line through the centre stays straight"
    assert len({view.tobytes() for view in bent}) == 4


def test_a_tone_curve_keeps_black_white_and_what_is_lighter_than_what():
    transform = build_augmentation(NONE | {"flip": 0.0, "tone_curve": 1.0})
    greys = np.repeat(np.arange(256, dtype=np.uint8), 147).reshape(112, 112, 3)
    curves = [augment(transform, greys, seed).reshape(-1, 3)[::49] for seed in range(8)]
    for curve in curves:
        assert np.array_equal(curve[[0, -1]], [[0] * 3, [255] * 3])
        assert np.all(np.diff(curve.astype(int), axis=0) >= 0)
        assert np.all(curve == curve[:, :1])
    assert np.std([curve[128, 0] for curve in curves]) > 10


def test_white_balance_weighs_red_against_blue():
    transform = build_augmentation(NONE | {"flip": 0.0, "white_balance": 1.0})
    grey = np.full((112, 112, 3), 100, np.uint8)
    lights = np.stack([augment(transform, grey, seed) for seed in range(8)])
    red, green, blue = lights.reshape(8, -1, 3)[:, 0].T.astype(int)
    assert np.all(lights == lights[:, :1, :1]) and np.all(green == 100)
    assert np.all((red > 100) == (blue < 100)) and len(set(red)) > 4


def test_noise_is_about_the_image():
    transform = build_augmentation(NONE | {"flip": 0.0, "noise": 1.0})
    grey = np.full((112, 112, 3), 128, np.uint8)
    found = augment(transform, grey, 1).astype(float) - 128
    assert abs(found.mean()) < 1
    least, most = SENSOR_NOISE
    assert 0.8 * least < found.std() / 255 < 1.2 * most


def test_a_spawned_process_maps_a_large_array_in_place_of_a_copy(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.arange(240, dtype=np.uint8).reshape(5, 4, 4, 3)
    file = ArrayFile(array)
    with get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(np.array, (file,)), array)
        assert not pool.apply(attrgetter("flags.writeable"), (file,))
        assert pool.apply(attrgetter("base.base.__class__.__name__"), (file,)) == "mmap"
    assert list((tmp_path / ".cache").iterdir()) == []


def test_loader_processes_change_nothing(data: TrainingData, tmp_path: Path, monkeypatch):
    sampler = EpochSampler(data.train.labels, 8, 2, seed=0)
    monkeypatch.chdir(tmp_path)  # loader processes share a file in the project
    found = [list(train_loader(data.train, sampler, workers)) for workers in (0, 1)]
    for alone, helped in zip(*found, strict=True):
        assert torch.equal(alone["image"], helped["image"])
        assert torch.equal(alone["label"], helped["label"])


def test_batches_are_channels_last_and_normalised_as_in_the_graph(data: TrainingData):
    batch = collate([data.train[(0, 0)], data.train[(0, 1)]])
    assert batch["image"].shape == (2, 3, 112, 112)
    assert batch["image"].is_contiguous(memory_format=torch.channels_last)
    assert normalise(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1.0, 1.0]


def test_schedule_rises_and_falls_to_zero():
    factor = build_schedule(OPTIONS | {"steps": 100})
    assert factor(0) == pytest.approx(0.1)
    assert factor(9) == pytest.approx(1.0)
    assert factor(55) == pytest.approx(0.5 * (1 + math.cos(math.pi / 2)))
    assert factor(100) == pytest.approx(0.0, abs=1e-9)


def test_biases_and_norms_are_not_decayed():
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4))
    decayed, free = build_optimizer([module], OPTIONS["optimizer"]).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0.0)
    with pytest.raises(FoundryError, match="not one of adamw, muon, sgd"):
        build_optimizer([module], OPTIONS["optimizer"] | {"name": "adam"})


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (16, 16)])
def test_orthogonal_keeps_the_directions_and_evens_their_strengths(shape: tuple[int, int]):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    strengths = np.geomspace(1, 0.05, min(shape))
    matrix = torch.tensor(left * strengths @ right, dtype=torch.float32)
    found = left.T @ orthogonal(matrix).numpy() @ right.T
    assert 0.6 < np.diag(found).min() < np.diag(found).max() < 1.25
    assert found - np.diag(np.diag(found)) == pytest.approx(0, abs=1e-4)


def test_muon_turns_inner_weights_and_leaves_the_others_to_adamw():
    """The first step of either: AdamW's is lr in each entry, by the sign of the gradient."""
    torch.manual_seed(0)
    options = {"name": "muon", "lr": 0.01, "weight_decay": 0.0}
    module = torch.nn.ModuleDict(
        {
            "inner": torch.nn.Conv2d(3, 8, 3),
            "depthwise": torch.nn.Conv2d(8, 8, 3, groups=8),
            "head": build_head("cosface", identities=5, embedding_size=8),
        }
    )
    before = {name: value.detach().clone() for name, value in module.named_parameters()}
    optimizer = build_optimizer([module], options)
    for value in module.parameters():
        value.grad = torch.randn_like(value)
    gradients = {name: value.grad.clone() for name, value in module.named_parameters()}
    optimizer.step()
    moved = {name: before[name] - value.detach() for name, value in module.named_parameters()}
    for name in set(moved) - {"inner.weight"}:
        assert torch.allclose(moved[name], 0.01 * gradients[name].sign(), atol=1e-5), name
    turned = moved["inner.weight"].flatten(1)
    left, _, right = torch.linalg.svd(gradients["inner.weight"].flatten(1), full_matrices=False)
    assert float(torch.cosine_similarity(turned.ravel(), (left @ right).ravel(), dim=0)) > 0.98
    assert float(turned.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.15)


def test_training_learns_and_the_same_seed_gives_the_same_weights(data, tmp_path: Path):
    found = []
    for run in ("a", "b"):
        module = recognizer(data, **LONGER)
        curves = fit(module, tmp_path / run)
        found.append(weights(module))
    assert [point["step"] for point in curves] == [16, 32, 48]
    assert curves[-1]["loss"] < 0.7 * curves[0]["loss"]
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_no_sample_is_seen_twice_in_the_same_way(data, tmp_path: Path):
    seen = []

    class Watching(AugmentedCrops):
        def __getitem__(self, key):
            seen.append(key)
            return super().__getitem__(key)

    watched = Watching(data.train.crops, data.train.labels, NONE, seed=0)
    fit(recognizer(replace(data, train=watched)), tmp_path)
    assert len(seen) >= 12 * 8
    assert len(set(seen[: 12 * 8])) == 12 * 8


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_killed_training_ends_in_the_same_weights(data, tmp_path: Path, name: str):
    optimizer = OPTIONS["optimizer"] | {"name": name}
    whole = recognizer(data, optimizer=optimizer)
    curves = fit(whole, tmp_path / "whole")

    class Killed(RecognizerModule):
        def on_train_batch_start(self, batch, index):
            super().on_train_batch_start(batch, index)
            if self.global_step == 10:
                raise KeyboardInterrupt

    torch.manual_seed(0)
    dying = recognizer(data, optimizer=optimizer)
    dying.__class__ = Killed
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(dying, tmp_path / "killed")
    assert (tmp_path / "killed/last.pt").is_file()
    torch.manual_seed(99)  # whatever the second start begins with must not matter
    resumed = recognizer(data, optimizer=optimizer)
    assert fit(resumed, tmp_path / "killed") == curves
    expected = weights(whole)
    assert all(torch.equal(expected[name], value) for name, value in weights(resumed).items())


def test_a_loss_that_is_not_a_number_names_step_and_images(data, tmp_path: Path):
    module = recognizer(data)
    with torch.no_grad():
        module.head.centres.fill_(float("nan"))
    with pytest.raises(FoundryError, match=r"the loss is nan at step 0 \(batch: i\d/"):
        fit(module, tmp_path)


def test_a_distilled_student_moves_towards_its_teacher(data, tmp_path: Path):
    teacher = recognizer(data).backbone
    torch.manual_seed(5)
    student = build_backbone("small_resnet", widths=[8, 8, 8], head=16, embedding_size=16)
    module = DistillerModule(
        student,
        LiveTeacher(teacher),
        options=OPTIONS | LONGER,
        data=data,
        log_metrics=lambda metrics, step: None,
    )
    before = weights(teacher)
    curves = fit(module, tmp_path)
    assert curves[-1]["loss"] < 0.8 * curves[0]["loss"]
    assert all(torch.equal(before[name], value) for name, value in weights(teacher).items())
    assert not any("teacher" in name for name in module.state_dict())


def embeddings_file(path: Path, image_ids: list[str], size: int = 16) -> Path:
    """Embeddings by image id: the first half points one way, the others the other way."""
    half = len(image_ids) // 2
    zeros = [0.0] * (size - 1)
    rows = [[1.0, *zeros]] * half + [[*zeros, 1.0]] * (len(image_ids) - half)
    pq.write_table(pa.table({"image_id": image_ids, "embedding": rows}), path)
    return path


def test_a_recorded_teacher_is_matched_by_image_id(data, tmp_path: Path):
    ids = list(data.image_ids)
    path = embeddings_file(tmp_path / "embeddings.parquet", ids)
    found = recorded(path, [ids[-1], ids[0]])
    assert found[:, 0].tolist() == [0.0, 1.0]
    assert found[:, 15].tolist() == [1.0, 0.0]
    with pytest.raises(FoundryError, match=r"no embedding of stranger.*curate\.judge: sface"):
        recorded(path, [*ids, "stranger"])


def test_a_recorded_teachers_loss_at_known_angles():
    """Centres at 0, 90 and 180 degrees of a plane, a student at 60 that should be at 90."""
    teacher = RecordedTeacher(
        torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]),
        scale=10.0,
        margin_cos=0.3,
        regression=4.0,
        among=3,
    )
    student = 3.0 * torch.tensor([[0.5, 3**0.5 / 2]])
    loss = teacher.loss(student, torch.zeros(1, 3, 112, 112), {"index": torch.tensor([1])})
    cosines = np.array([0.5, np.sqrt(0.75), -0.5])
    logits = 10 * (cosines - [0, 0.3, 0])
    softmax = np.exp(logits) / np.exp(logits).sum()
    assert loss.item() == pytest.approx(-np.log(softmax[1]) + 4 * (1 - cosines[1]), rel=1e-5)


def test_a_recorded_teacher_teaches(data, tmp_path: Path):
    torch.manual_seed(5)
    path = embeddings_file(tmp_path / "e.parquet", list(data.image_ids))
    options = {"scale": 4.0, "margin_cos": 0.1, "regression": 4.0, "among": 100}
    module = DistillerModule(
        build_backbone("small_resnet", widths=[8, 8, 8], head=16, embedding_size=16),
        RecordedTeacher(recorded(path, data.image_ids), **options),
        options=OPTIONS | LONGER,
        data=data,
        log_metrics=lambda metrics, step: None,
    )
    curves = fit(module, tmp_path)
    assert curves[-1]["loss"] < 0.8 * curves[0]["loss"]


def test_an_identitys_images_share_the_mean_of_its_answers():
    """Two images of a head at 0 and 90 degrees of a plane, one at 180 of another, and a painted
    face whose two answers, at 90 and 270, stay its own."""
    answers = torch.tensor([[3.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -2.0]])
    labels, heads = np.array([0, 0, 1, 2, 2]), np.array([True, True, True, False, False])
    means, places = centres(answers, labels, heads, 1.0)
    half = 0.5**0.5
    expected = [[half, half], [half, half], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    assert means[places].numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert len(means) == 4
    teacher = RecordedTeacher(means, 10.0, 0.0, 0.0, among=4, places=places)
    student = torch.tensor([[1.0, 1.0]])
    losses = [
        teacher.loss(student, torch.zeros(1, 3, 112, 112), {"index": torch.tensor([index])}).item()
        for index in range(5)
    ]
    assert losses[0] == losses[1] == min(losses)
    drawn, places = centres(answers, labels, heads, 0.5)
    near, far = np.cos(np.pi / 8), np.sin(np.pi / 8)
    expected = [[near, far], [far, near], *expected[2:]]
    assert drawn.numpy() == pytest.approx(np.array(expected), abs=1e-6)
    assert places.tolist() == [0, 1, 2, 3, 4]
    own, places = centres(answers, labels, np.zeros(5, bool), 1.0)
    assert places.tolist() == [0, 1, 2, 3, 4]
    assert own.numpy() == pytest.approx(answers.numpy() / [[3], [1], [1], [1], [2]])


def test_heads_are_answered_by_their_mean_and_have_no_morphs(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = toy_data()  # two identities of six renders, two of six painted faces
    path = embeddings_file(tmp_path / "e.parquet", list(data.image_ids), size=128)
    options = {"scale": 4.0, "margin_cos": 0.1, "regression": 1.0, "among": 99, "morphs": 3}
    options |= {"embeddings": str(path), "averaged": ["render"], "averaging": 1.0}
    crops = data.train.crops
    more, teacher = sface_teacher(options, data, 128, threads=1)
    assert len(teacher.head.centres) == 2 + 12 + 3
    assert teacher.places[:12].tolist() == [0] * 6 + [1] * 6
    assert teacher.places[12:].tolist() == list(range(2, 17))
    assert np.array_equal(more.train.crops[24:], morphs(crops, np.arange(12, 24), 3, seed=0))
    absent = options | {"averaged": ["hub"]}
    passed_over, teacher = sface_teacher(absent, toy_data(), 128, threads=1)
    assert len(teacher.head.centres) == 24 + 3
    assert np.array_equal(passed_over.train.crops[24:], morphs(crops, np.arange(24), 3, seed=0))
    both = options | {"averaged": ["render", "stylegan"]}
    alone, teacher = sface_teacher(both, toy_data(), 128, threads=1)
    assert len(teacher.head.centres) == 4 + 3  # with nobody else, their own faces are morphed
    assert np.array_equal(alone.train.crops, passed_over.train.crops)
    for name in ("dream", "mix"):
        with pytest.raises(FoundryError, match=rf"sface\.averaged: .* '{name}', but by .*render"):
            sface_teacher(options | {"averaged": [name]}, toy_data(), 128, threads=1)


def test_labels_and_a_recorded_teacher_train_together_with_morphs(
    data, tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)  # the morphs' embeddings are kept in the project
    path = embeddings_file(tmp_path / "e.parquet", list(data.image_ids), size=128)
    options = {"scale": 4.0, "margin_cos": 0.1, "regression": 1.0, "among": 16, "morphs": 10}
    options |= {"embeddings": str(path), "averaged": [], "averaging": 1.0}
    fresh = toy_data()
    more, teacher = sface_teacher(options, fresh, 128, threads=1)
    named = len(more.train) - 10
    assert more.image_ids[named] == "morph/000000"
    assert list(more.train.labels[named:]) == [-1] * 10
    assert teacher.head.sample_rate == pytest.approx(16 / len(more.train))
    with pytest.raises(FoundryError, match="embedding_size: 64 cannot follow teacher: sface"):
        sface_teacher(options | {"morphs": 0}, toy_data(), 64, threads=1)
    again, same = sface_teacher(options, toy_data(), 128, threads=1)
    assert torch.equal(same.head.centres, teacher.head.centres)
    assert np.array_equal(again.train.crops, more.train.crops)
    torch.manual_seed(5)
    backbone = build_backbone("small_resnet", widths=[8, 8, 8], head=16, embedding_size=128)
    module = RecognizerModule(
        backbone,
        build_head("arcface", identities=4, embedding_size=128),
        teacher,
        0.5,
        options=OPTIONS | LONGER,
        data=more,
        log_metrics=lambda metrics, step: None,
    )
    curves = fit(module, tmp_path)
    assert curves[-1]["loss"] < 0.9 * curves[0]["loss"]
    with pytest.raises(FoundryError, match="sampling: 'balanced' leaves out faces"):
        RecognizerModule(
            backbone,
            build_head("arcface", identities=4, embedding_size=128),
            options=OPTIONS | {"sampling": "balanced"},
            data=more,
            log_metrics=lambda metrics, step: None,
        )


def test_faces_of_nobody_do_not_reach_the_head(data):
    module = recognizer(data)
    images = torch.rand(3, 3, 112, 112)
    batch = {"label": torch.tensor([1, -1, 2]), "index": torch.tensor([0, 1, 2])}
    module.backbone.eval()
    named = {name: value[[0, 2]] for name, value in batch.items()}
    assert torch.allclose(
        module.batch_loss(images, batch), module.batch_loss(images[[0, 2]], named), rtol=1e-5
    )
    assert module.batch_loss(images[1:2], {"label": torch.tensor([-1])}) == 0.0


def test_training_stops_where_validation_no_longer_improves(data, tmp_path: Path):
    still = {"optimizer": {"name": "adamw", "lr": 0.0, "weight_decay": 0.0}, "steps": 40}
    module = recognizer(data, **still, patience=0.2)
    steps = [point["step"] for point in fit(module, tmp_path)]
    errors = [point["val_eer"] for point in module.curves]
    best = errors.index(min(errors))
    assert len(steps) < 10
    assert steps[-1] - steps[best] >= 8


def test_without_a_terminal_a_line_says_that_it_goes_on(data, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr("facefoundry.training.QUIET_SECONDS", 0.0)
    fit(recognizer(data, steps=4, validate_every=4), tmp_path)
    lines = [line for line in capsys.readouterr().err.splitlines() if "step" in line]
    assert [line.split("  ")[0] for line in lines[:4]] == [
        f"RecognizerModule: step {step} of 4" for step in (1, 2, 3, 4)
    ]
    assert "images/s" in lines[0] and "val_eer" in lines[-1] and "val_eer" not in lines[0]


def test_without_patience_the_last_weights_are_kept(data, tmp_path: Path, monkeypatch):
    errors = iter([0.1, 0.2, 0.3, 0.4])  # the first validation is the best
    monkeypatch.setattr(TrainingModule, "_validate", lambda self: next(errors))
    module = recognizer(data, steps=8, validate_every=2, patience=None)
    curves = fit(module, tmp_path)
    assert len(curves) == 4
    assert kept_point(curves, None) == 3
    assert kept_point(curves, 0.5) == 0
    last = torch.load(tmp_path / LAST, weights_only=True)["module"]
    assert all(torch.equal(last[name], value) for name, value in module.state_dict().items())
