"""Enrol, verify, identify; watch a camera; serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from facefoundry.inference import Recognizer

ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        envvar="FACEFOUNDRY_MODEL",
        help="an .onnx file, a model directory, or a name under pretrained/",
    ),
]
GalleryOption = Annotated[
    Path,
    typer.Option("--gallery", "-g", envvar="FACEFOUNDRY_GALLERY", help="the gallery's file"),
]
KeyOption = Annotated[
    Path,
    typer.Option(
        envvar="FACEFOUNDRY_GALLERY_KEY_FILE",
        help="the gallery's key, made if absent; FACEFOUNDRY_GALLERY_KEY holds it instead",
    ),
]
BackendOption = Annotated[str, typer.Option(help="onnxruntime, openvino, tensorrt or opencv")]
KeepOption = Annotated[
    bool, typer.Option("--keep-photos", help="store the photos in the gallery, too, encrypted")
]
FmrOption = Annotated[
    str | None, typer.Option(help="target false-match rate: 1e-4 or '1 in 10,000'")
]
SourceOption = Annotated[str, typer.Option(help="the camera's number, or a video file")]
PortOption = Annotated[int, typer.Option(help="of the live picture on this machine; 0: any")]

MODEL = "models/quantize"
GALLERY = Path("gallery.db")
KEY = Path("~/.config/facefoundry/gallery.key")
BACKEND = "onnxruntime"


def _open(
    model: str, gallery: Path | None, key_file: Path, backend: str, keep_photos: bool = False
) -> Recognizer:
    from facefoundry.inference import Recognizer

    return Recognizer(model, gallery, backend=backend, key_file=key_file, keep_photos=keep_photos)


def _open_known(model: str, gallery: Path, key_file: Path, backend: str) -> Recognizer:
    """For commands that make no sense with an empty gallery, such as a mistyped name gives."""
    from facefoundry.errors import FoundryError

    if not gallery.exists():
        raise FoundryError(f"{gallery}: no gallery there; enrol somebody, or give its file")
    return _open(model, gallery, key_file, backend)


def _rate(text: str | None) -> float | None:
    from facefoundry.thresholds import parse_fmr

    return None if text is None else parse_fmr(text)


def enroll(
    name: str,
    photos: list[Path],
    replace: Annotated[bool, typer.Option(help="in place of what the identity has")] = False,
    keep_photos: KeepOption = False,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
    backend: BackendOption = BACKEND,
) -> None:
    """Add photos, of one face each, to the identity NAME; unless asked, they are not kept."""
    opened = _open(model, gallery, key_file, backend, keep_photos)
    templates = opened.enroll(name, photos, replace)
    typer.echo(f"{name}: {templates} templates in {gallery}")


def verify(
    a: Path,
    b: Path,
    fmr: FmrOption = None,
    model: ModelOption = MODEL,
    backend: BackendOption = BACKEND,
) -> None:
    """Are the faces of the photos A and B the same identity? Exit status 0: yes, 2: no."""
    from facefoundry.thresholds import one_in

    found = _open(model, None, KEY, backend).verify(a, b, _rate(fmr))
    typer.echo(
        f"{'same' if found.same else 'different'}: similarity {found.similarity:.3f}, threshold"
        f" {found.threshold:.3f} for false matches of {one_in(found.fmr)}"
    )
    raise typer.Exit(0 if found.same else 2)


def identify(
    photo: Path,
    k: Annotated[int, typer.Option("--candidates", "-k", min=1, help="how many to list")] = 1,
    fmr: FmrOption = None,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
    backend: BackendOption = BACKEND,
) -> None:
    """Who of the gallery is on PHOTO? Exit status 0: somebody, 2: unknown."""
    from facefoundry.thresholds import one_in

    found = _open_known(model, gallery, key_file, backend).identify(photo, k, _rate(fmr))
    typer.echo(found.name or "unknown")
    for candidate in found.candidates:
        typer.echo(f"  {candidate.similarity:.3f}  {candidate.name}")
    typer.echo(
        f"threshold {found.threshold:.3f} for false matches of {one_in(found.fmr)} per comparison;"
        f" a stranger gets some name with {100 * found.fpir:.2g} %",
        err=True,
    )
    raise typer.Exit(0 if found.name else 2)


def identities(
    model: ModelOption = MODEL, gallery: GalleryOption = GALLERY, key_file: KeyOption = KEY
) -> None:
    """List the gallery: name, number of templates, time of enrolment (UTC)."""
    opened, after = _open_known(model, gallery, key_file, BACKEND).gallery, ""
    while rows := opened.identities(after=after):
        for name, templates, enrolled in rows:
            typer.echo(f"{name}\t{templates}\t{enrolled}")
        after = rows[-1][0]


def photos(
    name: str,
    folder: Path,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
) -> None:
    """Write the photos that were kept of the identity NAME to FOLDER, as they were given."""
    from facefoundry.images import file_suffix

    kept = _open_known(model, gallery, key_file, BACKEND).gallery.photos(name)
    folder.mkdir(parents=True, exist_ok=True)
    for number, photo in enumerate(kept, 1):
        (folder / f"{number:03}{file_suffix(photo)}").write_bytes(photo)
    typer.echo(f"{name}: {len(kept)} photos were kept; they are in {folder}")


def forget(
    name: str,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
) -> None:
    """Delete an identity and its photos from the gallery's file, its log and the index."""
    _open_known(model, gallery, key_file, BACKEND).gallery.delete(name)
    typer.echo(f"{name}: deleted from {gallery}")


def rotate_key(
    new_key_file: Path,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
) -> None:
    """Seal the gallery anew with the key in NEW_KEY_FILE, which is made if absent."""
    from facefoundry.gallery.crypto import new_key, parse_key, write_key

    opened = _open_known(model, gallery, key_file, BACKEND).gallery
    if not new_key_file.exists():
        write_key(new_key_file, new_key())
    opened.rotate(parse_key(new_key_file.read_text("utf-8"), str(new_key_file)))
    typer.echo(f"{gallery}: opens only with {new_key_file} now; destroy the old key")


def watch(
    source: SourceOption = "0",
    save: Annotated[Path | None, typer.Option(help="also write what is shown, .avi")] = None,
    port: PortOption = 0,
    fmr: FmrOption = None,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
    backend: BackendOption = BACKEND,
) -> None:
    """Name the faces of a camera or a video, live, in a browser and on the terminal."""
    from facefoundry import live

    recognizer = _open_known(model, gallery, key_file, backend)
    frames = live.read_frames(source)
    with live.Screen(port, save, typer.echo) as show:
        frame, rate, last = 0, 0.0, list[str | None]()
        for frame, (names, rate) in enumerate(live.watch(recognizer, frames, show, _rate(fmr)), 1):
            if names != last:
                last = names
                seen = ", ".join(name or "unknown" for name in names) or "nobody"
                typer.echo(f"frame {frame}: {seen} ({rate:.1f} FPS)")
        typer.echo(f"{frame} frames, {rate:.1f} FPS")


def capture(
    name: str,
    source: SourceOption = "0",
    port: PortOption = 0,
    replace: Annotated[bool, typer.Option(help="in place of what the identity has")] = False,
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
    backend: BackendOption = BACKEND,
) -> None:
    """Enrol the identity NAME from a camera: straight, to the left, to the right."""
    from facefoundry import live
    from facefoundry.gallery import check_name

    check_name(name)
    recognizer = _open(model, gallery, key_file, backend)
    with live.Screen(port, None, typer.echo) as show:
        taken = live.capture(live.read_frames(source), show, typer.echo)
    typer.echo(f"{name}: {recognizer.enroll(name, taken, replace)} templates in {gallery}")


COMMANDS: list[Callable[..., Any]] = [
    enroll,
    verify,
    identify,
    identities,
    photos,
    forget,
    rotate_key,
    watch,
    capture,
]
