"""Each head at known angles, against a computation of its own in float64."""

import sys

import numpy as np
import pytest
import torch

from facefoundry.errors import FoundryError
from facefoundry.losses import CLASSIFICATION_HEADS, build_head
from facefoundry.pair_losses import PAIR_HEADS

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


def numbers(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unit(array: torch.Tensor) -> np.ndarray:
    values = array.detach().double().numpy()
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def cross_entropy(logits: np.ndarray, labels: list[int]) -> float:
    log_share = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return float(-log_share[np.arange(len(labels)), labels].mean())


def test_subcenter_takes_the_nearest_centre_of_each_identity():
    head = build_head(
        "subcenter_arcface",
        identities=3,
        embedding_size=4,
        scale=SCALE,
        margin_rad=0.5,
        sub_centres=2,
    )
    embeddings, labels = numbers(0, 5, 4), [0, 1, 2, 1, 0]
    cosines = np.einsum("bd,ksd->bks", unit(embeddings), unit(head.centres)).max(2)
    assert head.logits(embeddings).detach().numpy() == pytest.approx(cosines, abs=1e-6)
    found = head(embeddings, torch.tensor(labels)).item()
    assert found == pytest.approx(expected(cosines, labels, arcface_target(0.5)), rel=1e-4)


def test_curricularface_weighs_hard_negatives_by_the_moving_mean():
    margin, start = 0.5, 0.3
    head, embeddings, cosines = head_and_embeddings(
        "curricularface", [50.0, 10.0, 175.0], margin_rad=margin
    )
    head.hardness.fill_(start)
    labels = [0, 0, 0]
    hardness = 0.99 * start + 0.01 * cosines[:, 0].mean()
    logits = cosines.copy()
    for row, degrees in enumerate([50.0, 10.0, 175.0]):
        theta = np.radians(degrees)
        negative = cosines[row, 1]
        if negative > np.cos(theta + margin):
            logits[row, 1] = negative * (hardness + negative)
        logits[row, 0] = arcface_target(margin)(theta)
    assert logits[0, 1] != cosines[0, 1]
    assert logits[1, 1] == cosines[1, 1]
    found = head(embeddings, torch.tensor(labels)).item()
    assert found == pytest.approx(cross_entropy(SCALE * logits, labels), rel=1e-4)
    assert head.hardness.item() == pytest.approx(hardness, rel=1e-5)


def test_adaface_gives_short_embeddings_a_smaller_angle_and_a_smaller_offset():
    margin, concentration, momentum = 0.4, 0.333, 0.01
    head, _, cosines = head_and_embeddings("adaface", [40.0, 50.0], margin_rad=margin)
    lengths, labels = np.array([1.0, 30.0]), [0, 1]
    embeddings = torch.tensor(cosines * lengths[:, None], dtype=torch.float32)
    mean = (1 - momentum) * 20 + momentum * lengths.mean()
    std = (1 - momentum) * 100 + momentum * lengths.std(ddof=1)
    quality = np.clip(concentration * (lengths - mean) / (std + 1e-3), -1, 1)
    logits = cosines.copy()
    for row, label in enumerate(labels):
        theta = np.arccos(cosines[row, label])
        angle = np.cos(theta - margin * quality[row])
        logits[row, label] = angle - margin * (1 + quality[row])
    found = head(embeddings, torch.tensor(labels)).item()
    assert found == pytest.approx(cross_entropy(SCALE * logits, labels), rel=1e-4)
    assert head.length_mean.item() == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize("loss", ["curricularface", "adaface"])
def test_evaluation_leaves_the_moving_means_alone(loss):
    head = build_head(loss, identities=3, embedding_size=4).eval()
    before = {key: value.clone() for key, value in head.state_dict().items()}
    head(numbers(0, 4, 4), torch.tensor([0, 1, 2, 0]))
    assert all(torch.equal(value, before[key]) for key, value in head.state_dict().items())


@pytest.mark.parametrize("loss", CLASSIFICATION_HEADS)
def test_classification_heads_take_a_batch_of_one_and_a_new_margin(loss):
    head = build_head(loss, identities=3, embedding_size=4)
    head.scale, head.margin = 16.0, 0.1
    embeddings = numbers(0, 1, 4).requires_grad_()
    head(embeddings, torch.tensor([2])).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert torch.isfinite(head.centres.grad).all()
    assert head.sampling is None
    assert head.logits(embeddings).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("loss", CLASSIFICATION_HEADS)
def test_partial_fc_with_everything_sampled_is_the_full_head(loss):
    full = build_head(loss, identities=7, embedding_size=4)
    partial = build_head(loss, identities=7, embedding_size=4, sample_rate=1 - 1e-9)
    partial.load_state_dict(full.state_dict())
    embeddings, labels = numbers(0, 5, 4), torch.tensor([6, 0, 3, 3, 1])
    losses = [head(embeddings, labels) for head in (full, partial)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
    for loss_value in losses:
        loss_value.backward()
    assert torch.allclose(full.centres.grad, partial.centres.grad, atol=1e-6)


def test_partial_fc_trains_the_batchs_identities_and_only_its_share_of_the_others():
    head = build_head("arcface", identities=100, embedding_size=4, sample_rate=0.1)
    torch.manual_seed(0)
    labels = torch.tensor([97, 3, 3, 41])
    head(numbers(0, 4, 4), labels).backward()
    touched = head.centres.grad.abs().sum(1) > 0
    assert touched.sum() == 10
    assert touched[labels].all()
    head.eval()
    places = head.sampled(labels)[1]
    assert torch.equal(places, labels)
    crowded = build_head("arcface", identities=100, embedding_size=4, sample_rate=0.01)
    assert torch.isfinite(crowded(numbers(0, 4, 4), labels))


LABELS = [0, 0, 0, 1, 1, 2, 3, 3]


def triplets(cosines: np.ndarray):
    for anchor, label in enumerate(LABELS):
        for positive, second in enumerate(LABELS):
            for negative, third in enumerate(LABELS):
                if positive != anchor and second == label and third != label:
                    yield anchor, cosines[anchor, negative] - cosines[anchor, positive]


def batch_hard(cosines: np.ndarray, margin: float) -> list[float]:
    worst: dict[int, float] = {}
    for anchor, violation in triplets(cosines):
        worst[anchor] = max(worst.get(anchor, -9.0), violation)
    return [violation + margin for violation in worst.values() if violation + margin > 0]


def semi_hard(cosines: np.ndarray, margin: float) -> list[float]:
    return [v + margin for _, v in triplets(cosines) if v < 0 < v + margin]


@pytest.mark.parametrize("mining", [batch_hard, semi_hard])
def test_triplet_is_the_mean_over_the_mined_triplets(mining):
    embeddings = numbers(1, len(LABELS), 3) * 3
    cosines = unit(embeddings) @ unit(embeddings).T
    head = build_head(
        "triplet", identities=4, embedding_size=3, margin_cos=0.1, mining=mining.__name__
    )
    for margin in (0.1, 0.6):
        head.margin = margin
        violations = mining(cosines, margin)
        assert violations
        found = head(embeddings, torch.tensor(LABELS)).item()
        assert found == pytest.approx(np.mean(violations), rel=1e-4)


def test_contrastive_is_balanced_logistic_regression_on_cosines():
    embeddings = numbers(2, len(LABELS), 3)
    cosines = unit(embeddings) @ unit(embeddings).T
    sides: dict[bool, list[float]] = {True: [], False: []}
    for first in range(len(LABELS)):
        for second in range(first):
            same = LABELS[first] == LABELS[second]
            share = 1 / (1 + np.exp(-(8.0 * cosines[first, second] - 2.0)))
            sides[same].append(-np.log(share if same else 1 - share))
    head = build_head("contrastive", identities=4, embedding_size=3, scale=8.0, bias=-2.0)
    found = head(embeddings, torch.tensor(LABELS))
    assert found.item() == pytest.approx(np.mean([np.mean(s) for s in sides.values()]), rel=1e-4)
    found.backward()
    assert head.log_scale.grad != 0
    assert head.bias.grad != 0


def test_supcon_is_the_papers_outer_sum_over_anchors_with_a_positive():
    embeddings, temperature = numbers(3, len(LABELS), 3), 0.2
    similar = unit(embeddings) @ unit(embeddings).T / temperature
    losses = []
    for anchor, label in enumerate(LABELS):
        others = [i for i in range(len(LABELS)) if i != anchor]
        positives = [i for i in others if LABELS[i] == label]
        if positives:
            total = np.log(np.exp(similar[anchor, others]).sum())
            losses.append(-np.mean([similar[anchor, i] - total for i in positives]))
    head = build_head("supcon", identities=4, embedding_size=3, temperature=temperature)
    found = head(embeddings, torch.tensor(LABELS)).item()
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


def test_simclr_tells_the_other_view_from_every_other_image():
    embeddings, temperature = numbers(5, 6, 3), 0.5
    head = build_head("simclr", identities=1, embedding_size=3, temperature=temperature)
    head.project = torch.nn.Identity()
    similar = unit(embeddings) @ unit(embeddings).T / temperature
    losses = []
    for anchor, other in enumerate((1, 0, 3, 2, 5, 4)):  # neighbours are the views of an image
        rest = [i for i in range(6) if i != anchor]
        losses.append(np.log(np.exp(similar[anchor, rest]).sum()) - similar[anchor, other])
    found = head(embeddings, torch.tensor([7, 7, 2, 2, 9, 9])).item()
    assert found == pytest.approx(np.mean(losses), rel=1e-4)


@pytest.mark.parametrize("loss", PAIR_HEADS)
def test_pair_heads_say_that_they_need_pairs(loss):
    head = build_head(loss, identities=4, embedding_size=3)
    assert head.sampling == ("views" if loss == "simclr" else "pairs")
    embeddings = numbers(0, 4, 3).requires_grad_()
    head(embeddings, torch.tensor([0, 0, 1, 1])).backward()
    assert torch.isfinite(embeddings.grad).all()
    assert embeddings.grad.abs().sum() > 0
    for labels in ([0, 1, 2, 3], [1, 1, 1, 1]):
        with pytest.raises(FoundryError, match="no genuine or no impostor pair") as caught:
            head(embeddings, torch.tensor(labels))
        assert "\n" not in str(caught.value)


def test_pair_heads_say_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(FoundryError, match="pip install pytorch-metric-learning"):
        build_head("supcon", identities=4, embedding_size=3)


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        ("arcface", {"sample_rate": 0.0}, "sample_rate 0.0 is not in"),
        ("triplet", {"mining": "easy"}, "'easy' is not one of batch_hard, semi_hard"),
        ("supcon", {"margin_rad": 0.1}, "loss.margin_rad: supcon has no such argument"),
    ],
)
def test_wrong_arguments_are_one_line(loss, arguments, message):
    with pytest.raises(FoundryError, match=message):
        build_head(loss, identities=5, embedding_size=8, **arguments)
