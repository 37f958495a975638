"""Pairs to verify: folder benchmarks (images + pairs.csv) and pairs of held-out identities."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.images import read_image
from facefoundry.progress import track
from facefoundry.verification import eer, pair_similarity, roc

PAIRS = "pairs.csv"
COLUMNS = ("a", "b", "same", "fold")
SIDE = 112
BATCH = 32
NO_FOLD = -1

Images = NDArray[np.uint8]  # (N, 112, 112, 3) RGB
Embeddings = NDArray[np.float32]
Embed = Callable[[Images], Embeddings]  # (B, 112, 112, 3) uint8 RGB -> (B, D), any length


@dataclass(frozen=True)
class Pairs:
    """Pairs of images: `index` (P, 2) rows of the images, `same` (P,) bool, `fold` (P,) int.

    `fold` is NO_FOLD for a pair that takes no part in the k-fold accuracy.
    """

    index: NDArray[np.int64]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]


@dataclass(frozen=True)
class Benchmark:
    """A folder benchmark: `paths` of the N unique images, pairs over them, and `digest`, sha256
    over pairs.csv and the names and sizes of the images."""

    name: str
    paths: tuple[Path, ...]
    pairs: Pairs
    digest: str


def find_benchmarks(root: Path) -> list[Path]:
    """The sub-directories of `root` that hold a pairs.csv, by name; none where `root` is absent.

    Raises FoundryError where `root` is itself such a directory.
    """
    if (root / PAIRS).is_file():
        raise FoundryError(
            f"{root}: holds {PAIRS} itself; set benchmarks.root to the folder above, {root.parent}"
        )
    return sorted(path.parent for path in root.glob(f"*/{PAIRS}"))


def read_benchmark(directory: Path) -> Benchmark:
    """Read and check `directory/pairs.csv`; image files are looked up, not decoded.

    Raises FoundryError naming the file, the line and the fix.
    """
    table = directory / PAIRS
    row_of: dict[str, int] = {}
    index, same, fold = [], [], []
    line_of: dict[tuple[int, int], int] = {}
    for line, cells in _lines(table):
        where = f"{table}, line {line}"
        first, second = (
            row_of.setdefault(_image_name(directory, cells[side], where), len(row_of))
            for side in ("a", "b")
        )
        pair = (min(first, second), max(first, second))
        if pair in line_of:
            raise FoundryError(f"{where}: same pair as line {line_of[pair]}; remove one of them")
        if first == second:
            raise FoundryError(f"{where}: pairs {cells['a']} with itself; remove this line")
        line_of[pair] = line
        index.append((first, second))
        same.append(_whole_number(cells["same"], "same", (0, 1), where) == 1)
        fold.append(_whole_number(cells["fold"], "fold", None, where))
    pairs = Pairs(np.array(index, np.int64), np.array(same, bool), np.array(fold, np.int64))
    _check_pairs(pairs, table)
    return Benchmark(
        name=directory.name,
        paths=tuple(directory / name for name in row_of),
        pairs=pairs,
        digest=_digest(directory, row_of),
    )


def _lines(table: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells) of each row of a CSV file with at least the four columns."""
    try:
        lines = table.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"{table}: cannot be read as UTF-8 text ({error})") from error
    reader = csv.DictReader(lines)
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        raise FoundryError(
            f"{table}, line 1: no column {', '.join(missing)}; the first line must name"
            f" {','.join(COLUMNS)}"
        )
    for cells in _rows(reader, table):
        empty = [name for name in COLUMNS if not cells[name]]
        if empty:
            raise FoundryError(f"{table}, line {reader.line_num}: {empty[0]} is empty; fill it in")
        yield reader.line_num, cells


def _rows(reader: csv.DictReader[str], table: Path) -> Iterator[dict[str, str]]:
    try:
        yield from reader
    except csv.Error as error:
        raise FoundryError(f"{table}, line {reader.line_num}: not CSV ({error})") from error


def _image_name(directory: Path, name: str, where: str) -> str:
    """`name` if it is an image file inside `directory`. Raises FoundryError otherwise."""
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise FoundryError(f"{where}: {name} lies outside {directory}; use a path inside it")
    if not (directory / name).is_file():
        raise FoundryError(f"{where}: no image {directory / name}; add it or remove this line")
    return name


def _whole_number(text: str, column: str, allowed: tuple[int, ...] | None, where: str) -> int:
    """The cell as a number >= 0, one of `allowed` if given. Raises FoundryError otherwise."""
    valid = text.strip().isdecimal()
    if not valid or (allowed is not None and int(text) not in allowed):
        choice = " or ".join(map(str, allowed)) if allowed else "a whole number, such as 1"
        raise FoundryError(f"{where}: {column} is {text!r}; it must be {choice}")
    return int(text)


def _check_pairs(pairs: Pairs, table: Path) -> None:
    if not len(pairs.same):
        raise FoundryError(f"{table}: no pairs below the first line; add some")
    if len(set(pairs.fold.tolist())) == 1:
        raise FoundryError(
            f"{table}: every pair is in fold {pairs.fold[0]}; number at least two folds"
        )
    if pairs.same.all() or not pairs.same.any():
        missing = 1 - int(pairs.same[0])
        raise FoundryError(f"{table}: no pair has same={missing}; add pairs of both kinds")


def _digest(directory: Path, names: dict[str, int]) -> str:
    digest = hashlib.sha256((directory / PAIRS).read_bytes())
    for name in sorted(names):
        digest.update(f"{name}\0{(directory / name).stat().st_size}\n".encode())
    return digest.hexdigest()


def load_images(benchmark: Benchmark) -> Images:
    """Decode the benchmark's unique images to (N, 112, 112, 3) uint8 RGB (38 KB each).

    Raises FoundryError naming the file that is no 112x112 image.
    """
    images = np.empty((len(benchmark.paths), SIDE, SIDE, 3), np.uint8)
    with ThreadPoolExecutor(2) as pool:
        for row, image in enumerate(pool.map(read_image, benchmark.paths)):
            if image.shape != images.shape[1:]:
                raise FoundryError(
                    f"{benchmark.paths[row]}: {image.shape[1]}x{image.shape[0]} pixels;"
                    f" benchmark images must be aligned faces of {SIDE}x{SIDE}"
                )
            images[row] = image
    return images


def held_out_pairs(
    identities: Sequence[str], seed: int, folds: int = 10, max_impostors: int = 100_000
) -> Pairs:
    """Every genuine pair and up to `max_impostors` impostor pairs of identity-labelled images.

    Folds are disjoint in identities, two or more in each, hence at most half as many folds as
    identities. An impostor pair that joins two folds has NO_FOLD: it helps to calibrate
    thresholds, and the k-fold accuracy leaves it out. Within the folds there are as many
    impostor as genuine pairs, or all there are. With two or three identities the folds cannot be
    disjoint, and pairs are dealt out in turn.
    Raises FoundryError below two identities, or where no identity has two images.
    """
    names, label = np.unique(np.asarray(identities), return_inverse=True)
    if len(names) < 2:
        raise FoundryError(
            f"{len(names)} held-out identities leave no impostor pairs; raise the number of"
            " identities or the held-out share"
        )
    rng = np.random.default_rng(seed)
    fold_of = _deal_folds(len(names), folds, rng)
    left, right = np.triu_indices(len(label), k=1)
    same = label[left] == label[right]
    if not same.any():
        raise FoundryError("no held-out identity has two images; raise the images per identity")
    fold = np.where(fold_of[label[left]] == fold_of[label[right]], fold_of[label[left]], NO_FOLD)
    within = rng.permutation(np.flatnonzero(~same & (fold != NO_FOLD)))[: same.sum()]
    across = rng.permutation(np.flatnonzero(~same & (fold == NO_FOLD)))
    across = across[: max(max_impostors - len(within), 0)]
    keep = np.sort(np.concatenate([np.flatnonzero(same), within, across]))
    if len(names) < 4:
        fold[keep] = np.arange(len(keep)) % 2
    return Pairs(np.stack([left, right], axis=1)[keep].astype(np.int64), same[keep], fold[keep])


def held_out_eer(embeddings: Embeddings, identities: Sequence[str]) -> float:
    """Equal error rate over the `held_out_pairs` of images, embeddings (N, D) L2-normalised."""
    pairs = held_out_pairs(identities, seed=0)
    return eer(roc(pair_similarity(embeddings, pairs.index), pairs.same))


def _deal_folds(identities: int, folds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """The fold of each identity, as even as can be with two or more identities in each."""
    count = max(min(folds, identities // 2), 1)
    return np.asarray(rng.permutation(np.arange(identities) % count))


def embed_images(
    embed: Embed, images: Images, flip: bool = True, batch: int = BATCH, title: str = "embedding"
) -> Embeddings:
    """(N, D) L2-normalised embeddings of (N, 112, 112, 3) uint8 RGB images.

    With `flip`, the embedding of an image is the sum of those of the image and of its mirror
    image, normalised (InsightFace's protocol). Shows its progress where it takes long.
    Raises FoundryError naming the first image whose embedding is not a number, is zero, or has
    another dimension than those before it.
    """
    parts: list[Embeddings] = []
    starts = range(0, len(images), batch)
    for start in track(starts, title, unit="batches"):
        chunk = images[start : start + batch]
        rows = unit_embeddings(embed, chunk, flip, title, start)
        if parts and rows.shape[1] != parts[0].shape[1]:
            raise FoundryError(
                f"{title}: the embedding of image {start} has {rows.shape[1]} dimensions, those"
                f" before it {parts[0].shape[1]}; export the model with one embedding size"
            )
        parts.append(rows)
    return np.concatenate(parts)


def unit_embeddings(
    embed: Embed, images: Images, flip: bool, title: str, first: int = 0
) -> Embeddings:
    """One batch of `embed_images`; `title` and the number of its `first` image are for the message
    of the FoundryError."""
    total = embed(images)
    if flip:
        total = total + embed(np.ascontiguousarray(images[:, :, ::-1]))
    length = np.linalg.norm(total, axis=1, keepdims=True)
    wrong = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(wrong):
        raise FoundryError(
            f"{title}: the embedding of image {first + wrong[0]} is zero or not a number;"
            " train or export the model again"
        )
    return np.asarray(total / length, np.float32)
