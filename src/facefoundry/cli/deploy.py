"""Commands that take a model to its device: export it, and compare what was exported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL_HELP = "directory with model.safetensors and model.json, such as models/distill"
CROPS_HELP = "data set of the pipeline, or any folder of aligned 112x112 faces"


def export(
    model: Annotated[Path, typer.Argument(help=MODEL_HELP)],
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            help="comma-separated: onnx, int8, tensorrt, litert, executorch, openvino,"
            " insightface, triton",
        ),
    ] = "onnx,int8",
    out: Annotated[
        Path | None, typer.Option(help="folder to write to; exports/<name of MODEL> if left out")
    ] = None,
    crops: Annotated[
        Path, typer.Option(help=f"faces to calibrate INT8 and to prove parity on: {CROPS_HELP}")
    ] = Path("data/split"),
    device: Annotated[
        str, typer.Option(help="board that the TensorRT bundle is for: a name in conf/device")
    ] = "orin_nano",
    calibration: Annotated[int, typer.Option(help="crops to calibrate on")] = 256,
) -> None:
    """Write MODEL in the formats of its users' tools, each proven against PyTorch.

    The FP32 ONNX file serves onnxruntime, OpenCV, InsightFace and OpenVINO as it is. A file that
    is further from PyTorch than its precision allows is an error.
    """
    from facefoundry.calibration import calibration_and_held_out
    from facefoundry.devices import read_device
    from facefoundry.model_dir import load_model
    from facefoundry.model_formats import Job, export_formats

    backbone, spec = load_model(model)
    out = out or default_exports(model)
    seen, held_out = calibration_and_held_out(crops, calibration, calibration // 4, seed=0)
    job = Job(backbone, spec, out, seen, held_out, read_device(device))
    for name, files in export_formats(job, formats.split(",")).items():
        for file, said in files.items():
            print(f"{name}: {out / file}: {said}")


def benchmark(
    model: Annotated[Path, typer.Argument(help=MODEL_HELP)],
    exports: Annotated[
        Path | None, typer.Option(help="what `export` wrote; exports/<name of MODEL> if left out")
    ] = None,
    crops: Annotated[
        Path, typer.Option(help=f"faces to compare embeddings on: {CROPS_HELP}")
    ] = Path("data/split"),
    benchmarks: Annotated[
        Path | None,
        typer.Option(
            envvar="FACEFOUNDRY_BENCHMARKS",
            help="folder of benchmarks, each with a pairs.csv; accuracy is left out without it",
        ),
    ] = None,
    threads: Annotated[int, typer.Option(help="threads of every runtime", min=1)] = 1,
    rounds: Annotated[int, typer.Option(help="timed rounds at batch 1", min=10)] = 200,
    json: Annotated[Path | None, typer.Option(help="also write every number to this file")] = None,
) -> None:
    """Compare every exported format of MODEL with PyTorch, SFace and MobileFaceNet in one run.

    Size, cosine to PyTorch, accuracy on benchmarks, latency at batch 1 and 16. The models take
    turns, so that a neighbour's load falls on all alike: trust the ratios.
    """
    from json import dumps

    from facefoundry.calibration import calibration_and_held_out
    from facefoundry.comparison import as_markdown, compare
    from facefoundry.evaluation import benchmark_sets

    _, held_out = calibration_and_held_out(crops, 192, 64, seed=0)
    pair_sets = benchmark_sets(benchmarks) if benchmarks else []
    exports = exports or default_exports(model)
    result = compare(model, exports, held_out, pair_sets, threads, rounds)
    print(as_markdown(result))
    if json:
        json.write_text(dumps(result, indent=2) + "\n")


def default_exports(model: Path) -> Path:
    return Path("exports") / model.resolve().name


COMMANDS = [export, benchmark]
