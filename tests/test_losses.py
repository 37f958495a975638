"""Each head at known angles, against a computation of its own in float64."""

import numpy as np
import pytest
import torch

from facefoundry.errors import FoundryError
from facefoundry.losses import build_head

SCALE = 10.0


def expected(cosines: np.ndarray, labels: list[int], penalise) -> float:
    """Mean cross-entropy of scaled cosines (B, K) with the right one penalised by angle."""
    logits = cosines.astype(np.float64).copy()
    for row, label in enumerate(labels):
        logits[row, label] = penalise(np.arccos(logits[row, label]))
    logits *= SCALE
    shifted = logits - logits.max(1, keepdims=True)
    log_share = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-np.mean([log_share[row, label] for row, label in enumerate(labels)]))


def head_and_embeddings(loss: str, degrees: list[float], **margin: float):
    """Centres at 0 and 90 degrees in the plane; embeddings of unequal length at `degrees`."""
    head = build_head(loss, identities=2, embedding_size=2, scale=SCALE, **margin)
    with torch.no_grad():
        head.centres.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.5]]))
    angles = np.radians(degrees)
    points = np.stack([np.cos(angles), np.sin(angles)], 1)
    cosines = np.stack([points[:, 0], points[:, 1]], 1)
    return head, torch.tensor(points * 7.0, dtype=torch.float32), cosines


def arcface_target(margin: float):
    def penalise(theta: float) -> float:
        if theta + margin <= np.pi:
            return np.cos(theta + margin)
        return np.cos(theta) - margin * np.sin(margin)

    return penalise


CASES = [
    ("softmax", {}, np.cos),
    ("cosface", {"margin_cos": 0.35}, lambda theta: np.cos(theta) - 0.35),
    ("arcface", {"margin_rad": 0.5}, arcface_target(0.5)),
]


@pytest.mark.parametrize(("loss", "margin", "penalise"), CASES)
@pytest.mark.parametrize("degrees", [[5.0, 80.0], [45.0, 46.0], [175.0, -170.0]])
def test_loss_at_known_angles(loss, margin, penalise, degrees):
    head, embeddings, cosines = head_and_embeddings(loss, degrees, **margin)
    labels = [0, 1]
    found = head(embeddings, torch.tensor(labels)).item()
    assert found == pytest.approx(expected(cosines, labels, penalise), rel=1e-4)


@pytest.mark.parametrize(("loss", "margin"), [(case[0], case[1]) for case in CASES])
def test_gradients_flow_and_are_finite_on_the_centre_itself(loss, margin):
    head, embeddings, _ = head_and_embeddings(loss, [0.0, 180.0], **margin)
    embeddings.requires_grad_()
    head(embeddings, torch.tensor([0, 0])).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert head.centres.grad.abs().sum() > 0


def test_a_margin_of_zero_is_plain_softmax():
    head, embeddings, cosines = head_and_embeddings("arcface", [20.0, 60.0], margin_rad=0.4)
    head.margin = 0.0
    found = head(embeddings, torch.tensor([0, 1])).item()
    assert found == pytest.approx(expected(cosines, [0, 1], np.cos), rel=1e-5)


def test_logits_are_cosines_without_margin():
    head, embeddings, cosines = head_and_embeddings("cosface", [30.0, 100.0], margin_cos=0.3)
    assert head.logits(embeddings).detach().numpy() == pytest.approx(cosines, abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "identities", "message"),
    [("arkface", 5, "'arkface' is not one of"), ("arcface", 1, "nothing to tell apart")],
)
def test_bad_heads_are_refused(loss, identities, message):
    with pytest.raises(FoundryError, match=message):
        build_head(loss, identities=identities, embedding_size=8)


def test_an_unknown_argument_is_refused():
    with pytest.raises(FoundryError, match="margin_deg"):
        build_head("arcface", identities=5, embedding_size=8, margin_deg=20)
