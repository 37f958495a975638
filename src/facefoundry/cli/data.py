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


COMMANDS = [export_faces]
