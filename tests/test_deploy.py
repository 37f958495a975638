"""The quantize stage's work on a small data set: options, gates and what the metrics say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_embedder import SPEC, crops

from facefoundry import deploy
from facefoundry.backbones import build_backbone
from facefoundry.errors import FoundryError
from facefoundry.model_dir import save_model

OPTIONS: dict[str, Any] = {
    "seed": 0,
    "faces": "unused",
    "calibration_images": 12,
    "drift_images": 6,
    "method": "minmax",
    "max_accuracy_loss": 0.003,
    "finetune": {"steps": 0, "lr": 1e-4, "batch_size": 4, "images": 12},
}


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A saved student, crops of noise, and no benchmark."""
    arguments = {"widths": [8, 16, 24], "blocks": [1, 1, 1], "head": 24}
    spec = replace(SPEC, architecture="small_resnet", embedding_size=16, arguments=arguments)
    save_model(
        tmp_path / "model", build_backbone("small_resnet", embedding_size=16, **arguments), spec
    )
    seeds = {"train": 1, "test": 2}
    monkeypatch.setattr(
        deploy, "read_crops", lambda _, split, count, __: crops(count, seeds[split])
    )
    return OPTIONS | {"model": str(tmp_path / "model"), "benchmarks": str(tmp_path / "none")}


def test_fine_tuning_is_an_option_and_its_gain_is_in_the_metrics(
    options: dict[str, Any], tmp_path: Path
) -> None:
    plain = deploy.export_and_quantize(options, tmp_path / "plain")
    finetune = OPTIONS["finetune"] | {"steps": 3}
    tuned = deploy.export_and_quantize(options | {"finetune": finetune}, tmp_path / "tuned")
    assert "finetune" not in plain["int8"]
    said = tuned["int8"]["finetune"]
    assert said["steps"] == 3
    assert said["cosine_without"] == pytest.approx(plain["int8"]["cosine_to_fp32"])
    assert tuned["int8"]["cosine_to_fp32"] != plain["int8"]["cosine_to_fp32"]
    files = {name: (tmp_path / name / deploy.FP32).read_bytes() for name in ("plain", "tuned")}
    assert files["plain"] == files["tuned"]  # the FP32 file is the student as it was distilled


def test_the_loss_counts_what_is_lost_and_what_is_won() -> None:
    before = np.array([True] * 80 + [False] * 20)
    after = before.copy()
    after[:5], after[99] = False, True  # five lost, one won
    loss = deploy.paired_loss(before, after)
    assert loss["share"] == pytest.approx(0.04)
    assert loss["standard_error"] == pytest.approx(((6 / 100 - 0.04**2) / 100) ** 0.5)


def row(share: float, standard_error: float = 0.0005) -> dict[str, Any]:
    return {"lfw": {"loss_to_fp32": {"share": share, "standard_error": standard_error}}}


FILES = {"fp32": Path("a.onnx"), "int8": Path("b.onnx")}


@pytest.mark.parametrize("int8", [row(0.0025), row(-0.1), row(0.0034), row(0.05, 0.06), {}])
def test_small_losses_and_those_of_chance_pass(int8: dict[str, Any]) -> None:
    deploy.check_accuracy(FILES, {"fp32": row(0.0), "int8": int8}, crops(2), 0.003)


def test_points_lost_to_int8_fail_and_name_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "worst_layers", lambda *_: "/stem/Conv (0.9000)")
    rows = {"fp32": row(0.0), "int8": row(0.004)}
    with pytest.raises(FoundryError, match=r"b\.onnx: 0\.40 points .*/stem/Conv") as caught:
        deploy.check_accuracy(FILES, rows, crops(2), 0.003)
    assert "more than 0.3;" in str(caught.value)
    assert "\n" not in str(caught.value)
