"""Students of several widths from one teacher: accuracy, bytes, multiply-accumulates, latency.

Run: python benchmarks/pareto.py [--steps 700] [--faces data/split] [--model models/train]
Each width is distilled by the stage itself, into .cache/pareto/<width>, so few steps make a quick
look and not a result. Accuracy is that of pairs of the held-out test identities of `faces`. The
students take turns in the timing: trust the ratios.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from facefoundry.backbones import count_macs, count_parameters
from facefoundry.calibration import choose
from facefoundry.data import read_split
from facefoundry.deploy import FP32, INT8
from facefoundry.evaluation import PairSet, held_out_set, similarities
from facefoundry.export import Crops, export_onnx
from facefoundry.latency import measure_latency
from facefoundry.model_dir import load_model
from facefoundry.quantization import drift, quantize
from facefoundry.results import size
from facefoundry.runtimes import onnx_runner, runner_embedder

OUT = Path(".cache/pareto")
WIDTHS = (8, 16, 24, 32, 48)  # channels at 28 pixels; doubled at 14 and again at 7
CALIBRATION = 128


def distil(width: int, arguments: argparse.Namespace) -> Path:
    """Run the distill stage for one width; returns the model directory."""
    out = OUT / str(width)
    settings = [
        f"out={out}",
        f"faces={arguments.faces}",
        f"model={arguments.model}",
        f"steps={arguments.steps}",
        f"backbone.widths=[{width},{2 * width},{4 * width}]",
        f"backbone.head={8 * width}",
    ]
    subprocess.run([sys.executable, "-m", "stages.distill", *settings], check=True)
    return out


def measure(out: Path, calibration: Crops, pairs: PairSet) -> dict[str, str]:
    """The cells of a student's row, apart from its latency."""
    backbone, spec = load_model(out)
    export_onnx(backbone, spec, out / FP32)
    quantize(out / FP32, out / INT8, calibration, "cpu", "percentile")
    accuracy = {
        name: pairs.metrics(similarities(runner_embedder(onnx_runner(out / name)), pairs))
        for name in (FP32, INT8)
    }
    return {
        "parameters": f"{count_parameters(backbone) / 1e6:.3f} M",
        "MMACs": f"{count_macs(backbone) / 1e6:.1f}",
        "INT8 file": size((out / INT8).stat().st_size),
        "accuracy FP32": f"{100 * accuracy[FP32]['accuracy']:.2f} %",
        "accuracy INT8": f"{100 * accuracy[INT8]['accuracy']:.2f} %",
        "EER INT8": f"{100 * accuracy[INT8]['eer']:.2f} %",
        "cosine INT8 to FP32": f"{drift(out / FP32, out / INT8, calibration)['mean']:.4f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--faces", type=Path, default=Path("data/split"))
    parser.add_argument("--model", type=Path, default=Path("models/train"), help="the teacher")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    arguments = parser.parse_args()
    students = {str(width): distil(width, arguments) for width in arguments.widths}
    crops, identities, _ = read_split(arguments.faces, "test")
    calibration = crops[choose(range(len(crops)), CALIBRATION, seed=0)]
    pairs = held_out_set("test identities", crops, identities, seed=0)
    rows = {name: measure(out, calibration, pairs) for name, out in students.items()}
    for column, file in (("FP32", FP32), ("INT8", INT8)):
        timed = measure_latency({name: onnx_runner(out / file) for name, out in students.items()})
        for name, latency in timed.items():
            rows[name] |= {f"{column}, CPU time": f"{latency['cpu_ms']:.2f} ms"}
    head = ["width", *next(iter(rows.values()))]
    for line in [head, ["---"] * len(head), *([name, *row.values()] for name, row in rows.items())]:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
