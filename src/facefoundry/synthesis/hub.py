"""Faces of any diffusers pipeline, by hub id or local folder; Arc2Face holds the identity.

diffusers and transformers are an extra (`pip install 'facefoundry[hub]'`) and are imported when a
generator is built. No code of a repository is run, and weights that are pickles are read by the
restricted readers of those libraries alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facefoundry.errors import FoundryError
from facefoundry.licences import Licence
from facefoundry.synthesis import Face, face_rng, mixed_noise

Array = NDArray[np.float32]

CONDITIONINGS = ("arc2face", "latent")
WEIGHT_SUFFIXES = (".safetensors", ".bin")
PROMPT = "photo of a id person"  # what Arc2Face was trained with; the embedding takes the "id"
ID = "id"
ARC2FACE = Licence(
    name="Arc2Face",
    licence="MIT for the code; its weights are for research",
    commercial="no",
    real_faces="yes",
    source="Paraperas Papantoniou et al., ECCV 2024, arXiv:2403.11641; trained on WebFace42M",
)


class Hub:
    """model: hub id or folder of a pipeline in diffusers' layout. size: side of the images.

    conditioning: "arc2face" puts an ArcFace embedding, the identity, where the text has a word.
        arc2face: hub id or folder with the UNet in `arc2face/` and its text encoder in `encoder/`.
        embeddings: a `.npy` of (N, 512) of Arc2Face's own recogniser; new identities are drawn from
        the Gaussian of these rows, so that none of them comes back as it was.
    conditioning: "latent" takes any pipeline; `prompt` is its text, if it takes one, an identity is
        a starting noise, and each image moves by `variation` (0..1) of a circle's quarter from it.
    arguments: passed to the pipeline at each call. batch: images at once.
    licence, commercial, real_faces: what the user states of `model` and of `embeddings`.
    Raises FoundryError, one line, where a library, the network or a file is missing.
    """

    name = "hub"

    def __init__(
        self,
        model: str,
        conditioning: str = "latent",
        arc2face: str | None = None,
        embeddings: str | None = None,
        prompt: str | None = None,
        variation: float = 0.3,
        size: int = 512,
        batch: int = 4,
        arguments: Mapping[str, Any] | None = None,
        licence: str = "unknown",
        commercial: str = "unknown",
        real_faces: str = "unknown",
    ) -> None:
        if conditioning not in CONDITIONINGS:
            raise FoundryError(
                f"generator.conditioning: '{conditioning}' is not one of {', '.join(CONDITIONINGS)}"
            )
        self.by_identity = conditioning == "arc2face"
        self.prompt, self.variation = prompt, variation
        self.size, self.batch, self.arguments = size, batch, dict(arguments or {})
        self._stated = (licence, commercial, real_faces)
        self.sources = {"model": pipeline_folder(model)}
        if self.by_identity:
            self.sources["arc2face"] = hub_folder(_needed("arc2face", arc2face), ARC2FACE_FILES)
            self.sources["embeddings"] = Path(_needed("embeddings", embeddings))
            self._known = read_embeddings(self.sources["embeddings"])

    @cached_property
    def licences(self) -> list[dict[str, str]]:
        """Each bound to its weights, which are read once for it."""
        works = {
            role: ARC2FACE
            if role == "arc2face"
            else Licence(f"{role} {path.name}", *self._stated, source=str(path))
            for role, path in self.sources.items()
        }
        return [
            works[role].of(*_weights(path), root=path).entry()
            for role, path in self.sources.items()
        ]

    @cached_property
    def pipeline(self) -> Any:
        """The pipeline on the GPU where there is one, there in half precision."""
        from diffusers import DiffusionPipeline

        cuda = torch.cuda.is_available()
        options: dict[str, Any] = {
            "torch_dtype": torch.float16 if cuda else torch.float32,
            "low_cpu_mem_usage": False,  # which would need one more library
        }
        parts = _arc2face(self.sources["arc2face"], options) if self.by_identity else {}
        folder = self.sources["model"]
        with one_line(f"{folder}: no pipeline that can be loaded"):
            pipeline: Any = DiffusionPipeline.from_pretrained(
                folder, local_files_only=True, **parts, **options
            )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline.to("cuda" if cuda else "cpu")

    def identities(self, count: int, seed: int) -> list[str]:
        return [f"h{index:06d}" for index in range(count)]

    def faces(self, identity: str, count: int, seed: int) -> list[Face]:
        own = face_rng(seed, identity, -1)
        rngs = [face_rng(seed, identity, index) for index in range(count)]
        shape = latent_shape(self.pipeline, self.size)
        given: dict[str, Any]
        if self.by_identity:
            embedding = draw_embedding(self._known, own)
            noises = [rng.standard_normal(shape, np.float32) for rng in rngs]
            given = {"prompt_embeds": encode_identity(self.pipeline, embedding)}
        else:
            base = own.standard_normal(shape, np.float32)
            noises = [step_away(base, self.variation, rng) for rng in rngs]
            given = {} if self.prompt is None else {"prompt": self.prompt}
        starts = range(0, count, self.batch)
        batches = [slice(start, start + self.batch) for start in starts]
        return [
            Face(image)
            for part in batches
            for image in self._images(given, noises[part], rngs[part])
        ]

    def _images(
        self,
        given: Mapping[str, Any],
        noises: Sequence[Array],
        rngs: Sequence[np.random.Generator],
    ) -> list[NDArray[np.uint8]]:
        pipeline = self.pipeline
        latents = torch.from_numpy(np.stack(noises)).to(pipeline.device, pipeline.dtype)
        # for samplers that draw noise at each step
        seeds = [int(rng.integers(2**63)) for rng in rngs]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        if given:
            given = {**given, "num_images_per_prompt": len(noises)}
        images = pipeline(
            **given, latents=latents, generator=generators, output_type="np", **self.arguments
        ).images
        return list(np.clip(np.asarray(images) * 255 + 0.5, 0, 255).astype(np.uint8))


ARC2FACE_FILES = ["arc2face/*", "encoder/*"]


def _needed(key: str, value: str | None) -> str:
    if not value:
        raise FoundryError(
            f"generator.{key}: conditioning 'arc2face' needs it; docs/sources.md says where from"
        )
    return value


def hub_folder(name: str, patterns: Sequence[str]) -> Path:
    """`name` if it is a folder, else the files of that hub repository, downloaded or cached."""
    _check_libraries()
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    with one_line(f"{name}: no such folder, and the hub does not give it"):
        return Path(snapshot_download(name, allow_patterns=list(patterns)))


def pipeline_folder(name: str) -> Path:
    """As `hub_folder`, with what a pipeline needs: of several formats of its weights, one."""
    _check_libraries()
    if Path(name).is_dir():
        return Path(name)
    from diffusers import DiffusionPipeline

    with one_line(f"{name}: no such folder, and the hub does not give it"):
        return Path(DiffusionPipeline.download(name))


def _check_libraries() -> None:
    try:
        import diffusers  # noqa: F401
        import transformers  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise FoundryError(
            f"generator=hub needs diffusers and transformers ({error});"
            " pip install 'facefoundry[hub]'"
        ) from error


@contextmanager
def one_line(what: str) -> Iterator[None]:
    """Anything that these libraries raise, as a FoundryError of one line."""
    try:
        yield
    except Exception as error:  # a dozen kinds: network, HTTP, JSON, weights, unsafe pickles
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FoundryError(
            f"{what} ({reason}); give a folder in diffusers' layout, or a hub id and a network"
        ) from error


def _weights(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(p for p in path.rglob("*") if p.suffix in WEIGHT_SUFFIXES)


def _arc2face(folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Arc2Face's parts, which take the place of the pipeline's own."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    with one_line(f"{folder}: not Arc2Face, which has a UNet in arc2face/ and CLIP in encoder/"):
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="arc2face", **options)
        encoder = CLIPTextModel.from_pretrained(folder, subfolder="encoder", **options)
    # A filter that answers with black images would be one more work of its own in the chain.
    return {"unet": unet, "text_encoder": encoder, "safety_checker": None}


def read_embeddings(path: Path) -> Array:
    """(N, 512), rows of unit length. Raises FoundryError naming the file."""
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise FoundryError(f"{path}: no array of embeddings ({error})") from error
    if rows.ndim != 2 or rows.shape[1] != 512 or len(rows) < 2 or not np.isfinite(rows).all():
        raise FoundryError(f"{path}: {rows.shape} is not (N, 512) of finite numbers, N at least 2")
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def draw_embedding(known: Array, rng: np.random.Generator) -> Array:
    """(512,) of unit length, from the Gaussian with the mean and covariance of the rows."""
    mean = known.mean(0)
    weights = rng.standard_normal(len(known), np.float32) / np.sqrt(len(known) - 1)
    drawn = mean + weights @ (known - mean)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


@torch.inference_mode()
def encode_identity(pipeline: Any, embedding: Array) -> Tensor:
    """(1, L, D) prompt embeddings: PROMPT through the text encoder, with the embedding, padded with
    zeros to the width D of a token, in the place of the word "id"."""
    tokenizer, encoder = pipeline.tokenizer, pipeline.text_encoder
    (token,) = tokenizer.encode(ID, add_special_tokens=False)
    length = tokenizer.model_max_length
    ids = tokenizer(PROMPT, padding="max_length", max_length=length, return_tensors="pt").input_ids
    table = encoder.get_input_embeddings()
    padded = torch.zeros(table.embedding_dim)
    padded[: len(embedding)] = torch.from_numpy(embedding)

    def put(module: Any, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == token)[..., None], padded.to(output), output)

    hook = table.register_forward_hook(put)
    try:
        return encoder(ids.to(encoder.device))[0]
    finally:
        hook.remove()


def latent_shape(pipeline: Any, size: int) -> tuple[int, int, int]:
    """(channels, h, w) of the starting noise. Raises FoundryError for a pipeline without one."""
    network = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    accepted = inspect.signature(type(pipeline).__call__).parameters
    if network is None or "latents" not in accepted:
        raise FoundryError(
            f"generator.model: {type(pipeline).__name__} takes no latents, so that no image could"
            " be made again, nor an identity be held"
        )
    side = size // getattr(pipeline, "vae_scale_factor", 1)
    return int(network.config.in_channels), side, side


def step_away(base: Array, variation: float, rng: np.random.Generator) -> Array:
    """Noise at an angle of `variation` right angles from `base`, with the same distribution."""
    other = rng.standard_normal(base.shape, np.float32)
    return mixed_noise(base, other, np.cos(variation * np.pi / 2) ** 2)
