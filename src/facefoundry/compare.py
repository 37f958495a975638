"""Is this run better than that one? A paired bootstrap on the same pairs.

Both runs judge the same resample of identities in every round, so what makes a pair easy or hard
for both cancels out of the difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from facefoundry.bootstrap import ROUNDS, resampled_weights
from facefoundry.errors import FoundryError
from facefoundry.progress import track
from facefoundry.results import STAGES
from facefoundry.scores import FILE, Scores, read_scores
from facefoundry.verification import (
    HEADLINE_RATES,
    Floats,
    auc,
    eer,
    fold_correct,
    pairs_needed,
    rate_key,
    roc,
)

SCORES = STAGES["evaluate"] / FILE
LOWER_IS_BETTER = ("eer",)
BETTER, WORSE, UNKNOWN = "better", "worse", "cannot tell"


@dataclass(frozen=True)
class Difference:
    """One measure of one set: `other` against `base`, the interval (95 %) of other - base, and the
    verdict on `other`: better, worse or cannot tell."""

    pair_set: str
    measure: str
    base: float
    other: float
    low: float
    high: float
    verdict: str


def compare_scores(
    base: Mapping[str, Scores], other: Mapping[str, Scores], seed: int = 0, model: str = "model"
) -> list[Difference]:
    """Every measure of every set that both runs have judged pair by pair.

    Raises FoundryError where there is no such set: other names, or other images or pairs.
    """
    shared = [name for name in base if name in other and base[name].digest == other[name].digest]
    if not shared:
        raise FoundryError(
            f"the runs share no set of pairs ({', '.join(base) or 'none'} against"
            f" {', '.join(other) or 'none'}); evaluate both on the same benchmark"
        )
    return [
        difference
        for name in shared
        for difference in _compare_set(name, base[name], other[name], seed, model)
    ]


def _compare_set(
    name: str, base: Scores, other: Scores, seed: int, model: str
) -> Iterator[Difference]:
    pair = [_judged(scores, model) for scores in (base, other)]
    unit = np.ones(len(base.same))
    first, second = (_measures(*judged, base, unit) for judged in pair)
    weights = resampled_weights(base.same, base.identity, np.random.default_rng(seed))
    draws: dict[str, list[float]] = {measure: [] for measure in first}
    for weight in track(weights, f"comparing on {name}", ROUNDS, unit="rounds"):
        if not (weight[base.same].any() and weight[~base.same].any()):
            continue  # too few identities: a round may draw no pair of one kind
        left, right = (_measures(*judged, base, weight) for judged in pair)
        for measure in draws:
            draws[measure].append(right[measure] - left[measure])
    for measure, values in draws.items():
        low, high = (float(bound) for bound in np.quantile(values, (0.025, 0.975)))
        verdict = _verdict(measure, low, high)
        yield Difference(name, measure, first[measure], second[measure], low, high, verdict)


def _judged(scores: Scores, model: str) -> tuple[Floats, NDArray[np.bool_]]:
    similarity = scores.models[model]
    return similarity, fold_correct(similarity, scores.same, scores.fold)


def _measures(
    similarity: Floats, correct: NDArray[np.bool_], pairs: Scores, weight: Floats
) -> dict[str, float]:
    """Weighted accuracy, AUC, EER and the TARs that the impostor pairs support."""
    curve = roc(similarity, pairs.same, weight)
    rates = [fmr for fmr in HEADLINE_RATES if (~pairs.same).sum() >= pairs_needed(fmr)]
    folded = weight * (pairs.fold >= 0)
    return {
        "accuracy": float((folded * correct).sum() / folded.sum()),
        "auc": auc(curve),
        "eer": eer(curve),
        **{rate_key(fmr): float(curve.tar[curve.fmr <= fmr + 1e-9].max()) for fmr in rates},
    }


def _verdict(measure: str, low: float, high: float) -> str:
    if low <= 0 <= high:
        return UNKNOWN
    return BETTER if (low > 0) != (measure in LOWER_IS_BETTER) else WORSE


def read_run(run: str) -> dict[str, Scores]:
    """The scores of a run: a folder (a project, or one that holds scores.npz), or a git revision
    or DVC experiment of the project in the working directory, whose outputs DVC has.

    Raises FoundryError naming the run and the fix.
    """
    for path in (Path(run) / FILE, Path(run) / SCORES):
        if path.is_file():
            return read_scores(path, str(path))
    if Path(run).is_dir():
        raise FoundryError(f"{run}: holds no {SCORES}; run `dvc repro evaluate` there")
    return read_scores(BytesIO(_from_revision(run)), f"{SCORES} of {run}")


def _from_revision(run: str) -> bytes:
    from dvc.api import read

    try:
        return bytes(read(SCORES.as_posix(), rev=run, mode="rb"))
    except Exception as error:  # dvc, scmrepo and fsspec raise kinds of their own
        raise FoundryError(
            f"{run}: neither a folder with {SCORES} nor a revision or experiment for which DVC has"
            f" it ({type(error).__name__}: {error}); see `dvc exp show`"
        ) from error


def print_differences(base: str, found: Mapping[str, list[Difference]], as_json: bool) -> None:
    """Print each run's differences from `base`: a table, or a JSON list of rows."""
    if as_json:
        rows = [{"run": run, "base_run": base} | vars(d) for run, ds in found.items() for d in ds]
        print(json.dumps(rows, indent=2))
        return
    for run, differences in found.items():
        table = Table("pairs", "measure", base, run, "difference, 95 %", "verdict")
        for d in differences:
            interval = f"{d.low:+.4f} to {d.high:+.4f}"
            table.add_row(
                d.pair_set, d.measure, f"{d.base:.4f}", f"{d.other:.4f}", interval, d.verdict
            )
        Console().print(table)
