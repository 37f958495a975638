"""Generators: the same bytes for the same seed, and images that hold a face."""

from pathlib import Path

import numpy as np
import pytest

from facefoundry import manifest
from facefoundry.alignment import Detector
from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.images import encode_jpeg
from facefoundry.synthesis import (
    GENERATORS,
    Face,
    build_generator,
    face_rng,
    mobile_stylegan,
    stylegan,
)
from facefoundry.synthesis.import_faces import ImportFaces
from facefoundry.synthesis.mobile_stylegan import ENGINES
from facefoundry.synthesis.run import synthesize

TINY = {"name": "stylegan", "cut": 64, "fit_images": 12}


@pytest.fixture(scope="module")
def generator(tmp_path_factory) -> stylegan.StyleGan:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stylegan, "CACHE", tmp_path_factory.mktemp("stylegan"))
        return build_generator(**TINY)


def test_faces_are_detected_and_depend_on_seed_identity_and_index(generator):
    first = generator.faces("s000001", 3, seed=0)
    again = generator.faces("s000001", 2, seed=0)
    assert first[0].image.shape == (256, 256, 3)
    assert np.array_equal(first[1].image, again[1].image)
    assert not np.array_equal(first[0].image, first[1].image)
    assert not np.array_equal(first[0].image, generator.faces("s000001", 1, seed=1)[0].image)
    detector = Detector()
    for face in first:
        (found, *_) = detector.detect(face.image)
        assert found.score > 0.7


def test_the_linear_head_paints_what_the_full_network_paints():
    rng = np.random.default_rng(5)
    styles = mobile_stylegan.Mapping()(rng.standard_normal((10, 512), np.float32))
    styles = styles.mean(0) + 0.7 * (styles - styles.mean(0))
    head = mobile_stylegan.fit_head(styles[:8], 64)
    full = mobile_stylegan.Synthesis(64, threads=2, full=True)
    for style in styles[8:]:
        features, image = (output[0] for output in full(style[None, None]))
        painted = mobile_stylegan.paint(features, head) / 127.5 - 1
        small = image.reshape(3, 256, 4, 256, 4).mean((2, 4)).clip(-1, 1).transpose(1, 2, 0)
        psnr = 10 * np.log10(4 / np.mean((painted - small) ** 2))
        assert psnr > 17


def test_one_style_for_every_group_is_the_network_as_published():
    style = mobile_stylegan.Mapping()(np.ones((1, 512), np.float32))
    cut = mobile_stylegan.Synthesis(64)(np.repeat(style[None], 5, axis=1))[0]
    whole = mobile_stylegan.Synthesis(64, full=True)(style[None])[0]
    assert np.abs(cut - whole).max() < 1e-3


def test_a_style_of_a_stranger_changes_colour_more_than_shape():
    rng = np.random.default_rng(0)
    own, stranger = mobile_stylegan.Mapping()(rng.standard_normal((2, 512), np.float32))
    synthesis = mobile_stylegan.Synthesis(128)
    base = np.repeat(own[None], 5, axis=0)
    fine, coarse = base.copy(), base.copy()
    fine[4], coarse[0] = stranger, stranger
    plain, painted, reshaped = synthesis(np.stack([base, fine, coarse]))[0]
    assert np.abs(painted - plain).mean() > 0
    # the finest group leaves the coarse layout: low-frequency feature energy stays correlated
    blocks = [m.reshape(256, 16, 8, 16, 8).mean((2, 4)).ravel() for m in (plain, reshaped)]
    assert np.corrcoef(*blocks)[0, 1] < 0.9


def test_pytorch_and_openvino_paint_the_same():
    rng = np.random.default_rng(2)
    latents = rng.standard_normal((10, 512), np.float32)
    styles = mobile_stylegan.Mapping()(latents)
    assert mobile_stylegan.Mapping(engine="torch")(latents) == pytest.approx(styles, abs=1e-3)
    groups = styles.reshape(2, 5, 512)  # two images, each group with a style of its own
    one, two = (mobile_stylegan.Synthesis(128, engine=name)(groups)[0] for name in ENGINES[1:])
    assert np.abs(two - one).max() < 1e-2
    first = styles[:1, None]
    one, two = (
        mobile_stylegan.Synthesis(64, full=True, engine=name)(first)[1] for name in ENGINES[1:]
    )
    assert one.shape == (1, 3, 1024, 1024)
    assert np.abs(two - one).max() < 1e-2


def test_the_engine_is_chosen_by_the_machine(monkeypatch):
    for cuda, engine in ((True, "torch"), (False, "openvino")):
        monkeypatch.setattr("torch.cuda.is_available", lambda cuda=cuda: cuda)
        assert mobile_stylegan.choose_engine("auto") == engine
        assert mobile_stylegan.choose_engine("torch") == "torch"
    with pytest.raises(FoundryError, match=r"engine: 'tpu' is not one of auto, openvino, torch"):
        mobile_stylegan.choose_engine("tpu")


def test_the_wheels_network_is_bound_to_its_bytes(generator):
    (entry,) = generator.licences
    files = [mobile_stylegan.weights_directory() / name for name in stylegan.WHEEL_FILES]
    assert entry["sha256"] == sha256_of(*files)
    assert (entry["commercial"], entry["real_faces"]) == ("no", "yes")


def test_a_missing_weights_wheel_says_what_to_install(monkeypatch):
    monkeypatch.setattr(mobile_stylegan, "find_spec", lambda name: None)
    with pytest.raises(FoundryError, match=r"pip install --no-deps random-face==2021\.7\.21\.1"):
        mobile_stylegan.weights_directory()


def test_an_unknown_generator_lists_the_known():
    with pytest.raises(FoundryError, match=r"'midjourney' is not one of .*stylegan"):
        build_generator("midjourney")
    assert set(GENERATORS) == {path.stem for path in Path("conf/generator").glob("*.yaml")}


def test_randomness_of_images_is_independent():
    numbers = {
        face_rng(seed, identity, index).random()
        for seed in (0, 1)
        for identity in ("a", "b", "ab")
        for index in (-1, 0, 1)
    }
    assert len(numbers) == 18


def folder(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for identity in ("ann", "bob"):
        (root / identity).mkdir(parents=True)
        for number in range(2):
            image = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            (root / identity / f"{number}.jpg").write_bytes(encode_jpeg(image))
    return root


def test_a_folder_becomes_a_dataset_with_its_licence(tmp_path: Path, monkeypatch):
    root = folder(tmp_path / "own")
    (root / "ann/notes.txt").write_text("not an image")
    (root / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    options = {"name": "import", "root": str(root), "licence": "CC0-1.0", "real_faces": "no"}
    table = synthesize(options, 1, 1, 1, 0, Path("data/synthesize"), 1)
    assert table["image_id"].to_pylist() == ["ann/0000", "ann/0001", "bob/0000", "bob/0001"]
    (entry,) = manifest.licences(manifest.read(Path("data/synthesize")))
    assert (entry["licence"], entry["real_faces"], entry["commercial"]) == (
        "CC0-1.0",
        "no",
        "unknown",
    )


def test_bad_folders_and_images_name_themselves(tmp_path: Path, capsys):
    with pytest.raises(FoundryError, match=r"nowhere: no such folder; set import\.root"):
        build_generator("import", root=str(tmp_path / "nowhere")).identities(1, 0)
    (tmp_path / "void/ann").mkdir(parents=True)
    with pytest.raises(FoundryError, match="no image to import; make a folder for each identity"):
        build_generator("import", root=str(tmp_path / "void")).identities(1, 0)
    root = folder(tmp_path / "own")
    (root / "ann/bad.jpg").write_bytes(b"no image")
    with pytest.raises(FoundryError, match=r"bad\.jpg: not a readable .*on_bad_image=skip"):
        build_generator("import", root=str(root)).faces("ann", 1, 0)
    kept = build_generator("import", root=str(root), on_bad_image="skip").faces("ann", 1, 0)
    assert len(kept) == 2
    assert "skipped: " in capsys.readouterr().err


def test_a_mix_shares_identities_by_weight(tmp_path: Path):
    one, two = folder(tmp_path / "one"), folder(tmp_path / "two")
    parts = {name: {"name": "import", "root": str(root)} for name, root in (("x", one), ("y", two))}
    images = {"x": None, "y": None}
    mix = build_generator("mix", parts=parts, weights={"x": 1, "y": 3}, images=images)
    assert mix.identities(8, 0) == ["x.ann", "y.ann", "x.bob", "y.bob"]  # the dear ones spread
    assert np.array_equal(
        mix.faces("y.bob", 2, 0)[1].image, mix.parts["y"].faces("bob", 2, 0)[1].image
    )
    with pytest.raises(FoundryError, match="one weight, 0 or more, for each of x, y"):
        build_generator("mix", parts=parts, weights={"x": 1}, images=images)


def test_a_mix_makes_so_many_images_as_its_part_is_told(tmp_path: Path, monkeypatch):
    face = Face(np.zeros((8, 8, 3), np.uint8))
    monkeypatch.setattr(ImportFaces, "faces", lambda *arguments: [face] * arguments[2])
    parts = {name: {"name": "import", "root": str(folder(tmp_path / name))} for name in "xy"}
    weights = {"x": 1, "y": 1}
    mix = build_generator("mix", parts=parts, weights=weights, images={"x": None, "y": 2})
    assert [len(mix.faces(name, 1, 0)) for name in ("x.ann", "y.ann")] == [1, 2]
    for wrong in ({"x": None}, {"x": None, "y": 0}):
        with pytest.raises(FoundryError, match="images: need a number above 0, or null, for each"):
            build_generator("mix", parts=parts, weights=weights, images=wrong)


def test_a_part_of_weight_nought_is_not_built_and_owes_nothing(tmp_path: Path):
    parts = {
        "x": {"name": "import", "root": str(folder(tmp_path / "x"))},
        "gone": {"name": "diffusion", "model": str(tmp_path / "no such model")},
    }
    images = {"x": None, "gone": None}
    mix = build_generator("mix", parts=parts, weights={"x": 2, "gone": 0}, images=images)
    assert mix.identities(2, 0) == ["x.ann", "x.bob"]
    assert mix.licences == mix.parts["x"].licences
    with pytest.raises(FoundryError, match="no such model"):
        build_generator("mix", parts=parts, weights={"x": 2, "gone": 1}, images=images)
