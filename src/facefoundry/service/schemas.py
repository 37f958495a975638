"""What the service answers. Scores are there only where the service was started with them."""

from __future__ import annotations

from pydantic import BaseModel


class Problem(BaseModel):
    detail: str
    code: str


class Box(BaseModel):
    """The face in pixels of the image: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float


class Scores(BaseModel):
    """Cosine similarity and the threshold that it was held against, -1..1."""

    similarity: float | None
    threshold: float


class VerifyAnswer(BaseModel):
    same: bool
    fmr: float
    scores: Scores | None = None


class IdentifyAnswer(BaseModel):
    """`name` is null for an unknown face. `fpir`: the chance that a stranger gets some name."""

    name: str | None
    fmr: float
    fpir: float
    box: Box
    scores: Scores | None = None


class EnrollAnswer(BaseModel):
    name: str
    templates: int


class Identity(BaseModel):
    name: str
    templates: int
    enrolled: str


class Identities(BaseModel):
    """One page by name; the next one is `?after=` the last name."""

    count: int
    identities: list[Identity]


class Rate(BaseModel):
    fmr: float
    label: str


class ModelInfo(BaseModel):
    """`rates`: the false-match rates that have a threshold, strictest first. `keeps_photos`: does
    an enrolment store its photos?"""

    digest: str
    embedding_size: int
    rates: list[Rate]
    default_fmr: float
    keeps_photos: bool


class Health(BaseModel):
    status: str
    model: str
