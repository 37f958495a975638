"""The policy gate over a licence chain."""

import pytest

from facefoundry.errors import FoundryError
from facefoundry.licences import SFACE, YUNET, Licence, enforce, merged

CLEAN = Licence("heads", "CC0-1.0", commercial="yes", real_faces="no", source="drawn").entry()
UNKNOWN = CLEAN | {"name": "folder", "commercial": "unknown", "real_faces": "unknown"}


@pytest.mark.parametrize("policy", ["none", "commercial", "no-real-faces"])
def test_a_clean_chain_passes_every_policy(policy):
    enforce(policy, [CLEAN])


def test_each_policy_names_every_work_that_breaks_it():
    chain = [CLEAN, YUNET.entry(), SFACE.entry()]
    enforce("commercial", chain)
    with pytest.raises(FoundryError, match=r"forbids YuNet.*real_faces: yes\); SFace"):
        enforce("no-real-faces", chain)


@pytest.mark.parametrize("policy", ["commercial", "no-real-faces"])
def test_what_is_unknown_breaks_a_policy(policy):
    with pytest.raises(FoundryError, match="folder"):
        enforce(policy, [CLEAN, UNKNOWN])


def test_an_unknown_policy_is_refused():
    with pytest.raises(FoundryError, match=r"policy is 'strict', not one of none, commercial"):
        enforce("strict", [CLEAN])


def test_merging_keeps_each_entry_once():
    assert merged([CLEAN, UNKNOWN], [CLEAN]) == [CLEAN, UNKNOWN]
