"""Embedding networks by name: (B, 3, 112, 112) RGB in [-1, 1] -> (B, D), not normalised."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from facefoundry.backbones.mobilefacenet import MobileFaceNet
from facefoundry.backbones.small_resnet import SmallResNet
from facefoundry.errors import FoundryError

# Names, never import paths: model.json files of strangers are built through this table.
BACKBONES: dict[str, Callable[..., nn.Module]] = {
    "mobilefacenet": MobileFaceNet,
    "small_resnet": SmallResNet,
}


def build_backbone(architecture: str, *, embedding_size: int = 128, **arguments: Any) -> nn.Module:
    """Build a backbone. Raises FoundryError for an unknown name or argument, listing the valid."""
    if architecture not in BACKBONES:
        raise FoundryError(
            f"backbone.architecture: '{architecture}' is not one of {', '.join(BACKBONES)}"
        )
    build = BACKBONES[architecture]
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
