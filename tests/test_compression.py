"""Pruning and fine-tuning for INT8: smaller or closer, and what is left computes the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry.backbones import build_backbone, count_macs, count_parameters
from facefoundry.errors import FoundryError
from facefoundry.export import check_parity, export_onnx
from facefoundry.pruning import filter_importance, prune_blocks, pruned_student
from facefoundry.quantization import drift, quantize
from facefoundry.quantization_aware import finetune_quantized

SMALL = {"architecture": "small_resnet", "widths": [16, 24, 32], "blocks": [1, 2, 1], "head": 32}
OPTIONS = {
    "backbone": SMALL,
    "embedding_size": 16,
    "steps": 700,
    "prune": {"share": 0.5, "steps": 20},
}


def student() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_backbone(**SMALL, embedding_size=16).eval()


def test_channels_that_do_nothing_can_go_without_a_trace() -> None:
    """Half the channels of each block are switched off: pruning must find just those."""
    net, images = student(), torch.randn(2, 3, 112, 112)
    with torch.no_grad():
        for stage in net.stages:
            for block in stage:
                norm = block.body[0][1]
                norm.weight[1::2], norm.bias[1::2] = 0.0, -0.1
        expected = net(images)
        smaller, _ = pruned_student(net, OPTIONS)
        found = smaller.eval()(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert count_macs(smaller) < 0.7 * count_macs(net)
    assert count_parameters(smaller) < 0.7 * count_parameters(net)


def test_what_is_left_is_a_multiple_of_eight_and_the_original_is_untouched() -> None:
    net = student()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    _, inner = prune_blocks(net, 0.4)
    assert inner == [[8], [16, 16], [16]]  # of 16, 24 and 32: 9.6, 14.4 and 19.2 are asked for
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_importance_is_that_of_the_folded_filter() -> None:
    state = student().state_dict()
    body = "stages.0.0.body"
    state[f"{body}.0.1.running_var"][3] = 0.25
    state[f"{body}.0.1.weight"][3] = -3.0
    found = filter_importance(state, body)
    assert found[3] == pytest.approx(float(state[f"{body}.0.0.weight"][3].abs().sum()) * 6, 1e-3)


def test_the_recovery_trains_the_pruned_architecture_for_its_own_steps() -> None:
    smaller, options = pruned_student(student(), OPTIONS)
    assert options["steps"] == 20
    again = build_backbone(**options["backbone"], embedding_size=16)
    again.load_state_dict(smaller.state_dict())


def test_a_pruned_network_goes_through_the_contract(tmp_path: Path) -> None:
    smaller, _ = pruned_student(student(), OPTIONS)
    export_onnx(smaller, replace(SPEC, embedding_size=16), tmp_path / "student.onnx")
    assert check_parity(smaller, tmp_path / "student.onnx", crops(3))["min"] >= 0.9999


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_that_prunes_nothing_or_all(share: float) -> None:
    with pytest.raises(FoundryError, match=r"prune\.share: .* is not between 0 and 1"):
        prune_blocks(student(), share)


def test_another_architecture_cannot_be_pruned() -> None:
    with pytest.raises(FoundryError, match="MobileFaceNet cannot be pruned, only small_resnet"):
        prune_blocks(build_backbone("mobilefacenet", width=0.25), 0.5)


def unbalanced_backbone(factor: float = 300.0) -> torch.nn.Module:
    """The same function, with channels whose range leaves few of 256 levels to all the others:
    what makes calibration alone fail (Nagel et al., "Data-Free Quantization", ICCV 2019)."""
    net = tiny_backbone()
    with torch.no_grad():
        for block in (net[3], net[7]):
            norm, reader = block.body[1], block.body[3]
            norm.weight[:3] *= factor
            norm.bias[:3] *= factor
            reader.weight[:3] /= factor
    return net


def test_fine_tuning_mends_what_calibration_cannot(tmp_path: Path) -> None:
    backbone = unbalanced_backbone()
    seen, unseen = crops(300, seed=11), crops(16, seed=12)
    tuned = finetune_quantized(backbone, seen, steps=80, lr=1e-3, batch_size=16, seed=0)
    export_onnx(backbone, SPEC, tmp_path / "fp32.onnx")
    losses = {}
    for name, net in (("plain", backbone), ("tuned", tuned)):
        source, path = tmp_path / f"{name}.onnx", tmp_path / f"{name}.int8.onnx"
        export_onnx(net, SPEC, source)
        quantize(source, path, seen[:64], "cpu", "minmax")
        losses[name] = 1 - drift(tmp_path / "fp32.onnx", path, unseen)["mean"]
    assert losses["plain"] > 0.05
    assert losses["tuned"] < 0.6 * losses["plain"]


def test_fine_tuning_leaves_an_ordinary_backbone() -> None:
    backbone = tiny_backbone()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    tuned = finetune_quantized(backbone, crops(4), steps=1, lr=1e-4, batch_size=2, seed=0)
    assert set(tuned.state_dict()) == set(before)
    assert not any(module._forward_pre_hooks for module in tuned.modules())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name])
