"""YuNet and the similarity warp of `alignment`, for many images at once on a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.alignment import SIZE, TEMPLATE
from facefoundry.openvino_cpu import core
from facefoundry.torch_graph import TorchGraph
from facefoundry.weights import yunet_path

STRIDES = (8, 16, 32)


class Aligner(nn.Module):
    """Cuts the most certain face out of square images of `side` pixels, a multiple of 32."""

    template: Tensor

    def __init__(self, side: int, min_score: float = 0.6) -> None:
        super().__init__()
        model = core().read_model(yunet_path())
        model.reshape([1, 3, side, side])
        self.side, self.min_score = side, min_score
        self.names = [output.get_any_name() for output in model.outputs]
        self.yunet = TorchGraph(model)
        self.register_buffer("template", torch.from_numpy(TEMPLATE))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, side, side) RGB in 0..255 -> crops (M, 3, 112, 112) uint8 of those with a face,
        and which (N,) these are."""
        landmarks, scores = self.landmarks(images)
        found = scores >= self.min_score
        return self.warp(images[found], landmarks[found]), found

    def landmarks(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The five landmarks (N, 5, 2) in pixels of each image's best face, and its score (N,)."""
        bgr = images.flip(1)  # what OpenCV feeds it
        outputs = dict(zip(self.names, self.yunet(bgr), strict=True))
        scores, points = [], []
        for stride in STRIDES:
            cells = self.side // stride
            certain = outputs[f"cls_{stride}"] * outputs[f"obj_{stride}"]
            scores.append(certain.float().clamp(0, 1).sqrt().squeeze(2))
            y, x = torch.meshgrid(*[torch.arange(cells, device=images.device)] * 2, indexing="ij")
            corner = torch.stack([x, y], -1).reshape(-1, 1, 2)
            offsets = outputs[f"kps_{stride}"].float().reshape(len(images), -1, 5, 2)
            points.append((offsets + corner) * stride)
        best = torch.cat(scores, 1).max(1)
        rows = torch.arange(len(images), device=images.device)
        return torch.cat(points, 1)[rows, best.indices], best.values

    def warp(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """As `alignment.warp`: black outside the image. (N, 3, H, W) -> (N, 3, 112, 112) uint8."""
        return self.cut(images, landmarks).round().clamp(0, 255).to(torch.uint8)

    def cut(self, images: Tensor, landmarks: Tensor) -> Tensor:
        """The same, not rounded, so that a gradient passes."""
        source, target = torch.view_as_complex(landmarks), torch.view_as_complex(self.template)
        centred, wanted = source - source.mean(1, keepdim=True), target - target.mean()
        # from the crop to the image, whose least-squares similarity is the other one's inverse
        turn = (centred.conj() * wanted).sum(1) / centred.abs().square().sum(1)
        line = torch.arange(SIZE, device=images.device, dtype=torch.float32)
        places = torch.complex(line.repeat(SIZE), line.repeat_interleave(SIZE)) - target.mean()
        where = torch.view_as_real(places / turn[:, None] + source.mean(1, keepdim=True))
        grid = where.reshape(-1, SIZE, SIZE, 2) * 2 / (self.side - 1) - 1
        return functional.grid_sample(images, grid, align_corners=True)
