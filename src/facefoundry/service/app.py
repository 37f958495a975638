"""The REST interface and the page, over one recognizer with its gallery."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, File, Form, Query, Request, Response, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartParser

from facefoundry import __version__
from facefoundry.alignment import Detection, warp
from facefoundry.errors import FoundryError
from facefoundry.faces import find_face
from facefoundry.gallery import UnknownIdentityError
from facefoundry.gallery.store import StorageError
from facefoundry.images import Image, TooManyPixelsError, decode_image
from facefoundry.inference import Recognizer
from facefoundry.service import schemas
from facefoundry.service.batching import Batcher
from facefoundry.service.limits import Guard, Limits, SafeHeaders
from facefoundry.service.metrics import Metrics, Timing
from facefoundry.thresholds import one_in, supported

WEB = Path(__file__).parent / "web"
MAX_PHOTOS = 20
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem} for status in (400, 401, 404, 408, 413, 422, 429, 503)
}
Fmr = Annotated[
    float | None,
    Query(gt=0, lt=1, description="target false-match rate, one of the model's; see /v1/model"),
]
Photo = Annotated[UploadFile, File(description="JPEG, PNG, WebP, BMP or TIFF with one face")]


@dataclass(frozen=True)
class Settings:
    """keys: digests of the API keys, or None for no keys. scores: answer with similarities."""

    keys: list[str] | None
    limits: Limits = field(default_factory=Limits)
    scores: bool = False
    max_batch: int = 16


class Service:
    """What the routes share."""

    def __init__(self, recognizer: Recognizer, settings: Settings) -> None:
        self.recognizer, self.settings, self.metrics = recognizer, settings, Metrics()
        # as many as cores: more would only take turns, each with a decoded photo in memory
        self.threads = ThreadPoolExecutor(os.cpu_count(), "faces")
        self.batcher = Batcher(
            recognizer.embed_crops, settings.max_batch, self.metrics.batch.observe
        )

    async def file(self, upload: UploadFile) -> bytes:
        await upload.seek(0)
        return await upload.read()

    async def face(self, upload: UploadFile, name: str) -> tuple[Image, Detection]:
        """The aligned crop and where it was. Raises FoundryError for a bad photo."""
        data = await self.file(upload)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self.threads, self._face, data, name)

    def _face(self, data: bytes, name: str) -> tuple[Image, Detection]:
        image = decode_image(data, name, self.settings.limits.pixels)
        found = find_face(image, name)
        return warp(image, found.landmarks), found

    def scores(self, similarity: float | None, threshold: float) -> schemas.Scores | None:
        if not self.settings.scores:
            return None
        return schemas.Scores(similarity=similarity, threshold=threshold)


def create_app(recognizer: Recognizer, settings: Settings) -> FastAPI:
    """The ASGI application. Raises FoundryError for a recognizer without a gallery, or a model
    without thresholds."""
    recognizer.gallery.count()
    recognizer.operating_point()
    service = Service(recognizer, settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.stop()
        service.threads.shutdown()

    app = FastAPI(
        title="facefoundry",
        version=__version__,
        lifespan=lifespan,
        responses=PROBLEMS,
        docs_url=None,
        redoc_url=None,
    )
    # uploads stay in memory: a photo is never written to a temporary file
    MultiPartParser.spool_max_size = settings.limits.body_bytes
    add_routes(app, service)
    add_errors(app)
    app.mount("/", StaticFiles(directory=WEB, html=True), "page")
    guarded = ("/v1/", "/metrics")
    app.add_middleware(Guard, limits=settings.limits, keys=settings.keys, guarded=guarded)
    app.add_middleware(Timing, metrics=service.metrics)
    app.add_middleware(SafeHeaders)
    return app


def add_routes(app: FastAPI, service: Service) -> None:
    keyed = [Security(HTTPBearer(auto_error=False))]  # for the documentation: Guard is the check
    recognizer, gallery = service.recognizer, service.recognizer.gallery

    @app.get("/health")
    async def health() -> schemas.Health:
        return schemas.Health(status="ok", model=recognizer.model.digest[:12])

    @app.get("/metrics", dependencies=keyed)
    def metrics() -> Response:
        text = service.metrics.text(gallery.count()[0])
        return Response(text, media_type="text/plain; version=0.0.4")

    @app.get("/v1/model", dependencies=keyed)
    def model() -> schemas.ModelInfo:
        rates = supported(recognizer.model.thresholds)
        return schemas.ModelInfo(
            digest=recognizer.model.digest,
            embedding_size=recognizer.model.size,
            rates=[schemas.Rate(fmr=fmr, label=one_in(fmr)) for fmr in rates],
            default_fmr=recognizer.operating_point()[0],
            keeps_photos=recognizer.keep_photos,
        )

    @app.post("/v1/verify", dependencies=keyed)
    async def verify(a: Photo, b: Photo, fmr: Fmr = None) -> schemas.VerifyAnswer:
        """Are the two photos of the same identity?"""
        crops = [(await service.face(photo, name))[0] for photo, name in ((a, "a"), (b, "b"))]
        first, second = await service.batcher.embed(crops)
        found = recognizer.verify_embeddings(first, second, fmr)
        service.metrics.decided("verify", found.same)
        scores = service.scores(found.similarity, found.threshold)
        return schemas.VerifyAnswer(same=found.same, fmr=found.fmr, scores=scores)

    @app.post("/v1/identify", dependencies=keyed)
    async def identify(photo: Photo, fmr: Fmr = None) -> schemas.IdentifyAnswer:
        """Who of the gallery is it, or nobody?"""
        crop, face = await service.face(photo, "photo")
        (probe,) = await service.batcher.embed([crop])
        found = await run_in_threadpool(recognizer.identify_embedding, probe, 1, fmr)
        service.metrics.decided("identify", found.name is not None)
        best = found.candidates[0].similarity if found.candidates else None
        return schemas.IdentifyAnswer(
            name=found.name,
            fmr=found.fmr,
            fpir=found.fpir,
            box=schemas.Box(**dict(zip(("x", "y", "width", "height"), face.box, strict=True))),
            scores=service.scores(best, found.threshold),
        )

    @app.post("/v1/enroll", dependencies=keyed)
    async def enroll(
        name: Annotated[str, Form(min_length=1, max_length=200)],
        photos: Annotated[list[UploadFile], File(min_length=1, max_length=MAX_PHOTOS)],
        replace: Annotated[bool, Form(description="in place of what it has")] = False,
    ) -> schemas.EnrollAnswer:
        """Add the photos to an identity, new or known; `/v1/model` says whether they are kept."""
        numbered = enumerate(photos, 1)
        crops = [(await service.face(photo, f"photo {n}"))[0] for n, photo in numbered]
        embeddings = np.stack(await service.batcher.embed(crops))
        files = [await service.file(photo) for photo in photos] if recognizer.keep_photos else []
        templates = await run_in_threadpool(gallery.enroll, name, embeddings, replace, files)
        return schemas.EnrollAnswer(name=name, templates=templates)

    @app.get("/v1/identities", dependencies=keyed)
    def identities(
        after: str = "", limit: Annotated[int, Query(ge=1, le=1000)] = 100
    ) -> schemas.Identities:
        rows = gallery.identities(limit, after)
        listed = [schemas.Identity(name=n, templates=t, enrolled=e) for n, t, e in rows]
        return schemas.Identities(count=gallery.count()[0], identities=listed)

    @app.delete("/v1/identities/{name}", dependencies=keyed, status_code=204)
    def delete(name: str) -> None:
        """Remove an identity from the gallery's file, its log and the index."""
        gallery.delete(name)


def add_errors(app: FastAPI) -> None:
    """One shape for every error, without an echo of what was sent."""

    @app.exception_handler(FoundryError)
    async def refuse(request: Request, error: FoundryError) -> JSONResponse:
        kinds = {
            TooManyPixelsError: (413, "pixels"),
            UnknownIdentityError: (404, "unknown"),
            StorageError: (503, "storage"),
        }
        status, code = kinds.get(type(error), (422, getattr(error, "code", "input")))
        return JSONResponse({"detail": str(error), "code": code}, status)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return JSONResponse({"detail": f"{where}: {first['msg']}", "code": "input"}, 422)
