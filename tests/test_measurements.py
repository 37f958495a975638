"""The scripts of benchmarks/ take hours; that they fit the code they measure is seen in seconds."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SCRIPTS = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=[path.stem for path in SCRIPTS])
def test_every_measurement_explains_itself(script, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(script.parent))
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_the_probe_trains_on_any_faces(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    import numpy as np
    import torch
    import yaml
    from probe import ProbeNet, choose, fit

    from facefoundry.data import AugmentedCrops, labels_of

    names = [f"identity {index % 4}" for index in range(72)]
    chosen = choose(sorted(names), 12, 5)
    assert chosen.tolist() == [0, 1, 2, 3, 4, 18, 19, 20, 21, 22, 36, 37]
    crops = np.random.default_rng(0).integers(0, 255, (72, 112, 112, 3), np.uint8)
    options = yaml.safe_load(Path("conf/augmentation/none.yaml").read_text())
    torch.manual_seed(0)
    loss = fit(ProbeNet(), AugmentedCrops(crops, labels_of(names), options, 0), 2, 0)
    assert np.isfinite(loss)


def test_generators_are_probed_on_the_benchmarks_that_evaluate_reads(monkeypatch, tmp_path, capsys):
    """No benchmark there: SFace's threshold comes from the faces, and the probe only trains."""
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    monkeypatch.setenv("FACEFOUNDRY_BENCHMARKS", str(tmp_path))
    script = str(SCRIPTS[0].parent / "generators.py")
    arguments = ["render", "--images", "8", "--probe", "2"]
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--identities", "2"])
    with pytest.raises(SystemExit):
        runpy.run_path(script, run_name="__main__")
    assert "--probe learns from batches of 64 faces" in capsys.readouterr().err
    arguments += ["--min-consistency", "-1", "--model", str(ROOT / "pretrained/distilled")]
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--identities", "10"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert "| kept |" in printed
    assert "| model_eer |" in printed
    assert "| render |" in printed
    assert "The probe on 80 images of render: last loss " in printed


def test_the_probe_without_a_benchmark_says_so_before_it_trains(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    monkeypatch.setenv("FACEFOUNDRY_BENCHMARKS", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["probe.py", "--faces", str(tmp_path / "none")])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPTS[0].parent / "probe.py"), run_name="__main__")
    assert f"no benchmark under {tmp_path}" in capsys.readouterr().err


def test_heads_are_compared_by_their_true_angles(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    import numpy as np
    from pose import FRONT, compared, within

    yaw = np.array([-11.9, 0.0, 12.0, -60.0, 50.0, 44.9])
    assert within(yaw, FRONT).tolist() == [0, 1]
    assert within(yaw, (45.0, 90.0)).tolist() == [3, 4]
    # two people, each from the front and in profile, where the second is mistaken for the first
    seen = np.array([[1, 0], [0, 1], [1, 0], [0.8, 0.6]], np.float32)
    labels, front, profile = np.array([0, 1, 0, 1]), np.array([0, 1]), np.array([2, 3])
    assert compared(seen, labels, front, profile).startswith("50.00%")
    assert compared(seen, labels, front, np.array([2])) == "0.00%, too few pairs"
    script = str(SCRIPTS[0].parent / "pose.py")
    model = str(ROOT / "pretrained/clean")
    monkeypatch.setattr(sys, "argv", [script, model, "--identities", "8", "--images", "10"])
    runpy.run_path(script, run_name="__main__")
    printed = capsys.readouterr().out
    assert "beyond 45, " in printed
    assert f"| {model} | " in printed
    assert "| SFace | " in printed


def test_all_pairs_of_a_benchmark_are_judged_beside_its_protocol(monkeypatch, tmp_path, capsys):
    """Two people of two images and a stranger, of whom the protocol asks for four pairs."""
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    import numpy as np
    from all_pairs import all_pairs, joined

    from facefoundry.images import encode_jpeg

    seen = np.array([[1, 0], [0.8, 0.6], [0, 1], [0.6, 0.8], [-1, 0]], np.float32)
    similarity, same = all_pairs(seen, np.array([0, 0, 1, 1, 2]))
    assert np.allclose(similarity, [0.8, 0, 0.6, -1, 0.6, 0.96, -0.8, 0.8, 0, -0.6])
    assert np.flatnonzero(same).tolist() == [0, 7]
    both = joined([seen, seen[::-1]])
    assert np.isclose(both[0] @ both[1], (seen[0] @ seen[1] + seen[4] @ seen[3]) / 2)
    crops = np.random.default_rng(0).integers(0, 255, (5, 112, 112, 3), np.uint8)
    for place, crop in enumerate(crops):
        (tmp_path / f"{place}.jpg").write_bytes(encode_jpeg(crop))
    pairs = "0.jpg,1.jpg,1,0", "2.jpg,3.jpg,1,1", "0.jpg,4.jpg,0,0", "1.jpg,2.jpg,0,1"
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same,fold", *pairs]))
    model = str(ROOT / "pretrained/clean")
    script = str(SCRIPTS[0].parent / "all_pairs.py")
    arguments = [model, f"{model}+{model}", "--benchmark", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(script, run_name="__main__")
    alone, twice = capsys.readouterr().out.splitlines()[-2:]
    assert alone.startswith(f"| {model} | ")
    assert twice == alone.replace(model, f"{model}+{model}")
    assert "| too few pairs | too few pairs, too few pairs, too few pairs |" in alone


def test_photographs_angles_are_read_off_their_faces(monkeypatch, tmp_path):
    """Rendered heads in place of photographs: their true angles are known."""
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    import numpy as np
    from pose import heads, photographs

    from facefoundry.images import encode_jpeg

    truth = heads(4, 10, 5, 0.25)
    for place, crop in enumerate(truth.crops):
        (tmp_path / f"{place}.jpg").write_bytes(encode_jpeg(crop))
    following = [(a, a + 1) for a in range(39) if a % 10 < 9]
    pairs = [f"{a}.jpg,{b}.jpg,1,{a % 2}" for a, b in following] + ["0.jpg,39.jpg,0,0"]
    (tmp_path / "pairs.csv").write_text("\n".join(["a,b,same,fold", *pairs]))
    found = photographs(tmp_path)
    assert len(found.yaw) > 35
    rows = [int(np.argmin(np.abs(truth.crops.astype(int) - c).sum((1, 2, 3)))) for c in found.crops]
    assert np.corrcoef(found.yaw, truth.yaw[rows])[0, 1] ** 2 > 0.85
    assert np.abs(np.abs(found.yaw) - np.abs(truth.yaw[rows])).mean() < 10
    same = found.labels[:, None] == found.labels
    assert np.array_equal(same, truth.labels[rows][:, None] == truth.labels[rows])


def test_curves_are_drawn_against_steps_and_against_identities(monkeypatch, tmp_path):
    """Trainings of 5 and of 9 identities; only at step 2 were all judged."""
    monkeypatch.syspath_prepend(str(SCRIPTS[0].parent))
    from learning_curves import over_identities, over_steps
    from matplotlib.figure import Figure

    small = [{"step": 1.0, "val_eer": 0.4}, {"step": 2.0, "val_eer": 0.3}]
    large = [{"step": 2.0, "val_eer": 0.2}]
    axes = Figure().subplots(2)
    over_steps(axes[0], {"small": small, "large": large})
    over_identities(axes[1], [(9, large), (5, small), (5, large)])
    drawn = [[line.get_xydata().tolist() for line in ax.lines] for ax in axes]
    assert drawn[0] == [[[1, 40], [2, 30]], [[2, 20]]]
    assert drawn[1] == [[[5, 30], [5, 20], [9, 20]]]
    folders = []
    for name, count, curves in (("a", 5, small), ("b", 9, large)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "curves.json").write_text(json.dumps(curves))
        (tmp_path / name / "metrics.json").write_text(json.dumps({"identities": count}))
        folders.append(f"{name}={tmp_path / name}")
    script, out = str(SCRIPTS[0].parent / "learning_curves.py"), tmp_path / "curves.svg"
    for against, label in (("steps", "step of 64 images"), ("identities", "identities trained on")):
        monkeypatch.setattr(
            sys, "argv", [script, *folders, "--against", against, "--out", str(out)]
        )
        runpy.run_path(script, run_name="__main__")
        assert label in out.read_text()
