"""What makes a batch: every image once a pass, identities alike, pairs, views, fair shares."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest

from facefoundry.errors import FoundryError
from facefoundry.samplers import (
    BalancedSampler,
    EpochSampler,
    PairSampler,
    Shares,
    ViewSampler,
    choose_sampling,
)

TEN = np.zeros(10, np.int64)
UNEVEN = np.repeat(np.arange(4), [12, 1, 3, 8])  # images of four identities
SAMPLERS = (EpochSampler, BalancedSampler, PairSampler, ViewSampler)


def test_every_pass_sees_every_image_once():
    keys = [key for batch in EpochSampler(TEN, batch_size=4, steps=5, seed=0) for key in batch]
    assert [number for number, _ in keys] == [0] * 10 + [1] * 10
    assert sorted(index for _, index in keys[:10]) == list(range(10))
    assert [index for _, index in keys[:10]] != [index for _, index in keys[10:]]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_epochs_cut_one_endless_sequence_without_repeating_a_key(sampler):
    long = sampler(UNEVEN, batch_size=8, steps=30, seed=3)
    short = sampler(UNEVEN, batch_size=8, steps=10, seed=3)
    pieces = []
    for epoch in range(3):
        short.start_at(epoch)
        pieces += list(short)
    assert pieces == list(long)
    keys = [key for batch in pieces for key in batch]
    assert len(set(keys)) == len(keys) == 30 * 8
    assert pieces != list(sampler(UNEVEN, batch_size=8, steps=30, seed=4))


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(FoundryError, match="more than the 24 training images"):
        EpochSampler(UNEVEN, batch_size=25, steps=1, seed=0)


def test_balanced_identities_come_alike_often_and_their_images_too():
    sampler = BalancedSampler(UNEVEN, batch_size=4, steps=600, seed=0)
    indices = [index for batch in sampler for _, index in batch]
    for batch in islice(sampler, 20):
        assert sorted(UNEVEN[[index for _, index in batch]]) == [0, 1, 2, 3]
    images = Counter(indices)
    assert images[12] == 600  # the only image of its identity
    assert len(images) == 24
    assert min(images[i] for i in range(12)) > 25  # 50 on average


def test_losses_that_need_pairs_get_them():
    labels = np.repeat(np.arange(4), 6)
    batches = list(PairSampler(labels, 8, 5, seed=0))
    for batch in batches:
        assert sorted(Counter(labels[index] for _, index in batch).values()) == [4, 4]
    assert len({tuple(batch) for batch in batches}) == 5
    with pytest.raises(FoundryError, match="smaller multiple of 4"):
        PairSampler(labels, 10, 5, seed=0)
    with pytest.raises(FoundryError, match="4 each of 2 identities"):  # the others have too few
        PairSampler(UNEVEN, 12, 5, seed=0)


def test_views_are_neighbours_of_one_image_with_different_keys():
    for batch in ViewSampler(UNEVEN, 8, 6, seed=0):
        assert len(batch) == 8
        for one, other in zip(batch[::2], batch[1::2], strict=True):
            assert one[1] == other[1]
            assert one[0] != other[0]
    with pytest.raises(FoundryError, match="7 is odd"):
        ViewSampler(UNEVEN, 7, 6, seed=0)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_shares_of_all_processes_and_parts_are_the_batch(sampler):
    whole = list(sampler(UNEVEN, 8, 3, seed=0))
    cut = [list(Shares(sampler(UNEVEN, 8, 3, seed=0), 8, rank, 2, 1)) for rank in (0, 1)]
    assert [a + b for a, b in zip(*cut, strict=True)] == whole
    parts = Shares(sampler(UNEVEN, 8, 3, seed=0), 8, parts=2)
    assert len(parts) == 6
    assert [batch for part in parts for batch in part] == [key for batch in whole for key in batch]


def test_shares_keep_pairs_together_or_say_so():
    with pytest.raises(FoundryError, match=r"2 processes x 2 .* multiple of 16"):
        Shares(PairSampler(UNEVEN, 8, 3, seed=0), 8, 0, 2, 2)
    with pytest.raises(FoundryError, match=r"8 cannot be cut into 3 processes"):
        Shares(EpochSampler(UNEVEN, 8, 3, seed=0), 8, 0, 3)


def test_sampling_is_what_the_loss_needs_or_a_clear_line():
    assert choose_sampling("auto", None) == "uniform"
    assert choose_sampling("auto", "pairs") == "pairs"
    assert choose_sampling("balanced", None) == "balanced"
    with pytest.raises(FoundryError, match="'balanced' gives the loss no pairs; set it to auto"):
        choose_sampling("balanced", "pairs")
    with pytest.raises(FoundryError, match="'fair' is not one of auto, uniform"):
        choose_sampling("fair", None)
