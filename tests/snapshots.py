"""Hand-made StyleGAN2 snapshots in the layout in which NVIDIA's training code pickles them."""

import io
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

SOURCE = "raise RuntimeError('the embedded source was executed')"


class Pickled:
    """Pickles as a call of the global `module.name` on `arguments`."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.place, self.arguments = (module, name), arguments

    def __reduce__(self):
        module, name = self.place
        return getattr(sys.modules[module], name), self.arguments


def define_names(monkeypatch: pytest.MonkeyPatch) -> type:
    """Define the names that such files ask for, so that they can be written; return EasyDict."""

    class EasyDict(dict):
        pass

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("it was called")

    for package in ("torch_utils", "dnnlib"):
        monkeypatch.setitem(sys.modules, package, types.ModuleType(package))
    for place, thing in (
        ("torch_utils.persistence", _reconstruct_persistent_obj),
        ("dnnlib.util", EasyDict),
    ):
        thing.__module__, thing.__qualname__ = place, thing.__name__
        found = types.ModuleType(place)
        setattr(found, thing.__name__, thing)
        monkeypatch.setitem(sys.modules, place, found)
    return EasyDict


def module(
    class_name: str, parameters: dict, buffers: dict, modules: dict, **attributes
) -> Pickled:
    state = {
        "training": False,
        "_parameters": OrderedDict(
            (name, torch.nn.Parameter(value)) for name, value in parameters.items()
        ),
        "_buffers": OrderedDict(buffers),
        "_non_persistent_buffers_set": set(),
        "_modules": OrderedDict(modules),
        **attributes,
    }
    meta = {
        "type": "class",
        "version": 6,
        "module_src": SOURCE,
        "class_name": class_name,
        "state": state,
    }
    return Pickled("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def generator(
    easy: type, side: int = 8, width: int = 4, z: int = 6, w: int = 8, conditions: int = 0
) -> Pickled:
    """A generator of random weights. width: channels of all maps."""
    torch.manual_seed(0)
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64

    def dense(inputs: int, outputs: int, bias: float) -> Pickled:
        weights = {"weight": torch.randn(outputs, inputs), "bias": bias + torch.randn(outputs) / 9}
        return module("FullyConnectedLayer", weights, {}, {})

    def layer(resolution: int) -> Pickled:
        weights = {
            "weight": torch.randn(width, width, 3, 3),
            "bias": torch.randn(width),
            "noise_strength": torch.tensor(0.3),
        }
        noise = {"noise_const": torch.randn(resolution, resolution), "resample_filter": kernel}
        parts = {"affine": dense(w, width, 1.0)}
        return module("SynthesisLayer", weights, noise, parts, conv_clamp=2.0)

    def block(resolution: int) -> Pickled:
        colours = {"weight": torch.randn(3, width, 1, 1), "bias": torch.randn(3)}
        parts = {"affine": dense(w, width, 1.0)}
        last = {
            "conv1": layer(resolution),
            "torgb": module("ToRGBLayer", colours, {}, parts, conv_clamp=None),
        }
        if resolution == 4:
            const = {"const": torch.randn(width, 4, 4)}
            return module("SynthesisBlock", const, {"resample_filter": kernel}, last)
        first = {"conv0": layer(resolution)}
        return module("SynthesisBlock", {}, {"resample_filter": kernel}, first | last)

    sides = [2**power for power in range(2, side.bit_length())]
    synthesis = module("SynthesisNetwork", {}, {}, {f"b{s}": block(s) for s in sides})
    dense_layers = {"fc0": dense(z, w, 0.0), "fc1": dense(w, w, 0.0)}
    mapping = module("MappingNetwork", {}, {"w_avg": torch.zeros(w)}, dense_layers)
    init = easy(z_dim=z, w_dim=w, c_dim=conditions, img_resolution=side, img_channels=3)
    init["mapping_kwargs"] = easy(num_layers=2, lr_multiplier=0.5)
    init["scale"] = np.float64(0.5)
    init["sizes"] = np.arange(6, dtype=">i4").reshape(2, 3)
    parts = {"synthesis": synthesis, "mapping": mapping}
    return module("Generator", {}, {}, parts, _init_kwargs=init)


def write(path: Path, value: object, protocol: int = 4) -> Path:
    buffer = io.BytesIO()
    pickle.Pickler(buffer, protocol).dump(value)
    path.write_bytes(buffer.getvalue())
    return path
