import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image as PillowImage

from facefoundry.errors import FoundryError
from facefoundry.images import contact_sheet, decode_image, encode_jpeg, read_image


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(b"\0"))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + pixels + chunk(b"IEND", b"")


def test_jpeg_round_trip_keeps_colour_order():
    image = np.zeros((32, 32, 3), np.uint8)
    image[..., 0] = 200  # red
    decoded = decode_image(encode_jpeg(image), "red")
    assert abs(decoded.astype(int) - image).max() < 6


def test_encoding_is_deterministic():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    assert encode_jpeg(image) == encode_jpeg(image.copy())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable"),
        (b"GIF89a not allowed", "not a readable"),
        (encode_jpeg(np.zeros((64, 64, 3), np.uint8))[:200], "not a readable"),
        (png_header(20_000, 20_000), "scale the image down"),
        (png_header(7_000, 7_000), "more than the 40,000,000 allowed"),
    ],
)
def test_bad_images_name_the_file_and_the_fix(data: bytes, message: str):
    with pytest.raises(FoundryError, match=message) as caught:
        decode_image(data, "holiday.jpg")
    assert str(caught.value).startswith("holiday.jpg: ")
    assert "\n" not in str(caught.value)


def test_grey_and_transparent_images_become_rgb():
    buffer = io.BytesIO()
    PillowImage.fromarray(np.full((8, 8), 90, np.uint8)).save(buffer, "PNG")
    assert decode_image(buffer.getvalue(), "grey").shape == (8, 8, 3)


def test_missing_file_names_the_path(tmp_path):
    with pytest.raises(FoundryError, match=r"nobody\.jpg: cannot be read"):
        read_image(tmp_path / "nobody.jpg")


def test_contact_sheet_has_a_row_for_each_identity():
    red, blue = np.zeros((2, 40, 40, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    sheet = contact_sheet([[red, red], [blue]], cell=20)
    assert sheet.shape == (40, 40, 3)
    assert tuple(sheet[10, 30]) == (255, 0, 0)
    assert tuple(sheet[30, 10]) == (0, 0, 255)
    assert tuple(sheet[30, 30]) == (255, 255, 255)
