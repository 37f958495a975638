"""Embedding networks by name: (B, 3, 112, 112) RGB in [-1, 1] -> (B, D), not normalised."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from facefoundry.backbones.complexity import count_macs, count_parameters
from facefoundry.backbones.external import TimmBackbone
from facefoundry.backbones.iresnet import IResNet
from facefoundry.backbones.mobilefacenet import MobileFaceNet
from facefoundry.backbones.mobilenetv3 import MobileNetV3
from facefoundry.backbones.small_resnet import SmallResNet
from facefoundry.backbones.vit import VisionTransformer
from facefoundry.errors import FoundryError

__all__ = ["BACKBONES", "build_backbone", "count_macs", "count_parameters"]

# Names, never import paths: model.json files of strangers are built through this table.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "small_resnet": SmallResNet,
    "iresnet": IResNet,
    "mobilenetv3": MobileNetV3,
    "vit": VisionTransformer,
}
# Names that only work where an extra is installed.
EXTRAS: dict[str, Callable[..., nn.Module]] = {"timm": TimmBackbone}


def build_backbone(architecture: str, *, embedding_size: int = 128, **arguments: Any) -> nn.Module:
    """Build a backbone. Raises FoundryError for an unknown name or argument, listing the valid."""
    builders = BACKBONES | EXTRAS
    if architecture not in builders:
        raise FoundryError(
            f"backbone.architecture: '{architecture}' is not one of {', '.join(builders)}"
        )
    build = builders[architecture]
    known = set(inspect.signature(build).parameters) - {"embedding_size"}
    if unknown := sorted(set(arguments) - known):
        raise FoundryError(
            f"backbone.{unknown[0]}: {architecture} has no such argument; it has"
            f" {', '.join(sorted(known))}"
        )
    try:
        return build(embedding_size=embedding_size, **arguments)
    except (TypeError, ValueError) as error:
        raise FoundryError(f"backbone: {architecture} cannot be built: {error}") from error
