"""A model on disk: `model.safetensors` (weights), `model.json` (all that is needed to use them)
and `MODEL_CARD.md`. `load_model` is the one way in, and nothing here is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from facefoundry.backbones import build_backbone, count_parameters
from facefoundry.errors import FoundryError
from facefoundry.model_card import model_card

WEIGHTS = "model.safetensors"
SPEC = "model.json"
CARD = "MODEL_CARD.md"

FORMAT_VERSION = 1
MAX_SPEC_BYTES = 4_000_000
# Every model of this package takes its images so; a reader may rely on it.
FIXED = {
    "format_version": FORMAT_VERSION,
    "input_size": 112,
    "colour_order": "RGB",
    "mean": 127.5,
    "std": 127.5,
}


@dataclass(frozen=True)
class ModelSpec:
    """What `model.json` says.

    `arguments` go to `build_backbone(architecture, embedding_size=..., **arguments)`.
    The image is (112, 112, 3) RGB 0..255, aligned, and normalised as (x - mean) / std to [-1, 1].
    `provenance` tells where the weights come from (data, seed, commit, metrics: JSON values).
    `licences` is the chain, a `licences.Licence` entry for each work that they rest on.
    `thresholds` is the table of `verification.threshold_table`.
    """

    architecture: str
    embedding_size: int
    arguments: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    licences: list[dict[str, str]] = field(default_factory=list)
    thresholds: list[dict[str, Any]] = field(default_factory=list)
    format_version: int = FORMAT_VERSION
    input_size: int = 112
    colour_order: str = "RGB"
    mean: float = 127.5
    std: float = 127.5


def origin(directory: Path, spec: ModelSpec) -> dict[str, Any]:
    """For the provenance of a model that starts from the one in `directory`: where that one's
    weights came from in their turn."""
    digest = weights_sha256(directory)
    return {"model": str(directory), "weights_sha256": digest, "provenance": spec.provenance}


def weights_sha256(directory: Path) -> str:
    """Of the weights as they are now: a sweep may train to the same place again."""
    return sha256((directory / WEIGHTS).read_bytes()).hexdigest()


def save_model(directory: Path, backbone: nn.Module, spec: ModelSpec) -> None:
    """Write the three files of a model directory: the same bytes for the same model.

    Raises FoundryError for weights that are not finite, or a spec that `load_model` would refuse.
    """
    text = spec_to_json(spec)
    spec_from_json(text, str(directory / SPEC))
    state = {name: value.contiguous().cpu() for name, value in backbone.state_dict().items()}
    _check_finite(state, directory / WEIGHTS)
    directory.mkdir(parents=True, exist_ok=True)
    (directory / WEIGHTS).write_bytes(save(state))  # its own writing has its own disk errors
    (directory / SPEC).write_text(text + "\n", encoding="utf-8")
    parameters = count_parameters(backbone)
    card = model_card(asdict(spec), parameters, (directory / WEIGHTS).stat().st_size)
    (directory / CARD).write_text(card, encoding="utf-8")


def load_model(directory: Path) -> tuple[nn.Module, ModelSpec]:
    """The backbone, in eval mode on the CPU, and its spec.

    The backbone maps (B, 3, 112, 112) RGB in [-1, 1] to (B, embedding_size), not normalised.
    Raises FoundryError, one line with the file and the fix, for anything missing or broken. Names
    and shapes are compared with the file before any memory is spent on what `model.json` claims.
    """
    spec = read_spec(directory)
    path = directory / WEIGHTS
    state = _read_weights(path, _expected_state(spec, directory / SPEC))
    _check_finite(state, path)
    backbone = _build(spec, directory / SPEC)
    backbone.load_state_dict(state)
    return backbone.eval(), spec


def read_spec(directory: Path) -> ModelSpec:
    """Read and check `directory/model.json`. Raises FoundryError naming the file."""
    path = directory / SPEC
    try:
        if path.stat().st_size > MAX_SPEC_BYTES:
            raise FoundryError(f"{path}: larger than {MAX_SPEC_BYTES:,} bytes; not a model.json")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise FoundryError(
            f"{path}: cannot be read ({error.strerror}); give a directory that save_model wrote"
        ) from error
    except UnicodeDecodeError as error:
        raise FoundryError(f"{path}: not UTF-8 text; write the model again") from error
    return spec_from_json(text, str(path))


def spec_to_json(spec: ModelSpec) -> str:
    """The spec as JSON, keys in the order of the dataclass. Raises FoundryError for values that
    JSON cannot hold."""
    try:
        return json.dumps(asdict(spec), indent=2, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FoundryError(f"{SPEC}: a value is not plain finite JSON ({error})") from error


def spec_from_json(text: str, name: str) -> ModelSpec:
    """Parse what `spec_to_json` wrote; `name` is for the message of the FoundryError."""
    try:
        values = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FoundryError(f"{name}: not valid JSON ({error}); write the model again") from error
    _check_values(values, name)
    return ModelSpec(**values)


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _check_values(values: Any, name: str) -> None:
    if not isinstance(values, dict):
        raise FoundryError(f"{name}: must be a JSON object; write the model again")
    known = {entry.name for entry in fields(ModelSpec)}
    if set(values) != known:
        raise FoundryError(
            f"{name}: missing keys {sorted(known - set(values))}, unknown keys"
            f" {sorted(set(values) - known)}; write the model again with this version"
        )
    for key, expected in FIXED.items():
        if values[key] != expected or isinstance(values[key], bool):
            raise FoundryError(f"{name}: {key} is {values[key]!r}, only {expected!r} is supported")
    kinds = {
        "architecture": str,
        "embedding_size": int,
        "arguments": dict,
        "provenance": dict,
        "licences": list,
        "thresholds": list,
    }
    for key, kind in kinds.items():
        if not isinstance(values[key], kind) or isinstance(values[key], bool):
            raise FoundryError(f"{name}: {key} must be a {kind.__name__}; write the model again")
    for key in ("licences", "thresholds"):
        if not all(isinstance(row, dict) for row in values[key]):
            raise FoundryError(f"{name}: every row of {key} must be an object")
    if not 1 <= values["embedding_size"] <= 8192:
        raise FoundryError(f"{name}: embedding_size must be between 1 and 8192")


def _build(spec: ModelSpec, path: Path) -> nn.Module:
    try:
        return build_backbone(
            spec.architecture, embedding_size=spec.embedding_size, **spec.arguments
        )
    except FoundryError as error:
        raise FoundryError(f"{path}: {error}") from error
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise FoundryError(
            f"{path}: architecture {spec.architecture!r} cannot be built with its arguments"
            f" ({reason}); write the model again"
        ) from error


def _expected_state(spec: ModelSpec, path: Path) -> dict[str, torch.Tensor]:
    """Every tensor that the spec calls for, with a shape and a type but no memory behind it."""
    with torch.device("meta"):
        return _build(spec, path).state_dict()


def _read_weights(path: Path, expected: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as weights:
            wrong = sorted(set(weights.keys()) ^ set(expected))
            if wrong:
                raise FoundryError(
                    f"{path}: {len(wrong)} tensors are missing or not of this architecture,"
                    f" {wrong[0]!r} for one; the file and {SPEC} are not of one model"
                )
            for name, value in expected.items():
                found, shape = weights.get_slice(name).get_shape(), list(value.shape)
                if found != shape:
                    raise FoundryError(
                        f"{path}: {name} has shape {found} where {SPEC} calls for {shape};"
                        " the two files are not of one model"
                    )
            state = {name: weights.get_tensor(name) for name in expected}
    except (OSError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise FoundryError(
            f"{path}: not a readable safetensors file ({reason}); copy the model again"
        ) from error
    for name, value in state.items():
        if value.dtype != expected[name].dtype:
            raise FoundryError(
                f"{path}: {name} is {value.dtype} where {SPEC} calls for {expected[name].dtype};"
                " the two files are not of one model"
            )
    return state


def _check_finite(state: Mapping[str, torch.Tensor], path: Path) -> None:
    for name, value in state.items():
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise FoundryError(
                f"{path}: {name} holds NaN or infinity; train again with a lower learning rate"
            )
