"""`generator=hub`: pipelines from a folder, Arc2Face's identity token, and clear refusals."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from facefoundry import manifest
from facefoundry.cli import build_app
from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.licences import enforce
from facefoundry.synthesis import build_generator, face_rng, hub
from facefoundry.synthesis.run import synthesize

diffusers = pytest.importorskip("diffusers", reason="the extra `hub` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `hub` is not installed")

SIZE, WIDTH = 16, 516  # the token's width is more than the embedding's 512, as in Arc2Face
STEPS = {"num_inference_steps": 2, "guidance_scale": 2.0}


def tokenizer() -> "transformers.CLIPTokenizer":
    """CLIP's kind of tokenizer, which knows the five words of the prompt."""
    symbols, merges = ["<|startoftext|>", "<|endoftext|>"], []
    for word in ("photo", "of", "a", "id", "person"):
        parts = [*word[:-1], f"{word[-1]}</w>"]
        symbols += parts
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            symbols.append(parts[0])
    names = {name: number for number, name in enumerate(dict.fromkeys(symbols))}
    pairs = list(dict.fromkeys(merges))
    return transformers.CLIPTokenizer(vocab=names, merges=pairs, model_max_length=12)


def unet() -> "diffusers.UNet2DConditionModel":
    return diffusers.UNet2DConditionModel(
        sample_size=SIZE // 2,
        block_out_channels=(4, 8),
        layers_per_block=1,
        norm_num_groups=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    )


def encoder(tokens: int) -> "transformers.CLIPTextModel":
    config = transformers.CLIPTextConfig(
        vocab_size=tokens,
        hidden_size=WIDTH,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=12,
    )
    return transformers.CLIPTextModel(config)


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    """A tiny Stable Diffusion, an Arc2Face beside it and embeddings, as folders and a file."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    words = tokenizer()
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        norm_num_groups=2,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae,
        text_encoder=encoder(len(words)),
        tokenizer=words,
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(root / "tiny-diffusion")
    unet().save_pretrained(root / "tiny-arc2face/arc2face")
    encoder(len(words)).save_pretrained(root / "tiny-arc2face/encoder")
    rows = np.random.default_rng(0).standard_normal((40, 512)) + 2 * np.eye(40, 512)
    np.save(root / "embeddings.npy", rows)
    return {
        "model": str(root / "tiny-diffusion"),
        "arc2face": str(root / "tiny-arc2face"),
        "embeddings": str(root / "embeddings.npy"),
    }


@pytest.fixture(scope="module")
def arc2face(places: dict[str, str]) -> hub.Hub:
    options = {"conditioning": "arc2face", "size": SIZE, "batch": 2, "arguments": STEPS}
    return build_generator("hub", **places, **options)


def test_the_identity_takes_the_place_of_one_word(arc2face: hub.Hub):
    """Against the encoder with a vocabulary in which that word's vector is the embedding."""
    pipeline = arc2face.pipeline
    embedding = hub.draw_embedding(arc2face._known, np.random.default_rng(0))
    found = hub.encode_identity(pipeline, embedding)
    ids = pipeline.tokenizer(
        "photo of a id person", padding="max_length", max_length=12, return_tensors="pt"
    ).input_ids
    words = pipeline.tokenizer.convert_ids_to_tokens(ids[0])
    assert words[1:6] == ["photo</w>", "of</w>", "a</w>", "id</w>", "person</w>"]
    table = pipeline.text_encoder.get_input_embeddings()
    assert not table._forward_hooks
    kept = table.weight[ids[0, 4]].detach().clone()
    with torch.no_grad():
        table.weight[ids[0, 4]] = torch.cat([torch.from_numpy(embedding), torch.zeros(4)])
        expected = pipeline.text_encoder(ids)[0]
        table.weight[ids[0, 4]] = kept
        plain = pipeline.text_encoder(ids)[0]
    assert torch.allclose(found, expected, atol=1e-6)
    assert not torch.allclose(found, plain, atol=1e-2)


def test_arc2faces_own_parts_are_used(arc2face: hub.Hub, places: dict[str, str]):
    saved = transformers.CLIPTextModel.from_pretrained(places["arc2face"], subfolder="encoder")
    weights = arc2face.pipeline.text_encoder.get_input_embeddings().weight
    assert torch.equal(weights, saved.get_input_embeddings().weight)


def test_faces_follow_from_seed_identity_and_index(arc2face: hub.Hub):
    faces = arc2face.faces("h000001", 3, seed=0)
    again = arc2face.faces("h000001", 2, seed=0)
    assert faces[0].image.shape == (SIZE, SIZE, 3)
    assert faces[0].image.dtype == np.uint8
    for one, two in zip(faces, again, strict=False):
        assert np.array_equal(one.image, two.image)
    others = (arc2face.faces("h000002", 1, seed=0), arc2face.faces("h000001", 1, seed=1))
    assert all(not np.array_equal(faces[0].image, other[0].image) for other in others)
    assert not np.array_equal(faces[0].image, faces[1].image)


def test_new_identities_have_the_mean_and_spread_of_the_known():
    rng = np.random.default_rng(0)
    known = np.zeros((500, 512), np.float32)
    known[:, 0] = 10
    known[:, 1:3] = rng.standard_normal((500, 2)) * (1, 0.2)
    known /= np.linalg.norm(known, axis=1, keepdims=True)
    drawn = np.stack([hub.draw_embedding(known, face_rng(0, f"h{n}", -1)) for n in range(400)])
    assert np.linalg.norm(drawn, axis=1) == pytest.approx(1, abs=1e-5)
    assert drawn[:, 1].std() == pytest.approx(known[:, 1].std(), rel=0.15)
    assert drawn[:, 2].std() == pytest.approx(known[:, 2].std(), rel=0.15)
    assert not drawn[:, 3:].any()


def test_the_chain_names_arc2face_and_binds_every_file(arc2face: hub.Hub, places: dict[str, str]):
    model, arc, rows = arc2face.licences
    assert (model["licence"], model["real_faces"]) == ("unknown", "unknown")
    assert (arc["commercial"], arc["real_faces"]) == ("no", "yes")
    assert rows["sha256"] == sha256_of(Path(places["embeddings"]))
    folder = Path(places["arc2face"])
    files = [
        folder / "arc2face/diffusion_pytorch_model.safetensors",
        folder / "encoder/model.safetensors",
    ]
    assert arc["sha256"] == sha256_of(*files, root=folder)
    with pytest.raises(FoundryError, match=r"forbids .*Arc2Face"):
        enforce("no-real-faces", arc2face.licences)


@pytest.mark.parametrize("text", [None, "a photo"])
def test_a_pipeline_without_identities_holds_them_by_their_noise(
    places: dict[str, str], tmp_path: Path, text: str | None
):
    model = places["model"]
    if text is None:
        model = str(tmp_path / "unconditional")
        network = diffusers.UNet2DModel(
            sample_size=SIZE,
            block_out_channels=(4, 8),
            layers_per_block=1,
            norm_num_groups=2,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
        diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(model)
        with pytest.raises(FoundryError, match="DDPMPipeline takes no latents"):
            build_generator("hub", model=model, size=SIZE).faces("h000000", 1, 0)
        return
    options = {"model": model, "prompt": text, "size": SIZE, "arguments": STEPS}
    still = build_generator("hub", variation=0.0, **options).faces("h000000", 2, 0)
    assert np.array_equal(still[0].image, still[1].image)
    moved = build_generator("hub", variation=0.4, **options).faces("h000000", 2, 0)
    assert not np.array_equal(moved[0].image, moved[1].image)


def test_a_step_keeps_the_distribution_and_its_angle():
    base = np.random.default_rng(0).standard_normal((4, 64, 64)).astype(np.float32)
    step = hub.step_away(base, 0.5, np.random.default_rng(1))
    assert step.std() == pytest.approx(1, abs=0.03)
    cosine = np.sum(base * step) / np.linalg.norm(base) / np.linalg.norm(step)
    assert cosine == pytest.approx(np.cos(np.pi / 4), abs=0.02)


def test_the_stage_writes_marked_images_with_their_chain(
    places: dict[str, str], tmp_path: Path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    options = {"name": "hub", "model": places["model"], "prompt": "a photo", "size": SIZE}
    options |= {"arguments": STEPS, "licence": "openrail", "real_faces": "yes"}
    table = synthesize(options, 2, 1, 1, 0, Path("data/synthesize"), 1)
    assert table["generator"].to_pylist() == ["hub", "hub"]
    (entry,) = manifest.licences(table)
    assert (entry["licence"], entry["real_faces"]) == ("openrail", "yes")
    data = next(Path("data/synthesize/shards").glob("*.tar")).read_bytes()
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data


def refusal(**options: object) -> str:
    with pytest.raises(FoundryError) as caught:
        build_generator("hub", **options).faces("h000000", 1, 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_is_one_clear_line(places: dict[str, str], tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "nobody/nothing: no such folder, and the hub" in refusal(model="nobody/nothing")
    partial = places | {"conditioning": "arc2face"}
    assert "generator.embeddings: conditioning" in refusal(**(partial | {"embeddings": None}))
    assert "the hub does not give it" in refusal(**(partial | {"arc2face": "nobody/nothing"}))
    assert "not one of arc2face, latent" in refusal(model=places["model"], conditioning="lora")
    (tmp_path / "empty").mkdir()
    assert "no pipeline that can be loaded" in refusal(model=str(tmp_path / "empty"))
    assert "not Arc2Face, which has" in refusal(**(partial | {"arc2face": str(tmp_path / "empty")}))
    np.save(tmp_path / "short.npy", np.ones((3, 128)))
    short = str(tmp_path / "short.npy")
    assert "(3, 128) is not (N, 512)" in refusal(**(partial | {"embeddings": short}))


def test_without_the_extra_the_line_says_what_to_install(places: dict[str, str], monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "diffusers", None)
    assert "pip install 'facefoundry[hub]'" in refusal(model=places["model"])


@pytest.mark.parametrize("form", ["pipeline", "pickle"])
def test_no_code_of_a_repository_is_run(
    form: str, places: dict[str, str], tmp_path: Path, monkeypatch
):
    mark = tmp_path / "it-ran"
    folder = tmp_path / "evil"
    folder.mkdir()
    if form == "pipeline":
        (folder / "own.py").write_text(f"open({str(mark)!r}, 'w')\nclass Own: pass\n")
        index = {"_class_name": ["own", "Own"], "_diffusers_version": "0.42.1"}
        (folder / "model_index.json").write_text(json.dumps(index))
        refusal(model=str(folder))
    else:
        encoder_of = Path(places["arc2face"]) / "encoder"
        (folder / "encoder").mkdir()
        (folder / "arc2face").symlink_to(Path(places["arc2face"]) / "arc2face")
        (folder / "encoder/config.json").write_bytes((encoder_of / "config.json").read_bytes())
        torch.save({"weight": Bomb(mark)}, folder / "encoder/pytorch_model.bin")
        refusal(**(places | {"conditioning": "arc2face", "arc2face": str(folder)}))
    assert not mark.exists()


class Bomb:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.mkdir, (self.mark,)


def test_the_command_writes_embeddings_of_a_dataset(tmp_path: Path, monkeypatch):
    """By a network whose embedding is the mean colour of the crop."""
    from onnx import TensorProto, helper, save

    from facefoundry.images import encode_jpeg

    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["out"]),
    ]
    ends = [("input", ["N", 3, 112, 112]), ("out", ["N", 3])]
    one, two = (helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in ends)
    graph = helper.make_graph(nodes, "mean", [one], [two])
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=10), tmp_path / "mean.onnx")
    monkeypatch.chdir(tmp_path)
    for name, colour in (("ann", (255, 0, 127)), ("bob", (0, 255, 127))):
        image = np.broadcast_to(np.array(colour, np.uint8), (112, 112, 3))
        (tmp_path / "own" / name).mkdir(parents=True)
        (tmp_path / "own" / name / "0.jpg").write_bytes(encode_jpeg(np.ascontiguousarray(image)))
    synthesize({"name": "import", "root": "own"}, 9, 9, 2, 0, Path("data/align"), 1)
    done = CliRunner().invoke(build_app(), ["embeddings", "found.npy", "--model", "mean.onnx"])
    assert done.output.strip().endswith("2 embeddings of 3 numbers in found.npy"), done.output
    found = np.load("found.npy")
    ends = {tuple(np.sign(row).astype(int)) for row in found.round(1)}
    assert ends == {(1, -1, 0), (-1, 1, 0)}
