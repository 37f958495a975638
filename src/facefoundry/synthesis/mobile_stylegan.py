"""The MobileStyleGAN inside the wheel `random-face`, cut short and opened for editing.

The published graph maps one style vector to a 1024 x 1024 image. An aligned face needs a seventh
of that width, so the graph is cut after the features of a lower resolution and a linear head,
fitted once by least squares against the graph's own full output, paints the image from there.
Each resolution group gets a style input of its own, which is what lets a pose change leave the
skin alone (style mixing, Karras et al., "A Style-Based Generator Architecture", CVPR 2019).
MobileStyleGAN: Belousov, arXiv:2104.04767.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import torch
from numpy.typing import NDArray
from openvino import opset13

from facefoundry.errors import FoundryError
from facefoundry.images import Image
from facefoundry.keeping import atomic
from facefoundry.openvino_cpu import compile_model, core
from facefoundry.torch_graph import TorchGraph

Array = NDArray[np.float32]

STYLE_SIZE = 512
IMAGE_SIZE = 256
# The modulated layers by the resolution they work at, in pixels.
GROUPS = {
    "8": ("Gemm_11", "Gemm_52", "Gemm_77", "Gemm_110"),
    "16": ("Gemm_152", "Gemm_177", "Gemm_210"),
    "32": ("Gemm_252", "Gemm_277", "Gemm_310"),
    "64": ("Gemm_352", "Gemm_377", "Gemm_410"),
    "128": ("Gemm_452", "Gemm_477", "Gemm_510"),
}
ENGINES = ("auto", "openvino", "torch")
# Feature maps to cut at: {resolution: last activation of that resolution}.
CUTS = {64: "LeakyRelu_442", 128: "LeakyRelu_542"}


def weights_directory() -> Path:
    """Where the wheel's IR files lie. Raises FoundryError where the wheel is missing."""
    spec = find_spec("random_face")
    directory = Path(str(spec.origin)).parent / "data" if spec else Path()
    if not (directory / "SynthesisNetwork.bin").is_file():
        raise FoundryError(
            "generator stylegan: the weights wheel is missing;"
            " run `pip install --no-deps random-face==2021.7.21.1`"
        )
    return directory


Run = Callable[[Sequence[Array]], list[Array]]


def torch_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_engine(name: str) -> str:
    """The engine that `name` of ENGINES stands for here. Raises FoundryError for any other."""
    if name not in ENGINES:
        raise FoundryError(f"generator.engine: '{name}' is not one of {', '.join(ENGINES)}")
    if name != "auto":
        return name
    return "torch" if torch.cuda.is_available() else "openvino"


def with_openvino(model: ov.Model, threads: int) -> Run:
    """Inputs (1, ...) -> outputs (1, ...)."""
    request = compile_model(model, threads).create_infer_request()

    def run(inputs: Sequence[Array]) -> list[Array]:
        request.infer(list(inputs))
        return [np.array(output.data) for output in request.output_tensors]

    return run


def with_torch(model: ov.Model) -> Run:
    """Inputs (N, ...) -> outputs (N, ...), on a GPU where there is one, in FP32 also there."""
    device = torch_device()
    graph = TorchGraph(model).to(device)
    precision: Any = torch.backends.cudnn.flags  # a function without types

    def run(inputs: Sequence[Array]) -> list[Array]:
        tensors = [torch.from_numpy(np.asarray(value)).to(device) for value in inputs]
        with torch.inference_mode(), precision(enabled=True, allow_tf32=False):
            return [output.cpu().numpy() for output in graph(*tensors)]

    return run


class Mapping:
    """Gaussian latents (N, 512) -> styles w (N, 512)."""

    def __init__(self, threads: int = 1, engine: str = "openvino") -> None:
        model = mapping_graph()
        if engine == "openvino":
            model.reshape([-1, STYLE_SIZE])
        self._run = with_torch(model) if engine == "torch" else with_openvino(model, threads)

    def __call__(self, latents: Array) -> Array:
        return self._run([latents])[0]


class Synthesis:
    """Styles in, features out, by `synthesis_graph`.

    engine: "openvino", or "torch", which takes many images at once.
    """

    def __init__(
        self, cut: int, threads: int = 1, full: bool = False, engine: str = "openvino"
    ) -> None:
        model = synthesis_graph(cut, full)
        self.inputs = len(model.inputs)
        self._batch = None if engine == "torch" else 1
        self._run = with_torch(model) if engine == "torch" else with_openvino(model, threads)

    def __call__(self, styles: Array) -> list[Array]:
        """styles (N, groups, 512) -> features (N, C, cut, cut), and images (N, 3, 1024, 1024) in
        -1..1 where `full` was asked for."""
        size = self._batch or len(styles)
        batches = [styles[start : start + size] for start in range(0, len(styles), size)]
        parts = [self._run([batch[:, g] for g in range(self.inputs)]) for batch in batches]
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def mapping_graph() -> ov.Model:
    return core().read_model(weights_directory() / "MappingNetwork.xml")


def synthesis_graph(cut: int, full: bool = False) -> ov.Model:
    """The cut graph with one style input (1, 512) for each resolution group, in the order of
    GROUPS. cut: resolution of the features, 64 or 128. full: one style for all of it, and the 1024
    x 1024 image as a second output."""
    model = core().read_model(weights_directory() / "SynthesisNetwork.xml")
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    outputs = [nodes[CUTS[cut]].output(0)]
    parameters = model.get_parameters()
    if full:
        outputs.append(model.outputs[0].get_node().input_value(0))
    else:
        parameters = _style_inputs(parameters[0], nodes, cut)
    results = [opset13.result(output) for output in outputs]
    return ov.Model(results, parameters, "synthesis")


def _style_inputs(style: ov.Node, nodes: dict[str, ov.Node], cut: int) -> list[ov.Node]:
    """Replace the one style parameter by one for each resolution group up to the cut."""
    parameters = []
    for name, layers in GROUPS.items():
        if int(name) <= cut:
            parameter = opset13.parameter([1, STYLE_SIZE], np.float32, name=f"style_{name}")
            for layer in layers:
                nodes[f"{layer}/WithoutBiases"].input(0).replace_source_output(parameter.output(0))
            parameters.append(parameter)
    for target in style.output(0).get_target_inputs():  # what reads only the batch size is left
        target.replace_source_output(parameters[0].output(0))
    return parameters


def paint(features: Array, head: Array) -> Image:
    """Apply the linear head: features (C, h, h) and head (C + 1, 3 r r), r = 256 / h ->
    (256, 256, 3) uint8 RGB."""
    size = features.shape[1]
    ratio = IMAGE_SIZE // size
    colours = features.reshape(len(features), -1).T @ head[:-1] + head[-1]
    pixels = colours.reshape(size, size, 3, ratio, ratio).transpose(0, 3, 1, 4, 2)
    scaled = pixels.reshape(IMAGE_SIZE, IMAGE_SIZE, 3) * 127.5 + 128.0
    return np.clip(scaled, 0, 255).astype(np.uint8)


class MobileStyleGan:
    """The wheel's network as `stylegan` draws from it: latents -> styles -> images of 256 pixels.

    head: see `paint`. engine: "openvino" or "torch".
    """

    latent_size = STYLE_SIZE

    def __init__(self, cut: int, engine: str, head: Array) -> None:
        self.styles = Mapping(engine=engine)
        self._synthesis = Synthesis(cut, engine=engine)
        self._head = head

    def images(self, styles: Array) -> list[Image]:
        """styles (N, groups, 512) -> N images (256, 256, 3) uint8 RGB; N may be 0."""
        if not len(styles):
            return []
        return [paint(features, self._head) for features in self._synthesis(styles)[0]]


def load_head(cache: Path, cut: int, images: int) -> Array:
    """The head for `cut`, fitted on `images` faces a little nearer to the mean than usual, or from
    the cache."""
    path = cache / f"head-{cut}-{images}.npy"
    if not path.is_file():
        latents = np.random.default_rng(0).standard_normal((8192, STYLE_SIZE), np.float32)
        styles = Mapping(threads=2)(latents)
        mean = styles.mean(0)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, fit_head(mean + 0.85 * (styles[:images] - mean), cut))
    return np.load(path, allow_pickle=False)


def fit_head(styles: Array, cut: int, threads: int = 2) -> Array:
    """Least-squares head (C + 1, 3 r r) from features to the full image, on styles (N, 512)."""
    synthesis = Synthesis(cut, threads, full=True)
    ratio = IMAGE_SIZE // cut
    gram, moment = np.zeros((0, 0)), np.zeros((0, 0))
    for style in styles:
        features, image = (output[0] for output in synthesis(style[None, None]))
        columns = features.reshape(len(features), -1).T
        columns = np.hstack([columns, np.ones((len(columns), 1), np.float32)])
        small = image.reshape(3, IMAGE_SIZE, 4, IMAGE_SIZE, 4).mean((2, 4)).clip(-1, 1)
        target = small.reshape(3, cut, ratio, cut, ratio).transpose(1, 3, 0, 2, 4)
        target = target.reshape(cut * cut, -1)
        gram = gram + columns.T @ columns if gram.size else (columns.T @ columns).astype(float)
        moment = moment + columns.T @ target if moment.size else (columns.T @ target).astype(float)
    ridge = 1e-3 * np.trace(gram) / len(gram) * np.eye(len(gram))
    return np.linalg.solve(gram + ridge, moment).astype(np.float32)
