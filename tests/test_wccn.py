"""Within-class covariance normalisation, against its definition and in a network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_training_options import recognizer
from toy_faces import toy_crops, toy_data

from facefoundry.backbones import build_backbone
from facefoundry.data import NOBODY, labels_of
from facefoundry.errors import FoundryError
from facefoundry.manifest import MANIFEST
from facefoundry.model_dir import load_model
from facefoundry.trained_model import train
from facefoundry.training import embedder
from facefoundry.wccn import IMAGES, normalise_within, wccn_matrix

SMALL = {"widths": [4, 4, 4], "blocks": [1, 1, 1], "head": 16}


def within(embeddings: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """By a loop over the identities."""
    groups = [embeddings[labels == label] for label in np.unique(labels)]
    return sum(len(g) * np.cov(g.T, bias=True) for g in groups) / len(embeddings)


def noisy(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """400 points of 50 identities that lie apart mostly along one direction of six."""
    labels = np.repeat(np.arange(50), 8)
    spread = np.array([3.0, 1, 1, 0.5, 0.2, 0.1])
    points = rng.standard_normal((50, 6))[labels] + rng.standard_normal((400, 6)) * spread
    return points @ np.linalg.qr(rng.standard_normal((6, 6)))[0], labels


def test_identities_lie_apart_alike_in_all_directions_afterwards():
    points, labels = noisy(np.random.default_rng(0))
    matrix = wccn_matrix(points, labels, ridge=0.0)
    assert np.allclose(matrix, matrix.T)
    assert np.linalg.eigvalsh(matrix).mean() == pytest.approx(1)
    spread = within(points @ matrix, labels)
    assert np.allclose(spread, spread[0, 0] * np.eye(6))


def test_the_ridge_holds_back_and_labels_may_be_any_numbers():
    points, labels = noisy(np.random.default_rng(1))
    mild = np.linalg.cond(wccn_matrix(points, labels, ridge=1.0))
    assert 1 < mild < np.linalg.cond(wccn_matrix(points, labels, ridge=0.1))
    others = wccn_matrix(points, 3 * labels + 7, ridge=0.1)
    assert np.allclose(others, wccn_matrix(points, labels, ridge=0.1))


@pytest.fixture
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    net = build_backbone("small_resnet", **SMALL, embedding_size=8)
    crops, _ = toy_crops(identities=6, images=4)
    planes = torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1
    for _ in range(20):  # the statistics of batch normalisation settle
        net.train()(planes)
    with torch.no_grad():
        net.embedding.normalise.weight.uniform_(0.5, 2)
        net.embedding.normalise.bias.uniform_(-1, 1)
    return net.eval()


def test_a_network_gives_the_matrix_times_what_it_gave(backbone: torch.nn.Module):
    crops, names = toy_crops(identities=6, images=4)
    labels = labels_of(names)
    before = embedder(backbone)(crops)
    stranger = np.full(3, NOBODY)
    every = np.concatenate([255 - crops[:3], crops])
    normalise_within(backbone, every.__getitem__, np.append(stranger, labels), 0.1, 0)
    after = embedder(backbone)(crops)
    unit = before / np.linalg.norm(before, axis=1, keepdims=True)
    assert np.allclose(after, before @ wccn_matrix(unit, labels, 0.1), atol=1e-4)
    assert not np.allclose(after, before, atol=0.1), "nothing changed: the case shows nothing"
    norm = backbone.embedding.normalise
    assert np.allclose(norm.running_var, after.var(axis=0), rtol=1e-3)


def test_it_can_be_trained_on_as_if_it_had_been_trained_so(backbone: torch.nn.Module):
    crops, names = toy_crops(identities=6, images=4)
    normalise_within(backbone, crops.__getitem__, labels_of(names), 0.1, 0)
    planes = torch.from_numpy(crops).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        kept = backbone(planes)
        backbone.embedding.normalise.train()  # by the statistics of the batch
        assert torch.allclose(backbone(planes), kept, atol=1e-2)


def test_large_sets_are_read_by_whole_identities(monkeypatch, backbone: torch.nn.Module):
    monkeypatch.setattr("facefoundry.wccn.IMAGES", 8)
    assert IMAGES >= 1000
    crops, names = toy_crops(identities=6, images=4)
    seen: list[np.ndarray] = []

    def watched(embeddings: np.ndarray, labels: np.ndarray, ridge: float) -> np.ndarray:
        seen.append(labels)
        return wccn_matrix(embeddings, labels, ridge)

    monkeypatch.setattr("facefoundry.wccn.wccn_matrix", watched)
    normalise_within(backbone, crops.__getitem__, labels_of(names), 0.1, 0)
    assert np.bincount(seen[0])[np.unique(seen[0])].tolist() == [4, 4]


def test_a_backbone_with_another_end_is_refused_before_it_is_trained():
    other = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 112 * 112, 16))
    with pytest.raises(FoundryError, match="wccn: 0, or choose small_resnet"):
        recognizer(toy_data(), other, wccn=0.1)


def test_the_model_that_training_keeps_has_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / MANIFEST).write_bytes(b"named by its hash alone")
    data, outs = toy_data(), []
    for ridge in (0, 0.1):
        torch.manual_seed(0)
        net = build_backbone("small_resnet", **SMALL, embedding_size=16)
        out = tmp_path / str(ridge)
        out.mkdir()
        arguments = {"architecture": "small_resnet", **SMALL}
        train(recognizer(data, net, wccn=ridge), tmp_path, out, arguments, [])
        outs.append(embedder(load_model(out)[0])(data.train.crops))
    plain, normalised = (
        within(rows / np.linalg.norm(rows, axis=1, keepdims=True), data.train.labels)
        for rows in outs
    )
    assert np.linalg.cond(normalised) < 0.5 * np.linalg.cond(plain)
