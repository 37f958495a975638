"""Serve a model and a gallery over HTTP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from facefoundry.cli.faces import (
    BACKEND,
    GALLERY,
    KEY,
    MODEL,
    BackendOption,
    GalleryOption,
    KeepOption,
    KeyOption,
    ModelOption,
)


def serve(
    model: ModelOption = MODEL,
    gallery: GalleryOption = GALLERY,
    key_file: KeyOption = KEY,
    backend: BackendOption = BACKEND,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8080,
    threads: Annotated[int, typer.Option(min=1, help="of the model")] = 2,
    api_keys: Annotated[
        Path | None, typer.Option(help="digests of the API keys; default: GALLERY.keys")
    ] = None,
    no_keys: Annotated[bool, typer.Option("--no-keys", help="loopback only: ask no key")] = False,
    scores: Annotated[bool, typer.Option("--scores", help="answer with similarities")] = False,
    rate: Annotated[float, typer.Option(min=0.1, help="requests per second of a key")] = 50.0,
    in_flight: Annotated[int, typer.Option(min=1, help="requests at once")] = 32,
    body_mb: Annotated[float, typer.Option(min=0.01, help="largest body")] = 10.0,
    megapixels: Annotated[float, typer.Option(min=0.01, help="largest image")] = 16.0,
    keep_photos: KeepOption = False,
    max_batch: Annotated[int, typer.Option(min=1, help="faces embedded together")] = 16,
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain, PEM")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="its private key, PEM")] = None,
) -> None:
    """REST and a web page: enrol, verify, identify. The API key is printed at the first start."""
    import uvicorn

    from facefoundry.errors import FoundryError
    from facefoundry.inference import Recognizer
    from facefoundry.service.app import Settings, create_app
    from facefoundry.service.auth import open_keys
    from facefoundry.service.limits import Limits

    if no_keys and host not in ("127.0.0.1", "::1", "localhost"):
        raise FoundryError(f"--no-keys: only on the loopback, not on {host}; leave it out")
    if (tls_cert is None) != (tls_key is None):
        raise FoundryError("TLS needs both --tls-cert and --tls-key")
    recognizer = Recognizer(
        model,
        gallery,
        backend=backend,
        threads=threads,
        key_file=key_file,
        keep_photos=keep_photos,
    )
    keys, new = (None, None)
    if not no_keys:
        keys, new = open_keys(api_keys or gallery.with_name(gallery.name + ".keys"))
    if new:
        typer.echo(f"API key, shown only now: {new}")
    limits = Limits(rate, in_flight, int(body_mb * 1e6), int(megapixels * 1e6))
    app = create_app(recognizer, Settings(keys, limits, scores, max_batch))
    uvicorn.run(
        app,
        host=host,
        port=port,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        access_log=False,  # paths hold names
        server_header=False,
        timeout_graceful_shutdown=10,
    )


def register(
    source: Annotated[str, typer.Argument(help="an .onnx file or a model directory")] = MODEL,
    name: Annotated[str, typer.Option(help="of the registered model")] = "facefoundry",
    alias: Annotated[str, typer.Option(help="that the new version gets")] = "champion",
) -> None:
    """Put the model into MLflow's registry as a pyfunc (models from code, no pickle)."""
    from facefoundry import registry

    typer.echo(f"{name}: version {registry.register(source, name, alias)} is {alias} now")


COMMANDS: list[Callable[..., Any]] = [serve, register]
