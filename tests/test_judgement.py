"""The evaluate stage's work, whole, on toy faces with a tiny model."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from facefoundry import manifest, out_of_distribution
from facefoundry.backbones import build_backbone
from facefoundry.bootstrap import tar_intervals
from facefoundry.compare import compare_scores, read_run
from facefoundry.errors import FoundryError
from facefoundry.evaluation import benchmark_sets
from facefoundry.export import export_onnx
from facefoundry.images import encode_jpeg
from facefoundry.judgement import evaluate, leaks
from facefoundry.model_dir import ModelSpec, save_model
from facefoundry.named_references import named_references
from facefoundry.shards import write_shard
from facefoundry.verification import pair_similarity, tar_at

IDENTITIES, IMAGES = 12, 4
TINY = {"widths": [8, 16, 24], "blocks": [1, 1, 1], "head": 32}


def face(identity: int, index: int) -> np.ndarray:
    """Soft colours of the identity's own, and a little of the image's own."""
    own = np.random.default_rng(identity).integers(30, 226, (4, 4, 3))
    change = np.random.default_rng([identity, index]).integers(-12, 13, (4, 4, 3))
    pixels = np.clip(own + change, 0, 255).astype(np.uint8)
    return np.asarray(Image.fromarray(pixels).resize((112, 112), Image.Resampling.BICUBIC))


def write_faces() -> None:
    """Half of the identities are for val and half for test; a third of the images tells an age."""
    rows, members = [], []
    for identity in range(IDENTITIES):
        for index in range(IMAGES):
            name = f"i{identity:02}-{index}"
            row = {"image_id": name, "identity": f"i{identity:02}", "generator": "toy"}
            row["split"] = "val" if identity % 2 else "test"
            row["attributes"] = {"age": 20.0 + 40 * (identity % 3)} if identity % 4 else {}
            rows.append(row)
            members.append((f"{name}.jpg", encode_jpeg(face(identity, index))))
    Path("data").mkdir()
    places = write_shard(Path("data/0.tar"), members)
    for row, (offset, size) in zip(rows, places, strict=True):
        row |= {"shard": "data/0.tar", "offset": offset, "size": size}
    manifest.write(manifest.table(rows), Path("data/split"))


def write_benchmark(folder: Path) -> None:
    folder.mkdir(parents=True)
    names = [(identity, index) for identity in range(20, 28) for index in range(2)]
    for identity, index in names:
        Image.fromarray(face(identity, index)).save(folder / f"{identity}-{index}.png")
    lines = ["a,b,same,fold"]
    for n in range(8):
        other = (n + 2) % 8
        lines.append(f"{20 + n}-0.png,{20 + n}-1.png,1,{n % 2}")
        lines.append(f"{20 + n}-0.png,{20 + other}-1.png,0,{n % 2}")
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    rows = [f"{who}-{index}.png,p{who},{'ab'[who % 2]}" for who, index in names]
    (folder / "images.csv").write_text("\n".join(["image,identity,region", *rows]) + "\n")


LEAK = {"samples": 20, "fmr": 0.2, "ratio": 5.0, "near_copies": 1.0, "gate": "report"}


def options() -> dict:
    return {
        "model": "model",
        "faces": "data/split",
        "benchmarks": "benchmarks",
        "seed": 0,
        "groups": ["age", "glasses"],
        "robustness_pairs": 8,
        "strangers": 4,
        "leak": LEAK,
        "references": {"other": {"path": "other.onnx"}},
    }


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory):
    """Where the stage has run, and its metrics."""
    root = tmp_path_factory.mktemp("judged")
    before = Path.cwd()
    os.chdir(root)
    try:
        write_faces()
        write_benchmark(Path("benchmarks/own"))
        torch.manual_seed(0)
        torch.set_num_threads(1)
        backbone = build_backbone("small_resnet", embedding_size=32, **TINY).eval()
        table = [{"fmr": 0.1, "threshold": 0.9, "tar": 0.5, "impostor_pairs": 30}]
        spec = ModelSpec("small_resnet", 32, TINY, thresholds=table)
        save_model(Path("model"), backbone, spec)
        export_onnx(backbone, spec, Path("other.onnx"))
        Path("out/models/evaluate").mkdir(parents=True)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(out_of_distribution, "rendered_heads", _missing)
            metrics = evaluate(options(), Path("out/models/evaluate"))
    finally:
        os.chdir(before)
    return root, metrics


def _missing(count: int, seed: int) -> None:
    raise FoundryError("no wheel")


def test_metrics_are_json_with_the_keys_that_others_read(judged) -> None:
    metrics = json.loads(json.dumps(judged[1], allow_nan=False))
    assert {"synthetic", "own", "probability", "robustness", "out_of_distribution"} <= set(metrics)
    old = {"accuracy", "accuracy_std", "auc", "eer", "tar_at_fmr_1e-2", "at_threshold", "folds"}
    for name in ("synthetic", "own"):
        assert old | {"rates", "accuracy_interval", "identification", "reliability"} <= set(
            metrics[name]
        )
    assert {"sface", "pixels", "other"} <= set(metrics["own"]) and "sface" not in metrics[
        "synthetic"
    ]
    assert metrics["robustness"]["set"] == "own"
    assert metrics["out_of_distribution"]["not_run"] == ["rendered heads: not run (no wheel)"]


def test_groups_come_from_the_generator_and_from_the_csv(judged) -> None:
    metrics = judged[1]
    assert set(metrics["synthetic"]["fairness"]) == {"threshold", "age"}  # nobody wears glasses
    ages = metrics["synthetic"]["fairness"]["age"]["groups"]
    assert [row["group"] for row in ages] == ["20", "60", "100"]
    regions = metrics["own"]["fairness"]["region"]["groups"]
    assert [(row["group"], row["genuine_pairs"], row["impostor_pairs"]) for row in regions] == [
        ("a", 4, 4),
        ("b", 4, 4),
    ]


def test_a_named_onnx_of_the_same_model_scores_the_same_without_flip(judged) -> None:
    root, metrics = judged
    (own,) = benchmark_sets(root / "benchmarks")
    embed = named_references({"x": {"path": str(root / "other.onnx")}})["x"]
    similarity = pair_similarity(embed(own.images), own.pairs.index)
    assert metrics["own"]["other"]["auc"] == pytest.approx(own.metrics(similarity)["auc"])


def test_intervals_are_by_identity(judged) -> None:
    root, metrics = judged
    scores = read_run(str(root / "out"))["synthetic"]
    similarity = scores.models["model"]
    expected = tar_intervals(similarity, scores.same, 0, scores.identity)
    assert metrics["synthetic"]["rates"] == expected
    assert expected[0]["tar"] == tar_at(similarity, scores.same, 0.1)
    np.testing.assert_array_equal(scores.same, scores.identity[:, 0] == scores.identity[:, 1])


def test_scores_and_pictures_are_there_to_compare_and_to_see(judged) -> None:
    root, _ = judged
    scores = read_run(str(root / "out"))
    assert list(scores) == ["own", "synthetic"]
    assert {row.verdict for row in compare_scores(scores, scores)} == {"cannot tell"}
    for name, shape in (("pairs.png", (4 * 112, 8 * 112)), ("neighbours.png", (6 * 112, 9 * 112))):
        with Image.open(root / "out/models/evaluate" / name) as image:
            assert image.size[::-1] == shape
    places = json.loads((root / "out/models/evaluate/embedding_map.json").read_text())
    assert len(places["x"]) == len(places["identity"]) == IDENTITIES // 2 * IMAGES
    assert min(places["x"] + places["y"]) == 0 and max(places["x"] + places["y"]) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"sface": {"path": "x.onnx"}}, "sface is taken"),
        ({"mine": {"file": "x.onnx"}}, "references.mine: unknown key file"),
        ({"mine": {}}, "references.mine: no path"),
        ({"mine": {"path": "nowhere.onnx"}}, r"nowhere\.onnx"),
    ],
)
def test_a_wrong_reference_is_named(wanted: dict, message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        named_references(wanted)


def test_leaks_are_audited_and_can_stop_the_stage(judged, monkeypatch, tmp_path: Path):
    root, metrics = judged
    found = metrics["leak"]["own"]
    assert (found["samples"], found["references"]) == (20, 16)
    assert Image.open(root / "out/models/evaluate/leak-own.png").size == (1120, 224)
    monkeypatch.chdir(root)
    benchmarks = benchmark_sets(Path("benchmarks"))
    strict = options() | {"leak": LEAK | {"gate": "stop", "near_copies": -1.0}}
    with pytest.raises(FoundryError, match=r"leak audit: synthetic faces are too near.*own"):
        leaks(benchmarks, strict, tmp_path)
