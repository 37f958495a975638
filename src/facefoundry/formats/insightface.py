"""InsightFace's training sets: MXNet RecordIO, `train.rec` with `train.idx` and `property`.

A record is a magic word, a length and a payload padded to four bytes; where the payload itself has
the magic word at a multiple of four, it is cut there and goes on in a further record. A payload is
an image header (flag, label, two ids; then `flag` labels) and a JPEG. Record 0 says where the
images end; the records behind them say which images each identity has. Identities are numbers.
Layout: dmlc-core's recordio.h, MXNet's image_recordio.h, InsightFace's face2rec2.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, TextIO

from facefoundry.errors import FoundryError
from facefoundry.formats import Faces, Labelled, Stored, grouped

MAGIC = struct.pack("<I", 0xCED7230A)
LENGTH_BITS = 29  # of the length word; the three above say which part of a payload this is
WHOLE, FIRST, MIDDLE, LAST = range(4)
HEADER = struct.Struct("<IfQQ")


def read(root: Path) -> Faces:
    """Images of the first `.rec` of the folder, by the `.idx` beside it."""
    path = min(root.glob("*.rec"))
    return grouped(_images(path), path)


def write(images: Iterable[Labelled], out: Path) -> None:
    """Images of an identity must come together, as they do in a manifest."""
    out.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, int] = {}
    ranges: list[list[int]] = []
    count = 0
    with (out / "train.rec").open("wb") as rec, (out / "train.idx").open("w") as idx:
        _append(rec, idx, 0, _labels(0, 0))  # its size does not depend on what it says
        for count, image in enumerate(images, 1):
            if image.identity not in numbers:
                numbers[image.identity] = len(numbers)
                ranges.append([count, count])
            ranges[-1][1] = count + 1
            header = HEADER.pack(0, numbers[image.identity], count, 0)
            _append(rec, idx, count, header + image.data)
        for key, limits in enumerate(ranges, count + 1):
            _append(rec, idx, key, _labels(*limits))
        rec.seek(0)
        rec.write(_record(_labels(count + 1, count + 1 + len(ranges))))
    (out / "property").write_text(f"{len(ranges)},112,112\n")
    (out / "identities.txt").write_text("".join(f"{name}\n" for name in numbers))


def _append(rec: BinaryIO, idx: TextIO, key: int, payload: bytes) -> None:
    idx.write(f"{key}\t{rec.tell()}\n")
    rec.write(_record(payload))


def _record(payload: bytes) -> bytes:
    words = range(0, len(payload) - 3, 4) if MAGIC in payload else ()
    cuts = [place for place in words if payload.startswith(MAGIC, place)]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(payload)]
    parts = [payload[start:end] for start, end in zip(starts, ends, strict=True)]
    kinds = [FIRST, *[MIDDLE] * (len(parts) - 2), LAST] if cuts else [WHOLE]
    return b"".join(_part(kind, part) for kind, part in zip(kinds, parts, strict=True))


def _part(kind: int, data: bytes) -> bytes:
    length = struct.pack("<I", kind << LENGTH_BITS | len(data))
    return MAGIC + length + data + b"\0" * (-len(data) % 4)


def _labels(*values: float) -> bytes:
    return HEADER.pack(len(values), 0.0, 0, 0) + struct.pack(f"<{len(values)}f", *values)


def _images(path: Path) -> Iterator[tuple[str, Stored]]:
    places = _index(path.with_suffix(".idx"))
    with path.open("rb") as rec:
        limits, _ = _parse(_payload(rec, places.get(0, 0)), path)
        first, end = (1, int(limits[0])) if len(limits) > 1 else (0, max(places) + 1)
        for key in range(first, end):
            if key not in places:
                raise FoundryError(f"{path.with_suffix('.idx')}: no place of image {key}; copy it")
            labels, _ = _parse(_payload(rec, places[key]), path)
            image = Stored(f"{path.name}/{key:09d}", partial(_jpeg, path, places[key]))
            yield f"{int(labels[0]):07d}", image


def _index(path: Path) -> dict[int, int]:
    try:
        lines = [line.split("\t") for line in path.read_text().splitlines()]
        return {int(key): int(place) for key, place in lines}
    except (OSError, ValueError) as error:
        raise FoundryError(f"{path}: not a RecordIO index ({error}); copy it again") from error


def _payload(rec: BinaryIO, place: int) -> bytes:
    rec.seek(place)
    parts: list[bytes] = []
    while True:
        head = rec.read(8)
        word = int.from_bytes(head[4:], "little")
        kind, length = word >> LENGTH_BITS, word % (1 << LENGTH_BITS)
        data = rec.read(length)
        if head[:4] != MAGIC or len(data) != length or (kind in (MIDDLE, LAST)) != bool(parts):
            raise FoundryError(f"{rec.name}: no whole record at byte {place}; copy it again")
        parts.append(data)
        if kind in (WHOLE, LAST):
            return MAGIC.join(parts)
        rec.seek(-length % 4, 1)


def _parse(payload: bytes, path: Path) -> tuple[tuple[float, ...], bytes]:
    """Labels, and the JPEG behind them."""
    flag = HEADER.unpack_from(payload)[0] if len(payload) >= HEADER.size else 0
    end = HEADER.size + 4 * flag
    if end > len(payload):
        raise FoundryError(f"{path}: a record is too short for its header; is it InsightFace's?")
    label = HEADER.unpack_from(payload)[1]
    labels = struct.unpack_from(f"<{flag}f", payload, HEADER.size) if flag else (label,)
    return labels, payload[end:]


def _jpeg(path: Path, place: int) -> bytes:
    with path.open("rb") as rec:
        return _parse(_payload(rec, place), path)[1]
