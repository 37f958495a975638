"""Identity-disjoint splits: nobody is in two of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from facefoundry.errors import FoundryError

SPLITS = ("train", "val", "test")


def split_identities(
    identities: Sequence[str],
    strata: Sequence[str],
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, str]:
    """Identity -> split, the fractions kept within each stratum (its generator, say).

    Rounding leftovers of the strata go where the whole is furthest below its fraction, so that
    small strata do not starve the small splits. Raises FoundryError where the fractions do not
    sum to 1 or a split would hold fewer than two identities.
    """
    if set(fractions) != set(SPLITS) or abs(sum(fractions.values()) - 1) > 1e-6:
        raise FoundryError(
            f"fractions: must name {', '.join(SPLITS)} and sum to 1: {dict(fractions)}"
        )
    rng = np.random.default_rng(seed)
    unique = sorted(set(zip(strata, identities, strict=True)))
    assigned: dict[str, str] = {}
    counts = dict.fromkeys(SPLITS, 0)
    for stratum in sorted({stratum for stratum, _ in unique}):
        members = [identity for other, identity in unique if other == stratum]
        for identity in rng.permutation(members).tolist():
            total = sum(counts.values()) + 1
            split = max(SPLITS, key=lambda name: fractions[name] * total - counts[name])
            assigned[identity] = split
            counts[split] += 1
    _check(counts)
    return assigned


def _check(counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count < 2:
            raise FoundryError(
                f"split '{name}' would hold {count} identities, and pairs need two;"
                " raise synthesize.identities"
            )
