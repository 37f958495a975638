"""StyleGAN2's generator in plain PyTorch, from the weights of a snapshot.

Karras et al., "Analyzing and Improving the Image Quality of StyleGAN", CVPR 2020. The paper's
network with skip connections to RGB, which is what snapshots hold; its modulated convolution is
written as in the paper's equations 1 to 3, with the style on the input and the demodulation on the
output, and each pixel's noise is the stored one, so that the same style gives the same image.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from facefoundry.errors import FoundryError
from facefoundry.images import Image, resize
from facefoundry.synthesis.mobile_stylegan import GROUPS, IMAGE_SIZE, Array, torch_device
from facefoundry.synthesis.stylegan_pickle import Snapshot, read_snapshot

ACTIVATION_GAIN = 2**0.5  # keeps the variance through a leaky ReLU
SLOPE = 0.2
BATCH = 8


class StyleGan2:
    """Latents -> styles -> images, on a GPU where there is one.

    Raises FoundryError for a network of another kind: StyleGAN3, conditional, or not RGB.
    """

    def __init__(self, snapshot: Snapshot, device: torch.device | None = None) -> None:
        _check(snapshot)
        self.device = device or torch_device()
        self.weights = {name: t.float().to(self.device) for name, t in snapshot.tensors.items()}
        self.modules = snapshot.modules
        options = snapshot.init.get("mapping_kwargs") or {}
        self.mapping_rate = float(options.get("lr_multiplier", 0.01))
        self.latent_size = int(snapshot.init["z_dim"])
        self.style_size = int(snapshot.init["w_dim"])
        side = int(snapshot.init["img_resolution"])
        self.resolutions = [2**power for power in range(2, side.bit_length())]

    @classmethod
    def read(cls, path: Path) -> StyleGan2:
        try:
            return cls(read_snapshot(path))
        except (KeyError, RuntimeError) as error:
            raise FoundryError(f"{path}: not the weights of a StyleGAN2 ({error!r})") from error

    @torch.inference_mode()
    def styles(self, latents: Array) -> Array:
        """(N, latent_size) -> (N, style_size)."""
        x = torch.from_numpy(latents).to(self.device)
        x = x * (x.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        layer = 0
        while f"mapping.fc{layer}.weight" in self.weights:
            x = self._linear(f"mapping.fc{layer}", x, self.mapping_rate)
            x = functional.leaky_relu(x, SLOPE) * ACTIVATION_GAIN
            layer += 1
        return x.cpu().numpy()

    def images(self, styles: Array) -> list[Image]:
        """styles (N, G, style_size), one for each resolution group -> N images of 256 pixels."""
        batches = (styles[start : start + BATCH] for start in range(0, len(styles), BATCH))
        return [
            resize(image, IMAGE_SIZE, IMAGE_SIZE)
            for batch in batches
            for image in as_pixels(self.synthesise(torch.from_numpy(batch).to(self.device)))
        ]

    @torch.inference_mode()
    def synthesise(self, styles: Tensor) -> Tensor:
        """styles (N, G, style_size) -> (N, 3, side, side) RGB, about -1..1."""
        x = self.weights["synthesis.b4.const"].expand(len(styles), -1, -1, -1)
        image: Tensor | None = None
        for place, side in enumerate(self.resolutions):
            block = f"synthesis.b{side}"
            own = styles[:, group_of(side)]
            if side > 4:
                # conv0 shares its style with the coarser block's colours
                x = self._layer(f"{block}.conv0", x, own, upscale=True)
            x = self._layer(f"{block}.conv1", x, own)
            finer = self.resolutions[min(place + 1, len(self.resolutions) - 1)]
            colours = self._colours(f"{block}.torgb", x, styles[:, group_of(finer)])
            image = colours if image is None else self._doubled(block, image) + colours
        assert image is not None
        return image

    def _layer(self, name: str, x: Tensor, style: Tensor, upscale: bool = False) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        scale = self._linear(f"{name}.affine", style)
        x = x * scale[:, :, None, None]
        if upscale:
            x = functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
            x = blur(x, 4 * self.weights[f"{name}.resample_filter"], (1, 1))
        else:
            x = functional.conv2d(x, weight, padding=weight.shape[-1] // 2)
        x = x * demodulation(weight, scale)[:, :, None, None]
        x = x + self.weights[f"{name}.noise_const"] * self.weights[f"{name}.noise_strength"]
        x = x + self.weights[f"{name}.bias"][:, None, None]
        return self._clamped(name, functional.leaky_relu(x, SLOPE) * ACTIVATION_GAIN)

    def _colours(self, name: str, x: Tensor, style: Tensor) -> Tensor:
        weight = self.weights[f"{name}.weight"]
        scale = self._linear(f"{name}.affine", style) / weight[0].numel() ** 0.5
        colours = functional.conv2d(x * scale[:, :, None, None], weight)
        return self._clamped(name, colours + self.weights[f"{name}.bias"][:, None, None])

    def _clamped(self, name: str, x: Tensor) -> Tensor:
        limit: Any = self.modules[name].get("conv_clamp")
        return x if limit is None else x.clamp(-limit, limit)

    def _doubled(self, block: str, image: Tensor) -> Tensor:
        """Twice the side: zeros between the pixels, then the block's filter."""
        n, channels, height, width = image.shape
        wide = image.new_zeros(n, channels, height, 2, width, 2)
        wide[:, :, :, 0, :, 0] = image
        kernel = 4 * self.weights[f"{block}.resample_filter"]
        return blur(wide.reshape(n, channels, 2 * height, 2 * width), kernel, (2, 1))

    def _linear(self, name: str, x: Tensor, rate: float = 1.0) -> Tensor:
        """Weights are stored for the equalised learning rate of the paper before, so divided."""
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return x @ (weight * (rate / weight.shape[1] ** 0.5)).T + bias * rate


def demodulation(weight: Tensor, scale: Tensor) -> Tensor:
    """(O, I, k, k), (N, I) -> (N, O): what brings each output map back to unit deviation."""
    energy = weight.square().sum((2, 3))
    return (scale.square() @ energy.T + 1e-8).rsqrt()


def blur(x: Tensor, kernel: Tensor, padding: tuple[int, int]) -> Tensor:
    """Convolve each channel with `kernel` (k, k) after padding (before, after) on both axes."""
    channels = x.shape[1]
    flipped = kernel.flip((0, 1)).expand(channels, 1, -1, -1)
    return functional.conv2d(functional.pad(x, padding * 2), flipped, groups=channels)


def group_of(side: int) -> int:
    """The resolution group, by its place in GROUPS, of a block; finer ones belong to the last."""
    limits = [int(name) for name in GROUPS]
    return next((place for place, limit in enumerate(limits) if side <= limit), len(limits) - 1)


def as_pixels(images: Tensor) -> list[Image]:
    """(N, 3, H, W) in -1..1 -> (N, H, W, 3) uint8."""
    pixels = (images * 127.5 + 128).clamp(0, 255).to(torch.uint8)
    return list(np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy()))


def _check(snapshot: Snapshot) -> None:
    reason = ""
    if "synthesis.b4.const" not in snapshot.tensors:
        reason = f"G_ema is a {snapshot.class_name} of another architecture than StyleGAN2's"
    elif snapshot.init.get("c_dim"):
        reason = "the network is conditional"
    elif snapshot.init.get("img_channels", 3) != 3:
        reason = "its images are not RGB"
    elif "synthesis.b4.torgb.weight" not in snapshot.tensors:
        reason = "it has no skip connections to RGB"
    if reason:
        raise FoundryError(f"weights: {reason}; only unconditional StyleGAN2 can be run here")
