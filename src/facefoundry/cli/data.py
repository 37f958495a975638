"""Commands on datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export_faces(
    out: Annotated[Path, typer.Argument(help="a new folder")],
    faces: Annotated[Path, typer.Option(help="a dataset of the pipeline")] = Path("data/align"),
    layout: Annotated[
        str, typer.Option(help="image_folder, webdataset, parquet or insightface")
    ] = "webdataset",
) -> None:
    """Write a dataset in a layout that other tools read, with its licences and Croissant file."""
    from facefoundry.dataset_export import export_faces

    print(f"{export_faces(faces, out, layout)} images in {out}")


def embeddings(
    out: Annotated[Path, typer.Argument(help="the .npy to write")],
    model: Annotated[Path, typer.Option(help="an ONNX embedder: (N, 3, 112, 112) RGB")],
    faces: Annotated[Path, typer.Option(help="aligned faces of the pipeline")] = Path("data/align"),
    mean: Annotated[float, typer.Option(help="taken from pixels of 0..255")] = 127.5,
    std: Annotated[float, typer.Option(help="by which they are then divided")] = 127.5,
    count: Annotated[int, typer.Option(help="images at most, drawn at random")] = 20_000,
) -> None:
    """Write (N, D) embeddings of a dataset, from which `generator=hub` draws identities."""
    import numpy as np

    from facefoundry.benchmarks import embed_images
    from facefoundry.data import sample_crops
    from facefoundry.named_references import named_references

    wanted = {"embedder": {"path": str(model), "mean": mean, "std": std}}
    crops = sample_crops(faces, count, seed=0)
    found = embed_images(named_references(wanted)["embedder"], crops, flip=False)
    np.save(out, found)
    print(f"{len(found)} embeddings of {found.shape[1]} numbers in {out}")


COMMANDS = [export_faces, embeddings]
