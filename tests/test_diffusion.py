"""The latent diffusion generator, with networks of a few thousand weights."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, run_in
from diffusers import FlowMatchEulerDiscreteScheduler
from toy_faces import toy_crops

from facefoundry import manifest
from facefoundry.alignment import TEMPLATE, similarity_transform, warp
from facefoundry.backbones import build_backbone
from facefoundry.diffusion.faces import cut_margin, spread_rows
from facefoundry.diffusion.fit import AutoencoderFitting, FlowFitting
from facefoundry.diffusion.fitted import licence_chain
from facefoundry.diffusion.nets import (
    FULL_SIDE,
    MARGIN,
    SIDE,
    FaceDiffuser,
    build_unet,
    build_vae,
    condition,
    decode,
    encode,
    keep_identity_model,
    load_diffuser,
    open_identity_model,
    save_diffuser,
    to_unit_variance,
)
from facefoundry.diffusion.population import Population, fit_population
from facefoundry.diffusion.sampling import noise, sample
from facefoundry.errors import DivergedError, FoundryError
from facefoundry.generator_quality import aligned
from facefoundry.images import encode_jpeg, read_image
from facefoundry.inference import find_model, open_model
from facefoundry.licences import enforce
from facefoundry.model_dir import ModelSpec, save_model
from facefoundry.shards import write_shard
from facefoundry.synthesis import build_generator
from facefoundry.synthesis.diffusion import LANDMARKS

OPTIONS = {
    "seed": 0,
    "precision": "32-true",
    "trainer": {"strategy": "auto", "devices": 1, "nodes": 1},
    "gradient_clip": 1.0,
    "accumulate": 1,
    "checkpoint_every": 2,
    "ema": 0.9,
    "steps": 4,
    "batch_size": 4,
    "optimizer": {"name": "adamw", "lr": 1e-3, "weight_decay": 0.0},
    "schedule": "cosine",
    "warmup": 0.1,
    "latent_noise": 0.1,
    "edges": 1.0,
    "dropout": 0.2,
}
TINY = (
    *("judge=none", "components=4", "autoencoder.width=8", "flow.widths=[16,32]"),
    *("autoencoder.steps=2", "flow.steps=2", "checkpoint_every=1", "flow.batch_size=4"),
    *("memory.identities=2", "memory.images_per_identity=2"),
)
FAST = {"name": "adamw", "lr": 1e-2, "weight_decay": 0.0}
LICENCE = {"name": "blobs", "licence": "CC0-1.0", "commercial": "yes", "real_faces": "no"}


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def toy_population() -> Population:
    rng = np.random.default_rng(0)
    values = rng.normal([0.0, 5.0], [30.0, 1.0], (200, 2)).astype(np.float32)
    return fit_population(unit(rng.normal(size=(50, 16))), 8, ["yaw_deg", "exposure"], values)


def toy_diffuser() -> FaceDiffuser:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae, unet = build_vae(8, 4), build_unet([16, 32], 4, 16 + 1 + 2)
    spec = {"licences": [LICENCE | {"source": "tests"}]}
    scheduler = FlowMatchEulerDiscreteScheduler()
    return FaceDiffuser(vae.eval(), unet.eval(), scheduler, toy_population(), spec)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    save_diffuser(toy_diffuser(), folder)
    return folder


def toy_images() -> torch.Tensor:
    crops, _ = toy_crops(identities=2, images=4)
    return torch.from_numpy(np.pad(crops[:, ::2, ::2], ((0, 0), (4, 4), (4, 4), (0, 0)), "edge"))


def fit_vae(cache: Path, **changes) -> AutoencoderFitting:
    torch.manual_seed(0)
    fitting = AutoencoderFitting(build_vae(8, 4), toy_images(), OPTIONS | changes, no_log)
    fitting.fit(cache)
    return fitting


def no_log(metrics: dict, step: int) -> None: ...


def test_the_margin_is_outside_of_the_arcface_crop():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (200, 200, 3)).astype(np.uint8)
    landmarks = TEMPLATE + np.float32(40)
    wide = warp(image, landmarks, MARGIN)
    assert wide.shape == (FULL_SIDE, FULL_SIDE, 3)
    assert np.array_equal(cut_margin(wide[None])[0], warp(image, landmarks))


def test_the_landmarks_of_a_sample_cut_its_inner_crop():
    matrix = similarity_transform(LANDMARKS)
    expected = [[1, 0, -MARGIN], [0, 1, -MARGIN]]
    assert matrix == pytest.approx(np.array(expected), abs=1e-4)


def test_images_are_spread_over_the_identities():
    rows = [{"identity": name, "image_id": f"{name}{n}"} for name in "abc" for n in range(4)]
    assert [row["image_id"] for row in spread_rows(rows, 5)] == ["a0", "a1", "b0", "b1", "c0"]
    assert spread_rows(rows, 99) == rows


def test_latents_have_unit_variance_and_come_back():
    vae = toy_diffuser().vae
    images = torch.rand(6, 3, SIDE, SIDE) * 2 - 1
    with torch.inference_mode():
        raw = encode(vae, images)
        before = decode(vae, raw)
        latents = to_unit_variance(vae, raw)
        assert raw.shape == (6, 4, 16, 16)
        assert torch.allclose(encode(vae, images), latents, atol=1e-4)
        assert torch.allclose(decode(vae, latents), before, atol=1e-4)
    assert float(latents.mean()) == pytest.approx(0, abs=1e-4)
    assert float(latents.std()) == pytest.approx(1, abs=1e-4)


def test_no_identity_differs_from_every_identity():
    embeddings = torch.tensor([[0.6, 0.8], [0.0, 0.0]])
    told = condition(embeddings, torch.tensor([[2.0], [2.0]]))
    assert told[0].tolist() == pytest.approx([0.6 * 2**0.5, 0.8 * 2**0.5, 1, 2])
    assert told[1].tolist() == [0, 0, 0, 2]


def test_new_identities_have_the_moments_of_the_known_ones():
    rng = np.random.default_rng(1)
    shape = rng.normal(size=(8, 8)) * 0.2
    known = unit(rng.normal(size=(4000, 8)) @ shape + 1)
    population = fit_population(known, 8, [], np.empty((4000, 0), np.float32))
    drawn = np.stack([population.identity(rng) for _ in range(4000)])
    assert drawn.mean(axis=0) == pytest.approx(known.mean(axis=0), abs=0.02)
    assert np.cov(drawn.T) == pytest.approx(np.cov(known.T), abs=0.02)
    still = population.identity(rng, spread=0)
    assert still == pytest.approx(population.mean / np.linalg.norm(population.mean), abs=1e-6)


def test_controls_are_drawn_as_they_were_seen():
    population = toy_population()
    rng = np.random.default_rng(0)
    drawn = np.stack([population.draw_controls(rng) for _ in range(3000)])
    assert drawn.std(axis=0) == pytest.approx([30, 1], rel=0.15)
    standard = population.standardise(drawn)
    assert standard.mean(axis=0) == pytest.approx([0, 0], abs=0.1)
    assert standard.std(axis=0) == pytest.approx([1, 1], rel=0.1)


def test_a_fitting_that_is_killed_ends_as_one_that_is_not(tmp_path: Path):
    whole = fit_vae(tmp_path / "whole")

    class KilledError(Exception): ...

    class Dies(AutoencoderFitting):
        def on_train_batch_start(self, _batch: object, index: int) -> None:
            if index == 3:
                raise KilledError

    torch.manual_seed(0)
    with pytest.raises(KilledError):
        Dies(build_vae(8, 4), toy_images(), OPTIONS, no_log).fit(tmp_path / "killed")
    resumed = fit_vae(tmp_path / "killed")
    assert [point["step"] for point in resumed.curves] == [2, 4]
    assert resumed.curves == whole.curves
    for key, value in whole.average.module.state_dict().items():
        assert torch.equal(value, resumed.average.module.state_dict()[key]), key


def test_the_autoencoder_learns(tmp_path: Path):
    curve = fit_vae(tmp_path, steps=30, checkpoint_every=10, optimizer=FAST).curves
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]


def test_a_loss_that_is_no_number_stops_the_fitting(tmp_path: Path):
    with pytest.raises(DivergedError, match=r"the loss is nan at step 0 of autoencoder; lower"):
        fit_vae(tmp_path, edges=float("nan"))


def test_the_flow_learns_which_identity_is_which(tmp_path: Path):
    """Two identities whose latents are +1 and -1 everywhere: samples take the sign of theirs, and
    more of it with guidance."""
    torch.manual_seed(0)
    sign = torch.tensor([1.0, -1.0]).repeat(32)
    latents = sign[:, None, None, None].expand(64, 4, 4, 4) + 0.1 * torch.randn(64, 4, 4, 4)
    embeddings = torch.zeros(64, 16)
    embeddings[sign > 0, 0] = embeddings[sign < 0, 1] = 1
    diffuser = toy_diffuser()
    options = OPTIONS | {"steps": 100, "batch_size": 8, "checkpoint_every": 100, "ema": 0.5}
    options["optimizer"] = OPTIONS["optimizer"] | {"lr": 3e-3}
    fitting = FlowFitting(diffuser.unet, latents, embeddings, torch.zeros(64, 2), options, no_log)
    diffuser.unet = fitting.fit(tmp_path)
    kept: list[torch.Tensor] = []
    diffuser.vae.decode = lambda raw: kept.append(raw) or _Sample(torch.zeros(2, 12, 8, 8))
    start = np.random.default_rng(0).normal(size=(2, 4, 4, 4)).astype(np.float32)
    neutral = np.repeat(diffuser.population.quantiles.mean(axis=0)[None], 2, axis=0)
    for guidance in (1.0, 2.0):
        sample(diffuser, embeddings[:2].numpy(), neutral, start, 8, guidance)
    plain, guided = (found.mean(dim=(1, 2, 3)) for found in kept)
    assert plain[0] > 0.3
    assert plain[1] < -0.3
    assert guided[0] - guided[1] > plain[0] - plain[1]


def test_guidance_acts_within_its_interval_alone(model: Path):
    diffuser = load_diffuser(model)
    rng = np.random.default_rng(0)
    who, controls = unit(rng.normal(size=(1, 16))), np.zeros((1, 2), np.float32)
    start = noise(diffuser, rng)[None]
    batches: list[int] = []
    diffuser.unet.register_forward_pre_hook(lambda _, inputs: batches.append(len(inputs[0])))

    def drawn(guidance: float, *interval: float) -> np.ndarray:
        batches.clear()
        return sample(diffuser, who, controls, start, 4, guidance, interval or (0, 1))[0]

    plain, guided = drawn(1), drawn(6)
    assert not np.array_equal(plain, guided), "guidance does nothing: the case shows nothing"
    assert np.array_equal(drawn(6, 0.25, 1.0), guided)  # the times are 1, 0.75, 0.5 and 0.25
    assert np.array_equal(drawn(6, 0.3, 0.4), plain)
    assert batches == [1, 1, 1, 1]
    between = drawn(6, 0.4, 0.8)
    assert batches == [1, 2, 2, 1]
    assert not np.array_equal(between, plain)
    assert not np.array_equal(between, guided)


class _Sample:
    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


def test_a_directory_is_read_as_it_was_written(model: Path):
    diffuser, loaded = toy_diffuser(), load_diffuser(model)
    rng = np.random.default_rng(0)
    start = np.stack([noise(diffuser, rng) for _ in range(2)])
    arguments = (unit(rng.normal(size=(2, 16))), np.zeros((2, 2), np.float32), start, 2, 1.5)
    assert np.array_equal(sample(diffuser, *arguments), sample(loaded, *arguments))
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()}
    assert len({(model / file).stat().st_mode for file in files}) == 1, "all may read all of it"
    assert files == {
        "generator.json",
        "population.safetensors",
        "scheduler/scheduler_config.json",
        *(f"{net}/config.json" for net in ("unet", "vae")),
        *(f"{net}/diffusion_pytorch_model.safetensors" for net in ("unet", "vae")),
    }


@pytest.mark.parametrize(
    "broken",
    ["generator.json", "population.safetensors", "unet/diffusion_pytorch_model.safetensors"],
)
def test_a_broken_directory_is_one_line_with_the_fix(tmp_path: Path, broken: str):
    save_diffuser(toy_diffuser(), tmp_path)
    (tmp_path / broken).write_bytes(b"{not it")
    with pytest.raises(FoundryError, match=r"no diffusion model there .*generators/dvc\.yaml") as e:
        load_diffuser(tmp_path)
    assert "\n" not in str(e.value)


def test_weights_that_are_no_number_are_not_written(tmp_path: Path):
    diffuser = toy_diffuser()
    next(diffuser.unet.parameters()).data[:] = float("nan")
    with pytest.raises(FoundryError, match=r"unet: conv_in\.weight holds NaN"):
        save_diffuser(diffuser, tmp_path / "out")


def test_the_generator_keeps_the_protocol(model: Path):
    options = {"model": str(model), "steps": 2, "candidates": 1}
    generator = build_generator("diffusion", max_similarity=0.9, **options)
    names = generator.identities(3, seed=0)
    assert len(set(names)) == 3
    faces = generator.faces(names[1], 3, seed=0)
    again = build_generator("diffusion", **options).faces(names[1], 3, seed=0)
    assert [face.image.shape for face in faces] == [(FULL_SIDE, FULL_SIDE, 3)] * 3
    for face, other in zip(faces, again, strict=True):
        assert np.array_equal(face.image, other.image)
        assert set(face.attributes) == {"yaw_deg", "exposure"}
    assert not np.array_equal(faces[0].image, faces[1].image)
    other = generator.faces(names[1], 1, seed=1)[0]
    assert not np.array_equal(other.image, faces[0].image)
    assert generator.licences == json.loads((model / "generator.json").read_text())["licences"]


def test_of_several_draws_the_one_nearest_to_its_identity_is_kept(model: Path):
    generator = build_generator("diffusion", model=str(model), max_similarity=0.9, candidates=3)
    name = generator.identities(1, seed=0)[0]
    who, _ = generator._identity(name, 0)
    seen: list[np.ndarray] = []

    def embed(crops: np.ndarray) -> np.ndarray:
        """Nearer to the identity, the darker the crop."""
        seen.append(crops)
        return -crops.mean(axis=(1, 2, 3))[:, None] * who

    generator.embed = embed
    faces = generator.faces(name, 6, seed=0)
    assert [len(crops) for crops in seen] == [15, 3], "16 at a time, three for each image"
    drawn = np.concatenate(seen).reshape(6, 3, 112, 112, 3)
    darkest = drawn.mean(axis=(2, 3, 4)).argmin(axis=1)
    assert len(set(darkest.tolist())) > 1, "always the same place: the case shows nothing"
    for face, draws, place in zip(faces, drawn, darkest, strict=True):
        assert np.array_equal(cut_margin(face.image[None])[0], draws[place])


def test_images_of_an_identity_start_from_noise_that_they_share(model: Path, monkeypatch):
    starts: list[np.ndarray] = []

    def sample(_diffuser, who: np.ndarray, _controls, start: np.ndarray, *_: object):
        starts.append(start.reshape(len(start), -1))
        return np.zeros((len(who), SIDE, SIDE, 3), np.uint8)

    monkeypatch.setattr("facefoundry.synthesis.diffusion.sample", sample)
    for share in (0.0, 0.6, 1.0):
        generator = build_generator("diffusion", model=str(model), shared_noise=share, batch=64)
        for identity in ("d1", "d2"):
            generator.faces(identity, 64, seed=0)
        one, other = starts.pop(-2), starts.pop()
        assert one.var() == pytest.approx(1, abs=0.15)
        apart = ~np.eye(64, dtype=bool)
        assert np.corrcoef(one)[apart].mean() == pytest.approx(share, abs=0.05)
        assert abs(np.corrcoef(one, other)[:64, 64:].mean()) < 0.15, "nor with another identity"


def test_a_share_of_noise_that_is_none_is_refused(model: Path):
    with pytest.raises(FoundryError, match=r"shared_noise: 1\.5 is not between 0 and 1"):
        build_generator("diffusion", model=str(model), shared_noise=1.5)


def test_without_the_model_that_told_identities_apart_none_is_chosen(model: Path):
    generator = build_generator("diffusion", model=str(model), candidates=2)
    with pytest.raises(FoundryError, match="candidates: 1, or fit again"):
        generator.embed  # noqa: B018


@pytest.mark.parametrize("trained_only", [False, True])
def test_the_model_that_told_identities_apart_goes_along(tmp_path: Path, trained_only: bool):
    named, out = tmp_path / "named", tmp_path / "fitted"
    if trained_only:
        arguments = {"widths": [4, 4, 4], "blocks": [1, 1, 1], "head": 8}
        backbone = build_backbone("small_resnet", **arguments, embedding_size=8)
        save_model(named, backbone, ModelSpec("small_resnet", 8, arguments))
    else:
        shutil.copytree(ROOT / "pretrained/clean", named)
    out.mkdir()
    keep_identity_model(open_model(named).source, out)
    crops = np.random.default_rng(0).integers(0, 255, (2, 112, 112, 3), np.uint8)
    expected = open_model(named, threads=1).embed(crops)
    shutil.rmtree(named)
    assert np.array_equal(open_identity_model(out).embed(crops), expected)


def test_the_shipped_generator_s_own_model_knows_its_identities_again():
    generator = build_generator("diffusion")
    names = generator.identities(4, 0)
    crops = [cut_margin(face.image[None]) for name in names for face in generator.faces(name, 2, 0)]
    asked_for = np.stack([generator._identity(name, 0)[0] for name in names])
    cosine = generator.embed(np.concatenate(crops)) @ asked_for.T
    own = np.repeat(np.eye(4, dtype=bool), 2, axis=0)
    assert cosine[own].mean() > cosine[~own].mean() + 0.2


def test_identities_are_kept_apart(model: Path):
    generator = build_generator("diffusion", model=str(model), max_similarity=0.3)
    names = generator.identities(6, seed=0)
    embeddings = np.stack([generator._identity(name, 0)[0] for name in names])
    cosine = embeddings @ embeddings.T - 2 * np.eye(6)
    assert cosine.max() < 0.3
    everyone = [f"d{number:06d}" for number in range(6)]
    assert names != everyone, "none was passed over: the case shows nothing"
    with pytest.raises(FoundryError, match=r"of 500 identities .* raise it, or ask for fewer"):
        generator.identities(500, seed=0)


def test_the_shipped_generator_is_small_and_rests_on_no_real_face():
    folder = ROOT / "pretrained/generator-clean"
    assert sum(path.stat().st_size for path in folder.rglob("*.safetensors")) <= 25_000_000
    generator = build_generator("diffusion", model=str(folder))
    enforce("no-real-faces", generator.licences)
    enforce("commercial", generator.licences)
    names = generator.identities(30, 0)  # one face each: those of one identity fail together
    _, found = aligned([generator.faces(name, 1, 0)[0] for name in names])
    assert found.mean() >= 0.95


def write_renders(project: Path) -> None:
    """Blobs with the landmarks and attributes of renders, as `data/curate`."""
    crops, names = toy_crops(identities=3, images=4)
    members = [
        (f"{name}/{n:02}", encode_jpeg(crop))
        for n, (name, crop) in enumerate(zip(names, crops, strict=True))
    ]
    shard = Path("data/synthesize/shards/0.tar")
    (project / shard).parent.mkdir(parents=True)
    places = write_shard(project / shard, members)
    rows = [
        {
            "image_id": image_id,
            "identity": name,
            "shard": str(shard),
            "offset": offset,
            "size": size,
        }
        | {"landmarks": TEMPLATE.ravel().tolist(), "attributes": {"yaw_deg": float(n), "age": 30.0}}
        for n, ((image_id, _), name, (offset, size)) in enumerate(
            zip(members, names, places, strict=True)
        )
    ]
    chain = [LICENCE | {"source": "tests"}]
    manifest.write(manifest.with_licences(manifest.table(rows), chain), project / "data/curate")


def test_the_stage_fits_audits_and_leaves_a_generator(project: Path):
    write_renders(project)
    shutil.copytree(ROOT / "pretrained/clean", project / "pretrained/clean")
    done = run_in(project, "python", "-m", "stages.fit_generator", *TINY)
    out = project / "models/fit_generator"
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["images"], metrics["identities"]) == (12, 3)
    assert metrics["memory"]["samples"] == 4
    assert metrics["memory"]["references"] == 12
    assert set(json.loads((out / "curves.json").read_text())) == {"autoencoder", "flow"}
    assert read_image(out / "preview.png").shape == (2 * 112, 2 * 112, 3)
    assert read_image(out / "nearest.png").shape[0] == 2 * 112
    options = {"model": str(out), "steps": 1, "max_similarity": 1.1, "candidates": 2}
    generator = build_generator("diffusion", **options)
    face = generator.faces(generator.identities(1, 0)[0], 1, 0)[0]
    assert set(face.attributes) == {"yaw_deg"}, "age is of the identity and no knob"
    assert "flow: 2 of 2" in done.stderr
    assert not list((project / ".cache/fit_generator").iterdir())


def test_a_policy_stops_the_fitting_before_it_starts(project: Path):
    write_renders(project)
    owed = [LICENCE | {"source": "tests", "real_faces": "yes", "name": "photographs"}]
    table = manifest.with_licences(manifest.read(project / "data/curate"), owed)
    manifest.write(table, project / "data/curate")
    chain = licence_chain(project / "data/curate", find_model("clean").parent)
    with pytest.raises(FoundryError, match=r"policy no-real-faces forbids photographs"):
        enforce("no-real-faces", chain)
    enforce("commercial", chain)


def test_the_pipeline_file_of_the_stage_names_files_that_are_there():
    spec = yaml.safe_load((ROOT / "generators/dvc.yaml").read_text())["stages"]["fit_generator"]
    assert (ROOT / "generators" / spec["wdir"]).resolve() == ROOT
    for dependency in spec["deps"]:
        assert dependency.startswith("data/") or (ROOT / dependency).exists(), dependency
