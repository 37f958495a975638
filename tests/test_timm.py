"""Real networks of `timm`, where that extra works; tests/test_backbones.py has its absence."""

import pytest
import torch

from facefoundry.backbones import build_backbone, count_parameters
from facefoundry.export import check_parity, export_onnx
from facefoundry.model_dir import ModelSpec

pytest.importorskip("timm", reason="the extra `timm` is not installed", exc_type=ImportError)

# millions of parameters with the 1,000 classes of ImageNet, as timm's results list them
PUBLISHED = {
    "resnet18": 11.69,
    "resnet50": 25.56,
    "resnet152": 60.19,
    "densenet121": 7.98,
    "inception_v3": 23.83,
    "vgg11_bn": 132.87,
    "efficientnet_b0": 5.29,
    "mobilenetv2_100": 3.50,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_network_is_the_published_one_and_exports(name, tmp_path):
    torch.manual_seed(0)
    arguments = {"model_name": name, "enlarge": 2 if name.startswith("vgg") else 1}
    backbone = build_backbone("timm", **arguments).eval()
    head = backbone.model.get_classifier()
    added = 1000 - 128  # ours has 128 outputs
    found = count_parameters(backbone) + added * (head.in_features + 1)
    assert found / 1e6 == pytest.approx(PUBLISHED[name], abs=0.006)
    spec = ModelSpec("timm", 128, arguments)
    export_onnx(backbone, spec, tmp_path / "net.onnx")
    crops = torch.randint(0, 256, (4, 112, 112, 3), dtype=torch.uint8).numpy()
    assert check_parity(backbone, tmp_path / "net.onnx", crops)["min"] >= 0.9999


def test_an_enlarged_crop_is_what_the_network_sees():
    backbone = build_backbone("timm", model_name="resnet18", enlarge=2).eval()
    images = torch.rand(1, 3, 112, 112)
    large = torch.nn.functional.interpolate(images, size=(224, 224), mode="bilinear")
    assert torch.allclose(backbone(images), backbone.model(large), atol=1e-5)


def test_a_transformer_is_told_the_size_of_the_image():
    vit = build_backbone("timm", model_name="vit_tiny_patch16_224", image_size=112).eval()
    assert vit(torch.zeros(2, 3, 112, 112)).shape == (2, 128)
    assert vit.model.pos_embed.shape[1] == 7 * 7 + 1
