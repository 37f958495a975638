"""NVIDIA's StyleGAN2/3 snapshots (`.pkl`), read without running anything that is in them.

Such a file holds G_ema as an object of `torch_utils.persistence`: the source code of its class as
text, the name of the class and its state. Unpickled as NVIDIA does, that text is executed. Here the
unpickler knows a dozen names, each of which only makes data; the source is left where it is.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facefoundry.errors import FoundryError

MAX_BYTES = 4_000_000_000


@dataclass(frozen=True)
class Persistent:
    """A module of the snapshot: the name of its class and its attributes."""

    class_name: str
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """G_ema. init: the keyword arguments of its constructor. tensors: its state dict. modules: the
    attributes of each module by its path, such as `synthesis.b8.conv0`."""

    class_name: str
    init: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    modules: Mapping[str, Mapping[str, Any]]


def read_snapshot(path: Path) -> Snapshot:
    """Read G_ema of a snapshot. Raises FoundryError, one line, for a file that is damaged, asks for
    any other name than those of ALLOWED, or holds no such generator."""
    value = _unpickle(path)
    generator = value.get("G_ema") if isinstance(value, dict) else None
    if not isinstance(generator, Persistent):
        raise FoundryError(f"{path}: holds no G_ema of PyTorch; convert it with NVIDIA's legacy.py")
    try:
        modules = dict(_modules(generator, ""))
        tensors = {name: tensor for path, m in modules.items() for name, tensor in _own(path, m)}
    except (AttributeError, TypeError, KeyError) as error:
        raise FoundryError(f"{path}: G_ema is no network of modules ({error!r})") from error
    init = dict(generator.state.get("_init_kwargs") or {})
    return Snapshot(generator.class_name, init, tensors, modules)


def _unpickle(path: Path) -> Any:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise FoundryError(f"{path}: larger than {MAX_BYTES:,} bytes; not a snapshot")
        with path.open("rb") as file:
            return _DataUnpickler(file).load()
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror})") from error
    except FoundryError:
        raise
    except Exception as error:  # a damaged pickle raises nearly any kind
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FoundryError(
            f"{path}: not a snapshot of plain data ({reason}); never load it with pickle"
        ) from error


def _modules(module: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield path, module.state
    for name, child in module.state["_modules"].items():
        yield from _modules(child, f"{path}.{name}" if path else name)


def _own(path: str, state: Mapping[str, Any]) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in {**state["_parameters"], **state["_buffers"]}.items():
        if isinstance(tensor, Tensor):
            yield f"{path}.{name}" if path else name, tensor


class _DataUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        if ALLOWED[module, name] is dict:
            return type(name, (dict,), {})
        # A partial of its own for each: a pickle may set attributes of what it was given.
        return partial(ALLOWED[module, name])

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside the file")


def _persistent(meta: Mapping[str, Any]) -> Persistent:
    return Persistent(str(meta["class_name"]), meta["state"])


def _storage(data: bytes) -> Tensor:
    """The numbers of a storage as one row; PyTorch's own restricted unpickler reads them."""
    try:
        stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # its message advises to read the file without the restriction
        raise pickle.UnpicklingError("a storage that holds more than numbers") from error
    return torch.empty(0, dtype=stored.dtype).set_(stored)


def _tensor(
    row: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> Tensor:
    """A copy, so that a claim of more numbers than the file has is an error, not memory."""
    if len(size) != len(stride) or np.prod(size, dtype=object) > len(row):
        raise pickle.UnpicklingError(f"a tensor of {size} from {len(row)} numbers")
    return row.as_strided(size, stride, offset).clone()


class _Dtype:
    """A plain dtype of numpy: `kind` such as f4, then the byte order from its pickled state."""

    def __init__(self, kind: str, *_: Any) -> None:
        if not isinstance(kind, str) or kind[:1] not in tuple("biuf"):
            raise pickle.UnpicklingError(f"numpy numbers of kind {kind!r}")
        self.value = np.dtype(kind)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.value = self.value.newbyteorder(state[1])


class _Array:
    """A numpy array that its pickled state fills."""

    value: np.ndarray | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, by_columns, data = state
        flat = np.frombuffer(data, dtype.value)
        self.value = flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)


def _scalar(dtype: _Dtype, data: bytes) -> Any:
    return np.frombuffer(data, dtype.value)[0].item()


# What a snapshot may ask for, and what it is given: data in every case.
ALLOWED: dict[tuple[str, str], Callable[..., Any]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent,
    ("dnnlib.util", "EasyDict"): dict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): lambda tensor, *_: tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch", "Size"): tuple,
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
