"""Error rates by group: for whom does the model fail?

A group is the images with one value, or range of values, of an attribute. A genuine or impostor
pair counts for a group where both its images are of it, so that an impostor is someone alike; pairs
of two groups are left out. Grother et al., NIST IR 8280, 2019, report FMR and FNMR the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from facefoundry.verification import Bools, Floats, Ints

Groups = NDArray[np.str_]  # (N,) of the images; "" is no group
PARTS = 3
MIN_PAIRS = 30  # below it a group's rate is shown with its interval but sets no ratio


def numeric_groups(values: Floats) -> Groups:
    """(N,) values of an attribute, NaN where unknown, as up to three ranges with as many known
    images each, named `0.1 to 0.4`. Few distinct values are each a group."""
    known = values[np.isfinite(values)]
    distinct = np.unique(known)
    names = np.full(len(values), "", dtype="U40")
    if len(distinct) <= PARTS:
        for value in distinct:
            names[values == value] = f"{value:g}"
        return names
    edges = np.quantile(known, np.linspace(0, 1, PARTS + 1))
    part = np.searchsorted(edges[1:-1], values, side="right")
    for number, (low, high) in enumerate(pairwise(edges)):
        names[np.isfinite(values) & (part == number)] = f"{low:.3g} to {high:.3g}"
    return names


def group_rates(
    similarity: Floats, same: Bools, pairs: Ints, groups: Groups, threshold: float
) -> list[dict[str, Any]]:
    """Rows `{group, genuine_pairs, fnmr, impostor_pairs, fmr}` at one threshold, by group name.

    A rate is `{rate, low, high}` with its 95 % Wilson interval, or None without pairs.
    pairs: (P, 2) rows of the images that `groups` (N,) name.
    """
    left, right = groups[pairs[:, 0]], groups[pairs[:, 1]]
    accepted = similarity >= threshold
    rows = []
    for name in sorted(set(groups[groups != ""].tolist()), key=_by_value):
        inside = (left == name) & (right == name)
        genuine, impostor = inside & same, inside & ~same
        rows.append(
            {
                "group": name,
                "genuine_pairs": int(genuine.sum()),
                "fnmr": _rate(int((genuine & ~accepted).sum()), int(genuine.sum())),
                "impostor_pairs": int(impostor.sum()),
                "fmr": _rate(int((impostor & accepted).sum()), int(impostor.sum())),
            }
        )
    return rows


def _by_value(name: str) -> tuple[float, str]:
    """Ranges in the order of their numbers, words after them by the alphabet."""
    try:
        return float(name.split(" ")[0]), name
    except ValueError:
        return np.inf, name


def _rate(errors: int, pairs: int) -> dict[str, float] | None:
    if not pairs:
        return None
    interval = binomtest(errors, pairs).proportion_ci(method="wilson")
    return {"rate": errors / pairs, "low": float(interval.low), "high": float(interval.high)}


def worst_to_best(rows: Sequence[Mapping[str, Any]], measure: str) -> float | None:
    """Highest over lowest rate of the groups with MIN_PAIRS pairs; None with fewer than two such
    groups, or where the best of them has no error."""
    pairs = {"fnmr": "genuine_pairs", "fmr": "impostor_pairs"}[measure]
    rates = [row[measure]["rate"] for row in rows if row[pairs] >= MIN_PAIRS]
    return max(rates) / min(rates) if len(rates) > 1 and min(rates) > 0 else None


def fairness_metrics(
    similarity: Floats,
    same: Bools,
    pairs: Ints,
    groups: Mapping[str, Groups],
    threshold: float,
) -> dict[str, Any]:
    """`{attribute: {groups: rows, fnmr_ratio, fmr_ratio}}` of every attribute with two groups."""
    found: dict[str, Any] = {}
    for attribute, names in groups.items():
        rows = group_rates(similarity, same, pairs, names, threshold)
        if len(rows) > 1:
            ratios = {f"{m}_ratio": worst_to_best(rows, m) for m in ("fnmr", "fmr")}
            found[attribute] = {"groups": rows, **ratios}
    return found
