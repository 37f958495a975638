from collections import Counter

import pytest

from facefoundry.errors import FoundryError
from facefoundry.splits import split_identities

FRACTIONS = {"train": 0.8, "val": 0.1, "test": 0.1}


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def test_fractions_hold_overall_and_in_each_stratum():
    identities = names("s", 120) + names("r", 80)
    strata = ["stylegan"] * 120 + ["render"] * 80
    found = split_identities(identities, strata, FRACTIONS, seed=0)
    assert Counter(found.values()) == {"train": 160, "val": 20, "test": 20}
    for prefix, count in (("s", 120), ("r", 80)):
        shares = Counter(split for name, split in found.items() if name.startswith(prefix))
        assert abs(shares["val"] - count * 0.1) <= 1
        assert abs(shares["test"] - count * 0.1) <= 1


def test_an_identity_with_many_images_lies_in_one_split():
    identities = [name for name in names("s", 40) for _ in range(5)]
    found = split_identities(identities, ["a"] * 200, FRACTIONS, seed=3)
    assert len(found) == 40


def test_the_seed_decides():
    identities, strata = names("s", 50), ["a"] * 50
    first = split_identities(identities, strata, FRACTIONS, seed=0)
    assert first == split_identities(identities, strata, FRACTIONS, seed=0)
    assert first != split_identities(identities, strata, FRACTIONS, seed=1)


def test_too_few_identities_and_wrong_fractions_are_refused():
    with pytest.raises(FoundryError, match=r"raise synthesize\.identities"):
        split_identities(names("s", 8), ["a"] * 8, FRACTIONS, seed=0)
    with pytest.raises(FoundryError, match="sum to 1"):
        split_identities(names("s", 8), ["a"] * 8, FRACTIONS | {"train": 0.9}, seed=0)
