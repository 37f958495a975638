"""Error rates by group, on hand-made pairs."""

import numpy as np
import pytest

from facefoundry.fairness import fairness_metrics, group_rates, numeric_groups, worst_to_best


def test_rates_by_hand() -> None:
    """Images 0-3 are of group a, 4-5 of b, 6 of none; the pair across groups counts for nobody."""
    groups = np.array(["a"] * 4 + ["b"] * 2 + [""])
    pairs = np.array([(0, 1), (2, 3), (0, 2), (1, 3), (4, 5), (3, 4), (0, 6)])
    same = np.array([True, True, False, False, True, False, False])
    similarity = np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.9, 0.9])
    a, b = group_rates(similarity, same, pairs, groups, 0.5)
    assert (a["group"], a["genuine_pairs"], a["impostor_pairs"]) == ("a", 2, 2)
    assert a["fnmr"]["rate"] == 0.5 and a["fmr"]["rate"] == 0.5
    assert b["fnmr"]["rate"] == 0 and b["impostor_pairs"] == 0 and b["fmr"] is None


def test_wilson_interval_by_the_formula() -> None:
    groups, pairs = np.array(["a"] * 2), np.zeros((100, 2), int)
    similarity = np.where(np.arange(100) < 20, 0.0, 1.0)
    (row,) = group_rates(similarity, np.ones(100, bool), pairs, groups, 0.5)
    z, n, p = 1.959964, 100, 0.2
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert row["fnmr"]["low"] == pytest.approx((middle - half) / (1 + z * z / n), abs=1e-6)
    assert row["fnmr"]["high"] == pytest.approx((middle + half) / (1 + z * z / n), abs=1e-6)


def group(pairs: int, rate: float) -> dict:
    return {"genuine_pairs": pairs, "fnmr": {"rate": rate}}


@pytest.mark.parametrize(
    ("rows", "ratio"),
    [
        ([group(100, 0.1), group(100, 0.3)], 3),
        ([group(100, 0.1), group(10, 0.9)], None),  # the second says too little
        ([group(100, 0.1), group(100, 0.0)], None),  # over nothing
        ([group(100, 0.1), group(50, 0.2), group(10, 0.9)], 2),
    ],
)
def test_worst_to_best_uses_groups_with_enough_pairs(rows: list, ratio: float | None) -> None:
    assert worst_to_best(rows, "fnmr") == (ratio and pytest.approx(ratio))


def test_numeric_groups_are_even_and_leave_the_unknown_out() -> None:
    values = np.array([*np.arange(30.0), np.nan])
    names = numeric_groups(values)
    assert names[-1] == ""
    assert [(names == name).sum() for name in dict.fromkeys(names[:-1])] == [10, 10, 10]
    assert names[0] == "0 to 9.67" and names[29] == "19.3 to 29"


def test_few_values_are_a_group_each() -> None:
    assert numeric_groups(np.array([0.0, 1.0, 1.0, np.nan])).tolist() == ["0", "1", "1", ""]


def test_a_group_that_fails_more_is_found_and_a_lone_group_left_out() -> None:
    rng = np.random.default_rng(0)
    groups = np.where(np.arange(200) < 100, "a", "b")
    pairs = rng.integers(0, 100, (2000, 2)) + 100 * (np.arange(2000) % 2)[:, None]
    same = rng.random(2000) < 0.5
    shift = np.where(groups[pairs[:, 0]] == "b", 0.35, 0.0)  # b's impostors look alike
    similarity = np.where(same, 0.7, 0.1 + shift) + rng.normal(0, 0.1, 2000)
    lone = np.full(200, "everybody")
    found = fairness_metrics(similarity, same, pairs, {"who": groups, "all": lone}, 0.3)
    assert set(found) == {"who"}
    a, b = found["who"]["groups"]
    assert b["fmr"]["low"] > a["fmr"]["high"] and found["who"]["fmr_ratio"] > 10
