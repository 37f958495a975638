"""Shapes and sizes against what was published, names against InsightFace's, export, bad input."""

import sys
from io import BytesIO
from types import ModuleType

import pytest
import torch
from onnxruntime import InferenceSession
from torch import nn
from torch.nn import functional

from facefoundry.backbones import BACKBONES, build_backbone, count_macs, count_parameters
from facefoundry.backbones.complexity import layer_macs
from facefoundry.backbones.transfer import start_from
from facefoundry.errors import FoundryError


@pytest.mark.parametrize("architecture", BACKBONES)
def test_any_batch_gives_embeddings_of_the_size_asked_for(architecture):
    backbone = build_backbone(architecture, embedding_size=64).eval()
    for batch in (1, 3):
        assert backbone(torch.zeros(batch, 3, 112, 112)).shape == (batch, 64)


# name, arguments, embedding size, millions of parameters and of multiply-accumulates.
# MobileFaceNet: the paper's table 3 and section 4. iResNet and ViT: InsightFace's model zoo
# (its GFLOPs are multiply-accumulates). small_resnet: conf/backbone/.
PUBLISHED = [
    ("mobilefacenet", {}, 128, 0.99, 221),
    ("iresnet", {"depth": 18}, 512, 24.0, 2620),
    ("iresnet", {"depth": 34}, 512, 34.1, 4480),
    ("iresnet", {"depth": 50}, 512, 43.6, 6330),
    ("iresnet", {"depth": 100}, 512, 65.2, 12120),
    ("vit", {"size": "tiny"}, 512, None, 1510),
    ("vit", {"size": "small"}, 512, None, 5740),
    ("small_resnet", {}, 128, 0.775, 82.6),
    ("small_resnet", {"blocks": [1, 2, 1]}, 128, 0.461, 53.7),
    ("small_resnet", {"blocks": [3, 3, 2], "fine": 16}, 128, 0.871, 115.8),
]


@pytest.mark.parametrize(("architecture", "arguments", "size", "millions", "mmacs"), PUBLISHED)
def test_backbones_have_the_published_size(architecture, arguments, size, millions, mmacs):
    with torch.device("meta"):  # shapes only: the large networks need neither memory nor time
        backbone = build_backbone(architecture, embedding_size=size, **arguments)
    if millions is not None:
        assert count_parameters(backbone) == pytest.approx(millions * 1e6, rel=0.01)
    assert count_macs(backbone) == pytest.approx(mmacs * 1e6, rel=0.01)


@pytest.mark.parametrize(
    ("size", "count", "mmacs"), [("small", 927_008, 56), ("large", 2_971_952, 217)]
)
def test_mobilenetv3_is_the_published_trunk(size, count, mmacs):
    """The published totals (2,542,856 and 5,483,032) less their two classifier layers."""
    backbone = build_backbone("mobilenetv3", size=size)
    trunk = [backbone.trunk, backbone.embedding.expand]
    assert sum(count_parameters(part) for part in trunk) == count
    assert count_macs(backbone) == pytest.approx(mmacs * 1e6, rel=0.03)


def test_counting_leaves_the_network_as_it_was():
    backbone = build_backbone("small_resnet", widths=[8, 8, 8], head=16).train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    count_macs(backbone)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_macs_of_layers_worked_out_by_hand():
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.Flatten(), nn.Linear(4 * 4 * 4, 5))
    assert count_macs(net, image_size=8) == 4 * 4 * 4 * 27 + 64 * 5
    tokens, width = 144, 256
    attention = 2 * tokens * tokens * width
    block = build_backbone("vit").blocks[0]
    counted = sum(
        layer_macs(layer, torch.zeros(1, tokens, getattr(layer, "out_features", width)))
        for layer in block.modules()
    )
    assert counted == attention + tokens * 12 * width * width


def insightface_resnet18() -> dict[str, tuple[int, ...]]:
    """Names and shapes of arcface_torch's r18 state dict, written out from its definition."""

    def norm(name: str, channels: int) -> dict[str, tuple[int, ...]]:
        keys = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{key}": (channels,) for key in keys} | {f"{name}.num_batches_tracked": ()}

    shapes = {"conv1.weight": (64, 3, 3, 3), "prelu.weight": (64,)} | norm("bn1", 64)
    for number, (inputs, outputs) in enumerate([(64, 64), (64, 128), (128, 256), (256, 512)], 1):
        for block in (0, 1):
            name, first = f"layer{number}.{block}", inputs if block == 0 else outputs
            shapes |= norm(f"{name}.bn1", first) | norm(f"{name}.bn2", outputs)
            shapes |= norm(f"{name}.bn3", outputs)
            shapes[f"{name}.conv1.weight"] = (outputs, first, 3, 3)
            shapes[f"{name}.conv2.weight"] = (outputs, outputs, 3, 3)
            shapes[f"{name}.prelu.weight"] = (outputs,)
        shapes[f"layer{number}.0.downsample.0.weight"] = (outputs, inputs, 1, 1)
        shapes |= norm(f"layer{number}.0.downsample.1", outputs)
    shapes |= norm("bn2", 512) | norm("features", 512)
    return shapes | {"fc.weight": (512, 25088), "fc.bias": (512,)}


def test_an_insightface_checkpoint_loads_by_name_and_shape():
    with torch.device("meta"):
        backbone = build_backbone("iresnet", depth=18, embedding_size=512)
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    assert shapes == insightface_resnet18()
    strides = {name: layer.stride for name, layer in backbone.named_modules() if "conv" in name}
    assert strides["conv1"] == strides["layer1.0.conv1"] == (1, 1)
    assert strides["layer1.0.conv2"] == (2, 2)
    assert not backbone.features.weight.requires_grad


def test_iresnet_takes_inputs_of_known_weights_to_a_known_place():
    """Blocks without effect but their shortcuts: what is left can be worked out in one line."""
    backbone = build_backbone("iresnet", embedding_size=2).eval()
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if name.endswith("bn3.weight"):
                parameter.zero_()
        images = torch.linspace(-1, 1, 2 * 3 * 112 * 112).reshape(2, 3, 112, 112)
        features = backbone.prelu(backbone.bn1(backbone.conv1(images)))
        for layer in (backbone.layer1, backbone.layer2, backbone.layer3, backbone.layer4):
            features = layer[0].downsample(features)
        known = backbone.features(backbone.fc(backbone.bn2(features).flatten(1)))
        assert torch.allclose(backbone(images), known, rtol=1e-4, atol=1e-5)


def test_a_stem_of_four_starts_the_trunk_at_28_pixels():
    backbone = build_backbone("mobilefacenet", width=0.5, stem=4)
    sizes = []
    for layer in backbone.trunk[:3]:
        layer.register_forward_hook(lambda _layer, _in, out: sizes.append(out.shape[-1]))
    assert backbone(torch.zeros(2, 3, 112, 112)).shape == (2, 128)
    assert sizes == [28, 28, 28]
    plain = build_backbone("mobilefacenet", width=0.5)
    assert [*plain.state_dict()] == [*backbone.state_dict()]


@pytest.mark.parametrize("architecture", BACKBONES)
def test_gradients_reach_every_trainable_weight(architecture):
    torch.manual_seed(0)
    backbone = build_backbone(architecture, embedding_size=8)
    backbone(torch.randn(2, 3, 112, 112)).square().mean().backward()
    idle = [name for name, p in backbone.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert all(p.grad.isfinite().all() for p in backbone.parameters() if p.grad is not None)


EDGE = [
    ("mobilefacenet", {"width": 0.5, "stem": 4}),
    ("mobilefacenet", {"width": 0.5, "activation_name": "prelu"}),
    ("small_resnet", {"blocks": [1, 2, 1]}),
    ("mobilenetv3", {"size": "small"}),
    ("mobilenetv3", {"size": "large"}),
    ("iresnet", {"depth": 18}),
    ("vit", {"size": "tiny"}),
]


@pytest.mark.parametrize(("architecture", "arguments"), EDGE)
def test_onnx_gives_the_same_embeddings(architecture, arguments):
    torch.manual_seed(0)
    backbone = build_backbone(architecture, **arguments).eval()
    images, buffer = torch.rand(2, 3, 112, 112) * 2 - 1, BytesIO()
    axes = {"images": {0: "N"}}
    torch.onnx.export(
        backbone,
        (images[:1],),
        buffer,
        dynamo=False,
        opset_version=13,
        input_names=["images"],
        dynamic_axes=axes,
    )
    session = InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    with torch.no_grad():
        assert functional.cosine_similarity(found, backbone(images)).min() >= 0.9999


class FakeTimm(ModuleType):
    """The two functions that are used, with one network to offer."""

    __version__ = "9.9"

    def list_models(self):
        return ["resnet18"]

    def create_model(self, name, pretrained, num_classes, **sizes):
        assert (name, pretrained) == ("resnet18", False)
        self.sizes = sizes
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, num_classes))


def test_timm_names_are_built_with_random_weights(monkeypatch):
    fake = FakeTimm("timm")
    monkeypatch.setitem(sys.modules, "timm", fake)
    backbone = build_backbone("timm", model_name="resnet18", image_size=112, embedding_size=16)
    assert backbone(torch.zeros(2, 3, 112, 112)).shape == (2, 16)
    assert fake.sizes == {"img_size": 112}
    with pytest.raises(FoundryError, match="'hf-hub:a/b' is not in timm"):
        build_backbone("timm", model_name="hf-hub:a/b")


def test_timm_missing_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(FoundryError, match="pip install timm") as caught:
        build_backbone("timm", model_name="resnet18")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("architecture", "arguments", "message"),
    [
        ("resnet9000", {}, "'resnet9000' is not one of"),
        ("small_resnet", {"width": 2}, "backbone.width: small_resnet has no such argument"),
        ("small_resnet", {"widths": [1, 2]}, "need three values"),
        ("mobilefacenet", {"activation_name": "gelu"}, "not one of relu, prelu"),
        ("mobilefacenet", {"stem": 3}, "stem 3 is not one of 2, 4"),
        ("iresnet", {"depth": 101}, "depth 101 is not one of 18, 34, 50, 100"),
        ("mobilenetv3", {"size": "huge"}, "size 'huge' is not one of small, large"),
        ("vit", {"size": "huge"}, "size 'huge' is not one of tiny, small"),
        ("timm", {}, "model_name"),
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


def test_a_larger_student_starts_as_its_teacher_and_learns_on():
    torch.manual_seed(0)
    small = {"widths": [8, 16, 24], "head": 32, "embedding_size": 16}
    teacher = build_backbone("small_resnet", **small)
    images = torch.rand(8, 3, 112, 112) * 2 - 1
    for _ in range(3):
        teacher(images)  # statistics of its own
    student = build_backbone("small_resnet", **small, blocks=[3, 2, 4], fine=7)
    start_from(student, teacher)
    with torch.no_grad():
        expected, found = teacher.eval()(images), student.eval()(images)
    assert torch.allclose(found, expected, atol=1e-3)
    student.train()(images).square().sum().backward()
    gradients = {name: weight.grad.abs().max() for name, weight in student.named_parameters()}
    assert gradients["stem.2.0.weight"] > 0 and gradients["stages.0.2.body.2.1.weight"] > 0
    assert student.stem[2][0].weight.grad[:, 6].abs().max() > 0  # of the channel that waited


def test_a_fine_stem_takes_nothing_from_another_width():
    student = build_backbone("small_resnet", widths=[8, 16, 24], fine=8)
    before = student.stem[2][0].weight.clone()
    start_from(student, build_backbone("small_resnet"))
    assert torch.equal(student.stem[2][0].weight, before)


def test_only_layers_of_the_same_shape_are_taken():
    narrow = build_backbone("small_resnet", widths=[16, 32, 64])
    before = narrow.state_dict()["stem.1.0.weight"].clone()
    start_from(narrow, build_backbone("small_resnet"))
    assert torch.equal(narrow.state_dict()["stem.1.0.weight"], before)
