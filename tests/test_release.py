"""What is shipped: the student's files, what they reached, and what makes them again."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import AS_SOMEBODY

from facefoundry.errors import FoundryError
from facefoundry.release import release

LFW = {"accuracy": 0.8, "accuracy_std": 0.01, "tar_at_fmr_1e-3": 0.25}
METRICS = {
    "fp32": {"bytes": 4, "latency_ms_p50": 1.0, "lfw": LFW},
    "int8": {"bytes": 2, "latency_ms_p50": 0.5, "lfw": LFW | {"accuracy": 0.79}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    files = {
        "models/quantize/student.onnx": "fp32",
        "models/quantize/student.int8.onnx": "i8",
        "models/quantize/metrics.json": json.dumps(METRICS),
        "models/distill/model.json": "{}",
        "models/distill/model.safetensors": "weights",
        "models/distill/MODEL_CARD.md": "# A card\n",
        "params.yaml": "seed: 0\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_release_has_both_files_the_figures_and_the_params(run: Path):
    found = release("small", run, run / "pretrained")
    assert {path.name for path in found.iterdir()} == {
        *("model.onnx", "model.int8.onnx", "model.safetensors", "model.json"),
        *("MODEL_CARD.md", "params.yaml"),
    }
    card = (found / "MODEL_CARD.md").read_text()
    assert card.startswith("# A card")
    assert "| model.int8.onnx | lfw | 79.00 ± 1.00 % | 25.00 % |" in card


def test_a_changed_conf_goes_with_the_model(run: Path):
    (run / "conf").mkdir()
    (run / "conf/curate.yaml").write_text("min_images: 4\n")
    for command in (["init", "-q"], ["add", "-A"], [*AS_SOMEBODY, "commit", "-qm", "start"]):
        subprocess.run(["git", *command], cwd=run, check=True)
    (run / "conf/curate.yaml").write_text("min_images: 12\n")
    found = release("small", run, run / "pretrained")
    assert "`git apply conf.diff`" in (found / "MODEL_CARD.md").read_text()
    subprocess.run(["git", "checkout", "-q", "conf"], cwd=run, check=True)
    subprocess.run(["git", "apply", str(found / "conf.diff")], cwd=run, check=True)
    assert (run / "conf/curate.yaml").read_text() == "min_images: 12\n"
    subprocess.run(["git", "checkout", "-q", "conf"], cwd=run, check=True)
    found = release("small", run, run / "pretrained")
    assert not (found / "conf.diff").exists()
    assert "git apply" not in (found / "MODEL_CARD.md").read_text()


def test_a_file_that_is_too_large_is_not_shipped(run: Path):
    (run / "models/quantize/student.int8.onnx").write_bytes(bytes(1_000_001))
    with pytest.raises(FoundryError, match=r"int8\.onnx: more than 1,000,000 bytes"):
        release("small", run, run / "pretrained")
    assert not (run / "pretrained").exists()


def test_nothing_run_is_nothing_to_release(tmp_path: Path):
    with pytest.raises(FoundryError, match="nothing to release; run the pipeline first"):
        release("small", tmp_path)
