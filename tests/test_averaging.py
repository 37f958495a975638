"""The mean of two networks: weights half way, statistics of its own."""

from pathlib import Path

import pytest
import torch
from torch import nn

from facefoundry.averaging import average, check_alike
from facefoundry.backbones import build_backbone
from facefoundry.errors import FoundryError

SHAPE = {"widths": [8, 8, 8], "head": 16}


def small_net(seed: int, size: int = 16) -> nn.Module:
    torch.manual_seed(seed)
    return build_backbone("small_resnet", embedding_size=size, **SHAPE)


def test_weights_lie_half_way_and_statistics_are_of_the_images() -> None:
    """A layer whose weights sum to 3 times an image of mean 2 sees a mean of 6, a bias aside."""
    one, other = (nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)) for _ in range(2))
    for net, weight in ((one, 1.0), (other, 5.0)):
        nn.init.constant_(net[0].weight, weight)
        nn.init.constant_(net[0].bias, 0.0)
    torch.manual_seed(0)
    batches = [2 + torch.randn(64, 1, 8, 8) for _ in range(4)]
    average(one, other, batches)
    assert one[0].weight.item() == 3
    every = 3 * torch.cat(batches)
    assert one[1].running_mean.item() == pytest.approx(every.mean().item(), rel=1e-4)
    assert one[1].running_var.item() == pytest.approx(every.var().item(), rel=1e-2)
    assert one[1].momentum == 0.1 and not one.training


def test_with_itself_a_network_stays_what_it_was_on_images_that_it_knows() -> None:
    images = [torch.randn(32, 3, 112, 112) for _ in range(2)]
    net = small_net(0)
    average(net, net, images)
    before = net(images[0])
    average(net, small_net(0), images)
    torch.testing.assert_close(net(images[0]), before)


def test_another_shape_is_refused() -> None:
    check_alike(small_net(0), small_net(1), Path("models/other"))
    with pytest.raises(FoundryError, match=r"models/other is no network like distill\.backbone"):
        check_alike(small_net(0), small_net(1, size=24), Path("models/other"))
