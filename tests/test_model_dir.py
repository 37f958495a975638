from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from facefoundry import model_dir
from facefoundry.errors import FoundryError
from facefoundry.model_dir import ModelSpec, load_model, origin, save_model

SPEC = ModelSpec(
    architecture="pair",
    embedding_size=4,
    arguments={"width": 3},
    provenance={"data": "noise | with a bar\nand a line", "seed": 7},
    licences=[{"name": "weights", "licence": "Apache-2.0", "source": "made here"}],
    thresholds=[{"fmr": 0.001, "threshold": 0.31, "tar": 0.9}, {"fmr": 1e-6, "threshold": None}],
)


class Pair(nn.Module):
    """A module with every kind of state: weights, running statistics, an integer counter."""

    def __init__(self, embedding_size: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 8)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, embedding_size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.conv(x)).mean(dim=(2, 3)))


def build(architecture: str, *, embedding_size: int, **arguments: Any) -> nn.Module:
    if architecture != "pair":
        raise FoundryError(f"unknown architecture {architecture!r}; choose pair")
    return Pair(embedding_size, **arguments)


@pytest.fixture(autouse=True)
def _pair_is_an_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_dir, "build_backbone", build)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    backbone = Pair(4, 3)
    backbone(torch.randn(8, 3, 112, 112))
    save_model(tmp_path / "model", backbone, SPEC)
    return tmp_path / "model"


def fails(directory: Path, pattern: str) -> None:
    with pytest.raises(FoundryError, match=pattern) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value)


def change(directory: Path, **values: Any) -> None:
    path = directory / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_round_trip(tmp_path: Path) -> None:
    backbone = Pair(4, 3)
    backbone(torch.randn(8, 3, 112, 112))
    save_model(tmp_path, backbone, SPEC)
    loaded, spec = load_model(tmp_path)
    assert spec == SPEC
    assert not loaded.training
    x = torch.randn(2, 3, 112, 112)
    torch.testing.assert_close(loaded(x), backbone.eval()(x), rtol=0, atol=0)


def test_the_same_model_gives_the_same_bytes(saved: Path, tmp_path: Path) -> None:
    backbone, spec = load_model(saved)
    save_model(tmp_path / "again", backbone, spec)
    for path in saved.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_card_tells_what_the_spec_tells(saved: Path) -> None:
    card = (saved / "MODEL_CARD.md").read_text()
    assert card.startswith("---\nlibrary_name: facefoundry\n")
    assert "| 0.001 | 0.31 | 0.9 |" in card
    assert "| 1e-06 | - | - |" in card
    assert "| weights | Apache-2.0 |  |  | made here |" in card
    assert "| data | noise \\| with a bar and a line |" in card
    assert "Where it started" not in card


def test_card_names_all_that_the_weights_started_from(tmp_path: Path) -> None:
    spec, names = SPEC, ("first", "second", "third")
    for steps, name in enumerate(names, start=1):
        options = {"teacher": "own", "loss": {"loss": "arcface"}, "steps": steps, "seed": 7}
        known = {"options": options, "data": {"images": 10 * steps}}
        before = {"start": origin(tmp_path / names[steps - 2], spec)} if steps > 1 else {}
        spec = replace(SPEC, provenance=known | before)
        save_model(tmp_path / name, Pair(4, 3), spec)
    weights = sha256((tmp_path / "first/model.safetensors").read_bytes()).hexdigest()
    card = (tmp_path / "third/MODEL_CARD.md").read_text()
    assert f'/first | {weights} | arcface | own | 1 | - | 7 | {{"images": 10}} |' in card
    assert card.index("/second | ") < card.index("/first | ")
    assert "/third |" not in card and card.count('"images": 10') == 1


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"mean": NaN}', "not valid JSON"),
        ("[]", "must be a JSON object"),
        ("{}", "missing keys"),
    ],
)
def test_model_json_that_is_not_ours(saved: Path, text: str, pattern: str) -> None:
    (saved / "model.json").write_text(text)
    fails(saved, rf"model\.json: .*{pattern}|model\.json: {pattern}")


@pytest.mark.parametrize(
    ("values", "pattern"),
    [
        ({"format_version": 2}, "format_version is 2, only 1 is supported"),
        ({"colour_order": "BGR"}, "colour_order is 'BGR'"),
        ({"input_size": 96}, "input_size is 96"),
        ({"architecture": "resnet"}, "unknown architecture 'resnet'; choose pair"),
        ({"architecture": 5}, "architecture must be a str"),
        ({"embedding_size": 10**12}, "embedding_size must be between"),
        ({"embedding_size": True}, "embedding_size must be a int"),
        ({"arguments": {"depth": 3}}, "cannot be built with its arguments"),
        ({"arguments": {"width": -1}}, "cannot be built with its arguments"),
        ({"licences": ["MIT"]}, "every row of licences must be an object"),
        ({"pickle": "yes"}, r"unknown keys \['pickle'\]"),
    ],
)
def test_model_json_with_a_bad_value(saved: Path, values: dict[str, Any], pattern: str) -> None:
    change(saved, **values)
    fails(saved, rf"model\.json: .*{pattern}|model\.json: {pattern}")


def test_a_lying_size_costs_no_memory(saved: Path) -> None:
    """A terabyte of weights is claimed; the file's header is enough to refuse it."""
    change(saved, arguments={"width": 10**10})
    fails(saved, r"model\.safetensors: conv\.weight has shape \[3, 3, 3, 3\]")


def test_weights_of_another_model(saved: Path) -> None:
    path = saved / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "head.bias"}, path)
    fails(saved, r"model\.safetensors: 1 tensors .*'head\.bias'")
    save_file(state | {"extra": torch.zeros(1)}, path)
    fails(saved, r"model\.safetensors: 1 tensors .*'extra'")
    save_file(state | {"head.bias": torch.zeros(5)}, path)
    fails(
        saved, r"model\.safetensors: head\.bias has shape \[5\] where model\.json calls for \[4\]"
    )
    save_file(state | {"head.bias": torch.zeros(4, dtype=torch.int64)}, path)
    fails(saved, r"model\.safetensors: head\.bias is torch\.int64 where")
    save_file(state | {"head.bias": torch.full((4,), float("nan"))}, path)
    fails(saved, r"model\.safetensors: head\.bias holds NaN or infinity")


@pytest.mark.parametrize("damage", ["long header", "short", "junk", "empty", "pickle", "missing"])
def test_weights_that_are_no_safetensors_file(saved: Path, damage: str) -> None:
    path = saved / "model.safetensors"
    data = path.read_bytes()
    torch.save({"a": torch.zeros(1)}, path)
    pickled = path.read_bytes()
    path.write_bytes(
        {
            "long header": (2**62).to_bytes(8, "little") + data[8:],
            "short": data[:-5],
            "junk": b"\xff" * 300,
            "empty": b"",
            "pickle": pickled,
            "missing": b"",
        }[damage]
    )
    if damage == "missing":
        path.unlink()
    fails(saved, r"model\.safetensors: not a readable safetensors file")


def test_no_model_there_at_all(tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", r"nowhere/model\.json: cannot be read")


def test_saving_refuses_what_loading_would(saved: Path, tmp_path: Path) -> None:
    backbone, spec = load_model(saved)
    for bad in (
        replace(spec, provenance={"loss": float("nan")}),
        replace(spec, provenance={"path": Path("x")}),
        replace(spec, input_size=96),
    ):
        with pytest.raises(FoundryError, match=r"model\.json"):
            save_model(tmp_path / "never", backbone, bad)
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("inf"))
    with pytest.raises(FoundryError, match="holds NaN or infinity"):
        save_model(tmp_path / "never", backbone, spec)
    assert not (tmp_path / "never").exists()
