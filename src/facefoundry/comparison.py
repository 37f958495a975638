"""One model in every runtime at hand, beside what people use today, in one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import torch

from facefoundry.backbones import build_backbone
from facefoundry.deploy import FP32, INT8
from facefoundry.errors import FoundryError
from facefoundry.evaluation import PairSet, similarities
from facefoundry.export import Crops, cosines, export_onnx, summary, to_input
from facefoundry.latency import measure_latency
from facefoundry.model_dir import WEIGHTS, ModelSpec
from facefoundry.model_formats import EXECUTORCH, LITERT, LITERT_INT8, OPENVINO, OPENVINO_INT8
from facefoundry.precision import torch_threads
from facefoundry.references import reference_embeddings, sface_float_model
from facefoundry.results import milliseconds, percent_with_deviation, pick, size
from facefoundry.runtimes import (
    EXECUTORCH_HINT,
    LITERT_HINT,
    Runner,
    onnx_runner,
    open_runner,
    openvino_runner,
    runner_embedder,
)
from facefoundry.verification import pair_similarity
from facefoundry.weights import sface_path

OURS, SFACE, MOBILEFACENET = "this model", "SFace", "MobileFaceNet"
EXPORTED = (
    ("onnxruntime", "FP32", FP32),
    ("onnxruntime", "INT8", INT8),
    ("OpenVINO", "FP32", OPENVINO),
    ("OpenVINO", "INT8", OPENVINO_INT8),
    ("LiteRT", "FP32", LITERT),
    ("LiteRT", "INT8", LITERT_INT8),
    ("ExecuTorch", "FP32", EXECUTORCH),
)
# runtimes that are not always installed: their module, and how to get it
OPTIONAL = {
    "LiteRT": ("ai_edge_litert", LITERT_HINT),
    "ExecuTorch": ("executorch", EXECUTORCH_HINT),
}
BATCHES = (1, 16)
# InsightFace's small recognition model: MobileFaceNet with PReLU and 512 numbers.
PEER = ModelSpec("mobilefacenet", 512, {"width": 1.0, "activation_name": "prelu"})


@dataclass(frozen=True)
class Candidate:
    """One row of the table: a model in a runtime. bytes: of its files on disk."""

    model: str
    runtime: str
    precision: str
    bytes: int
    run: Runner

    @property
    def name(self) -> str:
        return f"{self.model}, {self.runtime} {self.precision}"


def compare(
    model: Path,
    exports: Path,
    crops: Crops,
    pair_sets: Sequence[PairSet],
    threads: int = 1,
    rounds: int = 200,
) -> dict[str, Any]:
    """Measure the model directory `model`, what `export` left in `exports`, SFace and an
    InsightFace-style MobileFaceNet with random weights (for its speed alone).

    Returns `{rows, speedups, not_run}`. Each row has model, runtime, precision, bytes, `cosine` to
    PyTorch on `crops` (ours), accuracy by benchmark, and by batch size what `measure_latency`
    gives. Raises FoundryError where `exports` holds nothing that runs here.
    """
    found, not_run = at_hand(exports)
    if not found:
        raise FoundryError(
            f"{exports}: no exported files; run `facefoundry export {model} --out {exports}`"
        )
    with TemporaryDirectory() as scratch, torch_threads(threads):
        ours = list(_ours(model, exports, found, threads))
        candidates = [*ours, *peers(Path(scratch), threads)]
        rows = {entry.name: _described(entry) for entry in candidates}
        _add_latency(rows, candidates, rounds)
        reference = ours[0].run(to_input(crops))
        for entry in ours:
            rows[entry.name]["cosine"] = summary(cosines(reference, entry.run(to_input(crops))))
        for pair_set in pair_sets:
            for entry in candidates:
                rows[entry.name] |= _accuracy(entry, pair_set)
    table = list(rows.values())
    return {"rows": table, "speedups": speedups(table), "not_run": not_run}


def at_hand(exports: Path) -> tuple[list[tuple[str, str, str]], list[str]]:
    """The rows of EXPORTED that can run here, and a line for each that cannot."""
    found, not_run = [], []
    for entry in EXPORTED:
        path = exports / entry[2]
        if not path.is_file():
            not_run.append(f"{path}: not there")
        elif entry[0] in OPTIONAL and find_spec(OPTIONAL[entry[0]][0]) is None:
            not_run.append(f"{path}: {entry[0]} is not installed; {OPTIONAL[entry[0]][1]}")
        else:
            found.append(entry)
    return found, not_run


def _add_latency(
    rows: Mapping[str, dict[str, Any]], candidates: Sequence[Candidate], rounds: int
) -> None:
    runners = {entry.name: entry.run for entry in candidates}
    for batch in BATCHES:
        for name, timed in measure_latency(runners, batch, max(rounds // batch, 10)).items():
            rows[name][f"batch_{batch}"] = timed


def _ours(
    model: Path, exports: Path, found: Sequence[tuple[str, str, str]], threads: int
) -> Iterator[Candidate]:
    weights = (model / WEIGHTS).stat().st_size if (model / WEIGHTS).is_file() else 0
    yield Candidate(OURS, "PyTorch", "FP32", weights, open_runner(model, threads))
    for runtime, precision, name in found:
        path = exports / name
        files = {path, path.with_suffix(".bin")} if path.suffix == ".xml" else {path}
        total = sum(file.stat().st_size for file in files)
        yield Candidate(OURS, runtime, precision, total, open_runner(path, threads))


def peers(scratch: Path, threads: int) -> Iterator[Candidate]:
    """SFace and MobileFaceNet in onnxruntime and OpenVINO; their files go to `scratch`."""
    sface, mobile = scratch / "sface.onnx", scratch / "mobilefacenet.onnx"
    onnx.save(sface_float_model(), sface)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = build_backbone(
            PEER.architecture, embedding_size=PEER.embedding_size, **PEER.arguments
        )
    export_onnx(backbone, PEER, mobile)
    files = {SFACE: (sface, sface_path()), MOBILEFACENET: (mobile, mobile)}
    for model, (path, shipped) in files.items():
        for runtime, opener in (("onnxruntime", onnx_runner), ("OpenVINO", openvino_runner)):
            yield Candidate(model, runtime, "FP32", shipped.stat().st_size, opener(path, threads))


def _described(entry: Candidate) -> dict[str, Any]:
    return {
        "model": entry.model,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "bytes": entry.bytes,
    }


def _accuracy(entry: Candidate, pair_set: PairSet) -> dict[str, Any]:
    """`{benchmark: metrics}`, or nothing for random weights. SFace by its own protocol."""
    if entry.model == MOBILEFACENET:
        return {}
    if entry.model == SFACE:
        embeddings = reference_embeddings("sface", pair_set.images, str(pair_set.digest))
        similarity = pair_similarity(embeddings, pair_set.pairs.index)
    else:
        similarity = similarities(runner_embedder(entry.run), pair_set)
    return {pair_set.name: pair_set.metrics(similarity)}


def speedups(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """How many times faster our INT8 is at batch 1 than its own FP32 and than the peers, each in
    the same runtime and, as `fastest`, the fastest INT8 against the fastest of each. By
    processor time, which a busy machine does not stretch."""
    time = {
        (row["model"], row["precision"], row["runtime"]): row["batch_1"]["cpu_ms"] for row in rows
    }
    others = [(OURS, "FP32"), (SFACE, "FP32"), (MOBILEFACENET, "FP32")]

    def best(model: str, precision: str, runtime: str | None) -> float | None:
        fits = [
            value
            for (m, p, r), value in time.items()
            if (m, p) == (model, precision) and runtime in (r, None)
        ]
        return min(fits, default=None)

    found: dict[str, dict[str, float]] = {}
    for label in ("onnxruntime", "OpenVINO", "fastest"):
        runtime = None if label == "fastest" else label
        int8 = best(OURS, "INT8", runtime)
        slower = {f"{m} {p}": best(m, p, runtime) for m, p in others}
        if int8 is not None:
            found[label] = {name: value / int8 for name, value in slower.items() if value}
    return found


def as_markdown(result: Mapping[str, Any]) -> str:
    """The table of `compare`, the ratios and what was not run, for a terminal or a document."""
    rows = result["rows"]
    sets = dict.fromkeys(k for row in rows for k in row if pick(row, k, "accuracy") is not None)
    head = ["model", "runtime", "precision", "size", "cosine to PyTorch, mean / lowest", *sets]
    head += [
        f"{what}, batch {batch}" for batch in BATCHES for what in ("p50", "p95", "CPU", "images/s")
    ]
    lines = [head, ["---"] * len(head), *(_cells(row, list(sets)) for row in rows)]
    text = ["| " + " | ".join(line) + " |" for line in lines] + [""]
    for runtime, ratios in result["speedups"].items():
        said = ", ".join(f"{ratio:.1f} times as fast as {name}" for name, ratio in ratios.items())
        text.append(f"INT8 at batch 1, {runtime}, by processor time: {said}.")
    text += [f"Not run: {line}." for line in result["not_run"]]
    return "\n".join([*text, f"{MOBILEFACENET} has random weights: its speed is measured alone."])


def _cells(row: Mapping[str, Any], sets: Sequence[str]) -> list[str]:
    cosine = row.get("cosine")
    cells = [row["model"], row["runtime"], row["precision"], size(row["bytes"])]
    cells.append("-" if cosine is None else f"{cosine['mean']:.5f} / {cosine['min']:.5f}")
    cells += [percent_with_deviation(row.get(name)) for name in sets]
    for batch in BATCHES:
        timed = row[f"batch_{batch}"]
        cells += [milliseconds(timed["p50_ms"]), milliseconds(timed["p95_ms"])]
        cells.append(milliseconds(timed["cpu_ms"]))
        cells.append(f"{timed['images_per_second']:.0f}")
    return cells
