"""Folder benchmarks, held-out pairs, flip-sum embeddings."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facefoundry.benchmarks import (
    NO_FOLD,
    embed_images,
    find_benchmarks,
    held_out_pairs,
    load_images,
    read_benchmark,
)
from facefoundry.errors import FoundryError

GOOD = "a,b,same,fold\nx0.png,x1.png,1,1\nx0.png,x2.png,0,1\nx2.png,x3.png,1,2\nx1.png,x3.png,0,2\n"


def write_benchmark(folder: Path, table: str = GOOD) -> Path:
    folder.mkdir(parents=True)
    for shade in range(4):
        Image.new("RGB", (112, 112), (shade * 60, 10, 20)).save(folder / f"x{shade}.png")
    (folder / "pairs.csv").write_text(table)
    return folder


def test_a_benchmark_gives_unique_images_and_pairs(tmp_path: Path) -> None:
    benchmark = read_benchmark(write_benchmark(tmp_path / "toy"))
    assert benchmark.name == "toy"
    assert [path.name for path in benchmark.paths] == ["x0.png", "x1.png", "x2.png", "x3.png"]
    assert benchmark.pairs.index.tolist() == [[0, 1], [0, 2], [2, 3], [1, 3]]
    assert benchmark.pairs.same.tolist() == [True, False, True, False]
    assert benchmark.pairs.fold.tolist() == [1, 1, 2, 2]
    images = load_images(benchmark)
    assert images.shape == (4, 112, 112, 3) and images.dtype == np.uint8
    assert images[3, 0, 0].tolist() == [180, 10, 20]  # RGB


def test_find_benchmarks(tmp_path: Path) -> None:
    assert find_benchmarks(tmp_path / "absent") == []
    (tmp_path / "notes").mkdir()
    folders = [write_benchmark(tmp_path / name) for name in ("b", "a")]
    assert find_benchmarks(tmp_path) == sorted(folders)
    with pytest.raises(FoundryError, match="folder above"):
        find_benchmarks(tmp_path / "a")


def test_the_digest_follows_pairs_and_images(tmp_path: Path) -> None:
    first = read_benchmark(write_benchmark(tmp_path / "one" / "toy"))
    again = write_benchmark(tmp_path / "two" / "toy")
    assert read_benchmark(again).digest == first.digest
    Image.effect_noise((112, 112), 50).convert("RGB").save(again / "x3.png")
    assert read_benchmark(again).digest != first.digest
    changed = write_benchmark(tmp_path / "three" / "toy", GOOD.replace("0,2\n", "0,3\n"))
    assert read_benchmark(changed).digest != first.digest


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("a,b,same,fold", "a,b,same", r"line 1: no column fold; .*a,b,same,fold"),
        ("x3.png,0,2", "gone.png,0,2", r"line 5: no image .*gone\.png; add it or remove"),
        ("x3.png,0,2", "../x3.png,0,2", r"line 5: \.\./x3\.png lies outside"),
        ("x3.png,0,2", "x3.png,yes,2", r"line 5: same is 'yes'; it must be 0 or 1"),
        ("x3.png,0,2", "x3.png,2,2", r"line 5: same is '2'; it must be 0 or 1"),
        ("x3.png,0,2", "x3.png,0,two", r"line 5: fold is 'two'; it must be a whole number"),
        ("x3.png,0,2", "x3.png,0,", r"line 5: fold is empty"),
        ("x1.png,x3.png,0", "x1.png,x0.png,0", r"line 5: same pair as line 2; remove"),
        ("x1.png,x3.png,0", "x3.png,x3.png,0", r"line 5: pairs x3\.png with itself"),
        (",2\n", ",1\n", r"every pair is in fold 1; number at least two folds"),
        (",0,", ",1,", r"no pair has same=0"),
    ],
)
def test_a_broken_table_names_file_line_and_fix(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    folder = write_benchmark(tmp_path / "toy", GOOD.replace(old, new))
    with pytest.raises(FoundryError, match=rf"pairs\.csv.*{message}") as caught:
        read_benchmark(folder)
    assert "\n" not in str(caught.value)


def test_a_table_without_rows(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match=r"pairs\.csv: no pairs"):
        read_benchmark(write_benchmark(tmp_path / "toy", "a,b,same,fold\n"))


def test_an_image_of_another_size_is_named(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "toy")
    Image.new("RGB", (100, 112)).save(folder / "x2.png")
    with pytest.raises(FoundryError, match=r"x2\.png: 100x112 pixels; .*112x112"):
        load_images(read_benchmark(folder))


def test_a_damaged_image_is_named(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "toy")
    (folder / "x1.png").write_bytes(b"not an image")
    with pytest.raises(FoundryError, match=r"x1\.png"):
        load_images(read_benchmark(folder))


def test_held_out_folds_share_no_identity() -> None:
    labels = np.repeat(np.arange(15), 6)
    pairs = held_out_pairs([f"i{label:02}" for label in labels], seed=0)
    left, right = labels[pairs.index].T
    np.testing.assert_array_equal(pairs.same, left == right)
    assert pairs.same.sum() == 15 * 15
    inside = pairs.fold != NO_FOLD
    folds_of = {i: set(pairs.fold[inside & ((left == i) | (right == i))]) for i in range(15)}
    assert all(len(folds) == 1 for folds in folds_of.values())
    assert len(set.union(*folds_of.values())) == 7
    for fold in range(7):
        assert {True, False} == set(pairs.same[pairs.fold == fold])
    assert not pairs.same[~inside].any()
    assert len(np.unique(np.sort(pairs.index, axis=1), axis=0)) == len(pairs.same)


def test_held_out_impostors_are_bounded_and_seeded() -> None:
    labels = [f"i{i // 5}" for i in range(100)]
    pairs = held_out_pairs(labels, seed=1, max_impostors=500)
    assert (~pairs.same).sum() == 500
    again, other = (held_out_pairs(labels, seed=s, max_impostors=500) for s in (1, 2))
    np.testing.assert_array_equal(pairs.index, again.index)
    assert not np.array_equal(pairs.index, other.index)


def test_two_identities_still_make_two_folds() -> None:
    pairs = held_out_pairs(["a", "a", "b", "b"], seed=0)
    assert set(pairs.fold) == {0, 1} and pairs.same.sum() == (~pairs.same).sum() == 2


@pytest.mark.parametrize(
    ("labels", "message"), [(["a", "a"], "1 held-out identities"), (["a", "b"], "two images")]
)
def test_too_little_to_pair(labels: list[str], message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        held_out_pairs(labels, seed=0)


def first_pixel(images: np.ndarray) -> np.ndarray:
    """An embedding that sees which way round an image is."""
    return images[:, 0, 0].astype(np.float32) + 1


def test_flip_sum_by_hand() -> None:
    image = np.zeros((1, 112, 112, 3), np.uint8)
    image[0, 0, 0], image[0, 0, -1] = (2, 0, 0), (0, 3, 0)
    expected = np.array([4.0, 5.0, 2.0])  # (3, 1, 1) + (1, 4, 1)
    found = embed_images(first_pixel, image)[0]
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-6)
    plain = embed_images(first_pixel, image, flip=False)[0]
    np.testing.assert_allclose(plain, np.array([3, 1, 1]) / np.sqrt(11), rtol=1e-6)


def test_batches_make_no_difference() -> None:
    images = np.random.default_rng(0).integers(0, 255, (7, 112, 112, 3), dtype=np.uint8)
    whole = embed_images(first_pixel, images)
    np.testing.assert_array_equal(embed_images(first_pixel, images, batch=3), whole)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_embedding_that_is_no_direction_is_refused(value: float) -> None:
    images = np.zeros((2, 112, 112, 3), np.uint8)
    with pytest.raises(FoundryError, match="zero or not a number"):
        embed_images(lambda chunk: np.full((len(chunk), 4), value, np.float32), images)


def test_the_image_of_a_bad_embedding_is_named() -> None:
    images = np.zeros((70, 112, 112, 3), np.uint8)
    images[41] = 1

    def embed(chunk: np.ndarray) -> np.ndarray:
        return np.where(chunk[:, 0, 0, :1] == 1, np.nan, 1.0).astype(np.float32)

    with pytest.raises(FoundryError, match=r"^toy: the embedding of image 41 is zero or not"):
        embed_images(embed, images, title="toy")


def test_dimensions_that_change_are_refused() -> None:
    images = np.zeros((40, 112, 112, 3), np.uint8)
    with pytest.raises(FoundryError, match="image 32 has 8 dimensions, those before it 32"):
        embed_images(lambda chunk: np.ones((len(chunk), len(chunk)), np.float32), images)
