"""Verification measures against hand-made cases and independent computations."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from facefoundry import verification as v
from facefoundry.bootstrap import accuracy_interval, tar_intervals
from facefoundry.errors import FoundryError


def scores(pairs: int, gap: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Similarities, same and ten folds; genuine pairs lie `gap` higher."""
    rng = np.random.default_rng(seed)
    same = rng.random(pairs) < 0.5
    similarity = np.clip(rng.normal(0.2, 0.15, pairs) + gap * same, -1, 1).astype(np.float32)
    return similarity, same, np.arange(pairs) % 10


def unit_vectors(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    vectors = rng.normal(size=(count, size))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def slow_fold_accuracies(left, right, same, fold):
    """The published protocol step by step: squared distances, 400 thresholds, nine folds."""
    distance = np.square(left - right).sum(axis=1)
    found = []
    for name in sorted(set(fold)):
        accuracy = [
            ((distance[fold != name] < t) == same[fold != name]).mean()
            for t in np.arange(0, 4, 0.01)
        ]
        best = np.arange(0, 4, 0.01)[int(np.argmax(accuracy))]
        found.append(((distance[fold == name] < best) == same[fold == name]).mean())
    return np.array(found)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fold_accuracies_follow_the_protocol(seed: int) -> None:
    rng = np.random.default_rng(seed)
    left = unit_vectors(600, 16, rng)
    same, fold = rng.random(600) < 0.5, np.arange(600) // 60
    near = left + 0.25 * rng.normal(size=left.shape)
    right = np.where(same[:, None], near, unit_vectors(600, 16, rng))
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    similarity = (left * right).sum(axis=1)
    expected = slow_fold_accuracies(left, right, same, fold)
    np.testing.assert_allclose(v.fold_accuracies(similarity, same, fold), expected)


def test_the_threshold_comes_from_the_other_folds() -> None:
    """A fold whose scores are shifted is judged at the others' threshold, so it fails."""
    same = np.tile([True, False], 20)
    similarity = np.where(same, 0.8, 0.2)
    fold = np.repeat([0, 1, 2, 3], 10)
    similarity[fold == 3] += np.where(same[fold == 3], 0.15, 0.7)  # all above 0.8
    accuracies = v.fold_accuracies(similarity, same, fold)
    assert accuracies[:3].tolist() == [1, 1, 1] and accuracies[3] == 0.5


def test_pairs_without_a_fold_take_no_part() -> None:
    similarity, same, fold = scores(400, 0.3)
    kept = np.arange(400) < 300
    fold[~kept] = -1
    expected = v.fold_accuracies(similarity[kept], same[kept], fold[kept])
    np.testing.assert_array_equal(v.fold_accuracies(similarity, same, fold), expected)


def test_one_fold_is_refused() -> None:
    similarity, same, _ = scores(100, 0.3)
    with pytest.raises(FoundryError, match="two folds"):
        v.fold_accuracies(similarity, same, np.zeros(100, int))


@pytest.mark.parametrize("gap", [0.0, 0.2, 0.6])
def test_roc_and_auc_agree_with_sklearn(gap: float) -> None:
    similarity, same, _ = scores(500, gap)
    similarity = np.round(similarity, 2)  # ties
    curve = v.roc(similarity, same)
    fmr, tar, threshold = roc_curve(same, similarity, drop_intermediate=False)
    np.testing.assert_allclose(curve.fmr, fmr)
    np.testing.assert_allclose(curve.tar, tar)
    np.testing.assert_allclose(curve.threshold[1:], threshold[1:])
    assert v.auc(curve) == pytest.approx(roc_auc_score(same, similarity))


def test_eer_by_hand() -> None:
    # at threshold 0.5: one of four genuine pairs rejected, one of four impostor pairs accepted
    similarity = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.2, 0.1, 0.0])
    same = np.array([True] * 4 + [False] * 4)
    assert v.eer(v.roc(similarity, same)) == pytest.approx(0.25)


@pytest.mark.parametrize(("gap", "expected"), [(1.0, 0.0), (-1.0, 1.0)])
def test_eer_of_perfect_and_of_inverted_scores(gap: float, expected: float) -> None:
    same = np.array([True, True, False, False])
    assert v.eer(v.roc(0.5 * gap * same, same)) == pytest.approx(expected)


def test_eer_agrees_with_the_crossing_of_sklearns_curve() -> None:
    similarity, same, _ = scores(3000, 0.3)
    fmr, tar, _ = roc_curve(same, similarity)
    crossing = np.interp(0, fmr - (1 - tar), fmr)
    assert v.eer(v.roc(similarity, same)) == pytest.approx(crossing, abs=1e-3)


def test_tar_at_fmr_by_hand() -> None:
    """300 impostor pairs support FMR 1e-2: three may pass, so the fourth sets the threshold."""
    impostors = np.linspace(-0.5, 0.4, 300, dtype=np.float32)
    genuine = np.array([impostors[-4], impostors[-3], 0.5, 0.1], np.float32)
    similarity = np.concatenate([impostors, genuine])
    same = np.arange(304) >= 300
    threshold = v.threshold_at(similarity, same, 1e-2)
    assert (impostors >= threshold).sum() == 3
    assert v.tar_at(similarity, same, 1e-2) == 0.5  # the pair level with the fourth is rejected


def test_the_threshold_never_exceeds_the_rate_asked_for() -> None:
    similarity, same, _ = scores(4000, 0.3)
    similarity = np.round(similarity, 1)  # many ties
    for fmr in (0.1, 0.03, 0.01):
        accepted = similarity[~same] >= v.threshold_at(similarity, same, fmr)
        assert accepted.mean() <= fmr


@pytest.mark.parametrize(("fmr", "needed"), [(1e-1, 30), (1e-3, 3000), (1e-6, 3_000_000)])
def test_rule_of_three(fmr: float, needed: int) -> None:
    assert v.pairs_needed(fmr) == needed


def test_an_unsupported_rate_is_none_and_says_what_it_needs() -> None:
    similarity, same, _ = scores(2000, 0.3)
    rows = v.threshold_table(similarity, same)
    assert [row["fmr"] for row in rows] == list(v.FMR_RATES)
    for row in rows:
        supported = row["impostor_pairs"] >= 3 / row["fmr"]
        assert (row["tar"] is not None) == (row["threshold"] is not None) == supported
        assert (row["needs_pairs"] is None) == supported
    assert rows[2]["needs_pairs"] == 3000


def test_confusion_by_hand() -> None:
    similarity = np.array([0.9, 0.5, 0.1, 0.5, 0.2, 0.1])
    same = np.array([True, True, True, False, False, False])
    counts = v.confusion(similarity, same, 0.5)
    assert (counts["true_accept"], counts["false_reject"]) == (2, 1)
    assert (counts["false_accept"], counts["true_reject"]) == (1, 2)
    assert counts["precision"] == counts["recall"] == counts["f1"] == pytest.approx(2 / 3)


def test_metric_keys_and_ranges() -> None:
    metrics = v.verification_metrics(*scores(8000, 0.4))
    shares = ("accuracy", "auc", "eer", "tar_at_fmr_1e-2", "tar_at_fmr_1e-3")
    assert all(0 < metrics[key] < 1 for key in shares)
    assert metrics["folds"] == 10 and metrics["accuracy_std"] > 0
    assert metrics["genuine_pairs"] + metrics["impostor_pairs"] == 8000


def test_a_score_that_is_not_a_number_names_its_pair() -> None:
    similarity, same, fold = scores(100, 0.3)
    similarity[17] = np.nan
    with pytest.raises(FoundryError, match="pair 17"):
        v.verification_metrics(similarity, same, fold)


@pytest.mark.parametrize(("kind", "missing"), [(True, "impostor"), (False, "genuine")])
def test_one_kind_of_pair_is_refused(kind: bool, missing: str) -> None:
    with pytest.raises(FoundryError, match=f"no {missing} pairs"):
        v.roc(np.zeros(4), np.full(4, kind))


def test_hardest_pairs_come_worst_first() -> None:
    similarity = np.array([0.9, 0.1, 0.4, 0.2, 0.8, 0.5])
    same = np.array([True, True, True, False, False, False])
    genuine, impostor = v.hardest_pairs(similarity, same, 2)
    assert genuine.tolist() == [1, 2] and impostor.tolist() == [4, 5]


def test_bootstrap_interval_holds_the_estimate_and_narrows_with_pairs() -> None:
    widths = []
    for pairs in (1000, 8000):
        similarity, same, _ = scores(pairs, 0.3)
        row = tar_intervals(similarity, same, seed=0)[1]
        assert row["fmr"] == 1e-2 and row["low"] <= row["tar"] <= row["high"]
        widths.append(row["high"] - row["low"])
    assert widths[1] < widths[0]


def test_bootstrap_leaves_unsupported_rates_out() -> None:
    similarity, same, _ = scores(1000, 0.3)
    last = tar_intervals(similarity, same, seed=0)[-1]
    assert last == {"fmr": 1e-6, "tar": None, "low": None, "high": None, "needs_pairs": 3_000_000}


def test_bootstrap_by_identity_is_wider_where_identities_differ() -> None:
    """Each identity's genuine pairs score alike, so they are not independent."""
    rng = np.random.default_rng(0)
    same = np.arange(4000) % 2 == 0
    identities = np.stack([np.arange(4000) // 100, np.arange(4000) // 100], axis=1)
    identities[~same, 1] = (identities[~same, 1] + 7) % 40
    level = rng.normal(0.5, 0.2, 40)[identities[:, 0]]
    similarity = np.where(same, level, 0.0) + rng.normal(0, 0.1, 4000)
    by_pair, by_identity = (
        tar_intervals(similarity, same, 0, who, rates=(1e-2,))[0] for who in (None, identities)
    )
    width = by_identity["high"] - by_identity["low"]
    assert width > 3 * (by_pair["high"] - by_pair["low"])


def test_bootstrap_is_reproducible() -> None:
    similarity, same, fold = scores(1000, 0.3)
    assert tar_intervals(similarity, same, 3) == tar_intervals(similarity, same, 3)
    accuracies = v.fold_accuracies(similarity, same, fold)
    low, high = accuracy_interval(accuracies, 0)
    assert low < accuracies.mean() < high and (low, high) == accuracy_interval(accuracies, 0)
