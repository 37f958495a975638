"""Decoding of images that nobody vouches for, and encoding of our own.

Images are (H, W, 3) uint8 arrays in RGB everywhere in this package.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageOps

from facefoundry.errors import FoundryError

Image = NDArray[np.uint8]

MAX_PIXELS = 40_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


class TooManyPixelsError(FoundryError):
    """Refused by the size in the header, before a pixel was decoded."""


def decode_image(data: bytes, name: str, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode `data` to (H, W, 3) uint8 RGB, refusing by the header before any pixel is decoded.

    A camera's note on how it was held (EXIF) is followed, so that faces stand upright. `name` is
    only for the message. Raises FoundryError for anything that is not a whole, still image of a
    known format, and TooManyPixelsError for one of more than `max_pixels` pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
            with PillowImage.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > max_pixels:
                    raise TooManyPixelsError(
                        f"{name}: {width}x{height} pixels are more than the {max_pixels:,} allowed;"
                        " scale the image down"
                    )
                if getattr(image, "n_frames", 1) > 1:
                    raise FoundryError(f"{name}: an animation or several pages; give one image")
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except FoundryError:
        raise
    except PillowImage.DecompressionBombError as error:
        raise TooManyPixelsError(f"{name}: {error}; scale the image down") from error
    except Exception as error:  # Pillow's decoders raise many kinds for a damaged file
        raise FoundryError(
            f"{name}: not a readable {'/'.join(FORMATS)} image ({error}); replace or remove it"
        ) from error


def read_image(path: Path, max_pixels: int = MAX_PIXELS) -> Image:
    """Read an image file to (H, W, 3) uint8 RGB. Raises FoundryError naming the path."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror})") from error
    return decode_image(data, str(path), max_pixels)


def file_suffix(data: bytes) -> str:
    """`.jpeg`, `.png`, ... by the content of an image file."""
    with PillowImage.open(io.BytesIO(data), formats=FORMATS) as image:
        return f".{str(image.format).lower()}"


def encode_jpeg(image: Image, quality: int = 95, xmp: bytes | None = None) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG with full chroma: the same bytes for the same pixels.

    xmp: a packet of metadata to carry along.
    """
    buffer = io.BytesIO()
    extra = {} if xmp is None else {"xmp": xmp}
    PillowImage.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0, **extra)
    return buffer.getvalue()


def resize(image: Image, width: int, height: int) -> Image:
    """Area-averaged resize of (H, W, 3) uint8."""
    resampled = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BOX)
    return np.asarray(resampled)


def contact_sheet(rows: Sequence[Sequence[Image]], cell: int = 112) -> Image:
    """Tile images into one sheet, a row each (an identity, say); short rows end in white."""
    columns = max((len(row) for row in rows), default=1)
    sheet = np.full((max(len(rows), 1) * cell, columns * cell, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet[y * cell : (y + 1) * cell, x * cell : (x + 1) * cell] = resize(image, cell, cell)
    return sheet


def save_png(image: Image, path: Path) -> None:
    PillowImage.fromarray(image).save(path, "PNG", optimize=True)
