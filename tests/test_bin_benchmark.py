"""InsightFace's .bin files: read as they are, and never as code."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from facefoundry.bin_benchmark import read_bin
from facefoundry.errors import FoundryError
from facefoundry.evaluation import benchmark_sets
from facefoundry.images import encode_jpeg


def face(shade: int, side: int = 112) -> bytes:
    return encode_jpeg(np.full((side, side, 3), shade, np.uint8))


def contents(pairs: int = 20) -> tuple[list[bytes], list[bool]]:
    """Pair i: images i and i where it is genuine, else i and i + 1."""
    same = [i % 2 == 0 for i in range(pairs)]
    shades = [
        shade for i in range(pairs) for shade in (10 * i % 250, 10 * (i + (not same[i])) % 250)
    ]
    return [face(shade) for shade in shades], same


def write(path: Path, value: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pairs_folds_and_pixels(tmp_path: Path, protocol: int) -> None:
    encoded, same = contents()
    images, pairs, digest = read_bin(write(tmp_path / "toy.bin", (encoded, same), protocol))
    np.testing.assert_array_equal(pairs.same, same)
    assert pairs.fold.tolist() == [i // 2 for i in range(20)]
    shades = images[pairs.index].mean(axis=(2, 3, 4))
    for i, (left, right) in enumerate(shades):
        assert left == pytest.approx(10 * i % 250, abs=2)
        assert (abs(left - right) < 1) == same[i]
    assert len(digest) == 64


def test_a_file_by_python_2_is_read(tmp_path: Path) -> None:
    """There the images are `str`, which the old opcodes for byte strings carry."""
    encoded, same = contents(10)
    strings = b"".join(b"T" + len(e).to_bytes(4, "little") + e for e in encoded)
    flags = b"".join(b"I01\n" if flag else b"I00\n" for flag in same)
    (tmp_path / "old.bin").write_bytes(b"((" + strings + b"l(" + flags + b"lt.")
    images, pairs, _ = read_bin(tmp_path / "old.bin")
    assert images.shape[1:] == (112, 112, 3) and pairs.same.tolist() == same


class Hostile:
    """What a pickle may ask for."""

    def __init__(self, call, *arguments) -> None:
        self.parts = (call, arguments)

    def __reduce__(self):
        return self.parts


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "ran"
    encoded, same = contents()
    for attack in (Hostile(os.mkdir, str(mark)), Hostile(eval, f"open({str(mark)!r}, 'w')")):
        for value in (attack, (attack, same), ([*encoded, attack], same)):
            with pytest.raises(FoundryError, match=r"toy\.bin.*asks for"):
                read_bin(write(tmp_path / "toy.bin", value, protocol))
    assert not mark.exists()


def test_the_one_known_name_encodes_bytes_and_nothing_else(tmp_path: Path) -> None:
    import codecs

    with pytest.raises(FoundryError, match="something other than bytes"):
        read_bin(write(tmp_path / "toy.bin", Hostile(codecs.encode, "x", "rot13")))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, s: (e[:-1], s), "39 images for 20 pairs"),
        (lambda e, s: ([*e[:-1], "text"], s), "image 39: str, not bytes"),
        (lambda e, s: (e, [*s[:-1], 7]), "pair 19: same is 7"),
        (lambda e, s: ([*e[:5], b"not a jpeg", *e[6:]], s), "image 5: not a readable"),
        (lambda e, s: ([*e[:5], face(3, 96), *e[6:]], s), "image 5: 96x96"),
        (lambda e, s: (e[:8], s[:4]), "at least 10"),
        (lambda e, s: e, "no .images, same. pair"),
        (lambda e, s: (dict.fromkeys(e), s), "must be lists"),
    ],
)
def test_a_wrong_file_is_named_with_its_row(tmp_path: Path, change, message: str) -> None:
    with pytest.raises(FoundryError, match=rf"toy\.bin.*{message}"):
        read_bin(write(tmp_path / "toy.bin", change(*contents())))


@pytest.mark.parametrize("damage", [b"", b"\x80\x04]", b"garbage"])
def test_a_damaged_file_is_named(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "toy.bin").write_bytes(damage)
    with pytest.raises(FoundryError, match=r"toy\.bin"):
        read_bin(tmp_path / "toy.bin")


def test_it_is_a_benchmark_like_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "cfp_fp.bin", contents())
    (found,) = benchmark_sets(tmp_path)
    assert found.name == "cfp_fp" and found.digest and len(found.pairs.same) == 20


def test_two_benchmarks_of_one_name_are_refused(tmp_path: Path) -> None:
    from PIL import Image

    write(tmp_path / "toy.bin", contents())
    (tmp_path / "toy").mkdir()
    for shade in range(4):
        Image.new("RGB", (112, 112), (shade, 0, 0)).save(tmp_path / f"toy/{shade}.png")
    (tmp_path / "toy/pairs.csv").write_text("a,b,same,fold\n0.png,1.png,1,1\n2.png,3.png,0,2\n")
    with pytest.raises(FoundryError, match="two benchmarks are named toy"):
        benchmark_sets(tmp_path)
