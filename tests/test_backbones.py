import pytest
import torch
from torch import nn

from facefoundry.backbones import BACKBONES, build_backbone
from facefoundry.distiller import start_from
from facefoundry.errors import FoundryError


def macs(module: nn.Module) -> int:
    """Multiply-accumulates of convolutions and linear layers for one 112 x 112 image."""
    total = 0

    def count(layer: nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    module.eval()(torch.zeros(1, 3, 112, 112))
    for hook in hooks:
        hook.remove()
    return total


def parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("architecture", BACKBONES)
def test_any_batch_gives_embeddings_of_the_size_asked_for(architecture):
    backbone = build_backbone(architecture, embedding_size=64).eval()
    for batch in (1, 3):
        assert backbone(torch.zeros(batch, 3, 112, 112)).shape == (batch, 64)


def test_mobilefacenet_has_the_published_size():
    backbone = build_backbone("mobilefacenet", embedding_size=128)
    assert parameters(backbone) == pytest.approx(0.99e6, rel=0.02)  # the paper's table 3
    assert macs(backbone) == pytest.approx(221e6, rel=0.02)  # the paper's section 4


def test_small_resnet_is_what_its_config_says():
    backbone = build_backbone("small_resnet", embedding_size=128)
    assert parameters(backbone) == pytest.approx(0.78e6, rel=0.02)
    assert macs(backbone) == pytest.approx(85e6, rel=0.03)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("resnet9000", {}, "'resnet9000' is not one of"),
        ("small_resnet", {"width": 2}, "backbone.width: small_resnet has no such argument"),
        ("small_resnet", {"widths": [1, 2]}, "need three values"),
        ("mobilefacenet", {"activation_name": "gelu"}, "not one of relu, prelu"),
    ],
)
def test_wrong_names_and_arguments_are_one_line(architecture, arguments, message):
    with pytest.raises(FoundryError, match=message) as caught:
        build_backbone(architecture, **arguments)
    assert "\n" not in str(caught.value)


def test_a_student_starts_from_its_teachers_layers():
    teacher = build_backbone("small_resnet", blocks=[2, 2, 2])
    student = build_backbone("small_resnet", blocks=[1, 2, 1])
    missing = [key for key in student.state_dict() if key not in teacher.state_dict()]
    assert missing == []
    assert start_from(student, teacher) == len(student.state_dict())
    weight = "stages.2.0.body.0.0.weight"
    assert torch.equal(student.state_dict()[weight], teacher.state_dict()[weight])


def test_only_layers_of_the_same_shape_are_taken():
    narrow = build_backbone("small_resnet", widths=[16, 32, 64])
    before = narrow.state_dict()["stem.1.0.weight"].clone()
    start_from(narrow, build_backbone("small_resnet"))
    assert torch.equal(narrow.state_dict()["stem.1.0.weight"], before)
