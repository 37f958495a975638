"""The faces at hand while a student learns: some stay, the others are made anew all the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.alignment import SIZE
from facefoundry.data import NOBODY, Crops, normalise
from facefoundry.openvino_cpu import core
from facefoundry.precision import computes_bf16
from facefoundry.progress import track
from facefoundry.references import sface_float_model
from facefoundry.sharding import chunked
from facefoundry.streaming.aligner import Aligner
from facefoundry.streaming.loader import planes
from facefoundry.streaming.morphs import morphs
from facefoundry.streaming.painter import Painter
from facefoundry.synthesis.mobile_stylegan import IMAGE_SIZE, torch_device
from facefoundry.synthesis.stylegan import StyleGan
from facefoundry.torch_graph import TorchGraph

# faces that are painted together, by the memory that their features take
AT_ONCE = {"cuda": 256, "cpu": 16}
DIMENSIONS = 128  # of SFace


class SFace(nn.Module):
    """Crops (N, 3, 112, 112) RGB in 0..255 -> (N, 128) of length 1: of a face and its mirror image,
    the mean direction, since SFace does not quite see them alike."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = TorchGraph(core().read_model(sface_float_model().SerializeToString()))

    def forward(self, crops: Tensor) -> Tensor:
        return mirror_mean(self.as_it_is, crops)

    def as_it_is(self, crops: Tensor) -> Tensor:
        """The same of the face alone, which is half the work."""
        (embeddings,) = self.graph(crops.to(next(self.graph.buffers()).dtype))
        return functional.normalize(embeddings.float())

    def fast(self, dtype: torch.dtype) -> None:
        self.graph.fast(dtype)


class Own(nn.Module):
    """The same by a network of ours, of D numbers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, crops: Tensor) -> Tensor:
        return mirror_mean(self.as_it_is, crops)

    def as_it_is(self, crops: Tensor) -> Tensor:
        images = normalise(crops).to(next(self.net.parameters()).dtype)
        seen = self.net(images.contiguous(memory_format=torch.channels_last))
        return functional.normalize(seen.float())

    def fast(self, dtype: torch.dtype) -> None:
        self.net.to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def mirror_mean(embed: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """The mean direction (N, D) of images (N, 3, H, W) and their mirror images; embed: into
    directions of length 1."""
    return functional.normalize(embed(images) + embed(images.flip(3)))


class FacePool:
    """crops (N, 3, 112, 112) uint8 RGB and targets (N, D), what the teacher makes of them.

    The first `kept` of them stay; behind these stand `faces` that the painter made and `morphs`
    between any two, of which `fresh` each are made anew for every image that is learnt from.
    """

    def __init__(
        self,
        kept: Tensor,
        faces: int,
        morphs: int,
        fresh: float,
        painter: Painter,
        aligner: Aligner,
        teacher: nn.Module,
        size: int = DIMENSIONS,
    ) -> None:
        device = kept.device
        self.painter, self.aligner, self.teacher = painter, aligner, teacher
        self.at_once = AT_ONCE[device.type]
        total = len(kept) + faces + morphs
        self.crops = torch.empty(total, 3, SIZE, SIZE, dtype=torch.uint8, device=device)
        self.targets = torch.empty(total, size, device=device)
        self.labels = torch.full((total,), NOBODY)
        self.fresh, self.made, self._filled = fresh, 0, 0
        self.faces = Ring(len(kept), faces)
        self.morphs = Ring(len(kept) + faces, morphs)
        rows = torch.split(torch.arange(len(kept), device=device), self.at_once)
        for places in track(rows, "embedding the train faces", unit="batches"):
            self._put(places, kept[places])
        self._filled, self.made = len(kept), 0
        for batch in track(self._batches(faces), "painting faces", unit="batches"):
            left = len(batch)
            while left > 0:  # some show no face
                left -= self.paint(left)
        self._filled = len(kept) + faces
        for batch in track(self._batches(morphs), "morphing faces", unit="batches"):
            self.morph(len(batch))
        self._filled = total

    def refresh(self, images: int) -> None:
        """What is due for so many images that will be learnt from."""
        for batch in self._batches(round(self.fresh * images)):
            self.paint(len(batch))
            self.morph(len(batch))

    def _batches(self, count: int) -> list[Sequence[int]]:
        return chunked(range(count), self.at_once)

    @torch.no_grad()
    def paint(self, count: int) -> int:
        """Try `count` faces; how many came out as one."""
        crops, _ = self.aligner(self.painter(self.painter.people(count)))
        self._put(self.faces.next(len(crops)), crops)
        return len(crops)

    @torch.no_grad()
    def morph(self, count: int) -> None:
        if not self.morphs.size:
            return
        pairs = torch.randint(self._filled, (2, count), device=self.crops.device)
        made = morphs(self.crops[pairs[0]], self.crops[pairs[1]])
        self._put(self.morphs.next(count), made)

    @torch.no_grad()
    def _put(self, places: Tensor, crops: Tensor) -> None:
        places = places.to(self.crops.device)
        self.crops[places] = crops[: len(places)]
        self.targets[places] = self.teacher(crops[: len(places)])
        self.made += len(places)


class Ring:
    """Places from `start` on, `size` of them, given out in turn and over again."""

    def __init__(self, start: int, size: int) -> None:
        self.start, self.size, self._turn = start, size, 0

    def next(self, count: int) -> Tensor:
        """At most as many as there are."""
        count = min(count, self.size)
        places = (torch.arange(count) + self._turn) % max(self.size, 1) + self.start
        self._turn = (self._turn + count) % max(self.size, 1)
        return places


def open_pool(options: Mapping[str, Any], nets: Sequence[Any], kept: Crops, size: int) -> FacePool:
    """By the values of conf/stream.yaml, on a GPU where there is one.

    nets: a painter, an aligner and a teacher of `size` numbers. kept: (N, 112, 112, 3) uint8 RGB,
    faces that stay.
    """
    counts = {name: options[name] for name in ("faces", "morphs", "fresh")}
    painter, aligner, teacher = prepared(nets)
    crops = planes(kept, torch_device())
    return FacePool(crops, **counts, painter=painter, aligner=aligner, teacher=teacher, size=size)


def prepared(nets: Sequence[Any]) -> list[Any]:
    """`streaming_nets` on the GPU, where there is one; the first and the last in numbers of 16
    bits, where these are faster."""
    device = torch_device()
    painter, aligner, teacher = (net.to(device).eval() for net in nets)
    if device.type == "cuda" or computes_bf16():
        dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
        painter.fast(dtype)
        teacher.fast(dtype)
    return [painter, aligner, teacher]


def streaming_nets(options: Mapping[str, Any]) -> tuple[Painter, Aligner]:
    """By the values of conf/generator/stylegan.yaml; whom to pull is for `puller`."""
    own = {key: value for key, value in options.items() if key not in ("name", "pull")}
    return Painter(StyleGan(**own)), Aligner(IMAGE_SIZE)
