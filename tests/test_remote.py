"""Datasets elsewhere: DVC's remote on a real S3 server, and single images out of remote shards."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest
from conftest import ROOT
from dvc.cli import main as dvc
from moto.server import ThreadedMotoServer
from toy_faces import write_faces

from facefoundry import manifest
from facefoundry.errors import FoundryError
from facefoundry.shards import read_member, read_remote_member

BUCKET = "faces"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC project without git, with a toy dataset."""
    write_faces(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    return tmp_path


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of an S3 server with an empty bucket."""
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
    for name, value in zip(names, ("test", "test", "us-east-1"), strict=True):
        monkeypatch.setenv(name, value)
    server = ThreadedMotoServer(port=0)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    boto3.client("s3").create_bucket(Bucket=BUCKET)
    yield address
    server.stop()


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def documented() -> list[list[str]]:
    """The `dvc` commands of docs/scale.md, in their order."""
    text = (ROOT / "docs/scale.md").read_text()
    blocks = "".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL))
    return [line.split() for line in blocks.splitlines() if line.startswith("dvc ")]


def test_what_was_pushed_to_s3_comes_back_as_it_was(project: Path, s3: str):
    assert dvc(["init", "--no-scm", "--quiet"]) == 0
    assert dvc(["add", "--quiet", "data/align", "data/split"]) == 0
    before = digests(Path("data/align")) | digests(Path("data/split"))
    *commands, pull = documented()
    assert pull[:2] == ["dvc", "pull"]
    for command in commands:
        assert dvc([s3 if "://" in w and "s3:" not in w else w for w in command[1:]]) == 0, command
    for folder in (".dvc/cache", "data/align", "data/split"):
        shutil.rmtree(folder)
    assert dvc(pull[1:]) == 0
    assert digests(Path("data/align")) | digests(Path("data/split")) == before


def test_one_image_out_of_a_bucket(project: Path, s3: str):
    row = manifest.rows(manifest.read(Path("data/split")))[7]
    boto3.client("s3").upload_file(row["shard"], BUCKET, f"copy/{row['shard']}")
    assert read_remote_member(row, f"s3://{BUCKET}/copy") == read_member(row)


class Ranges(BaseHTTPRequestHandler):
    """Serves the files of a folder by range; counts the bytes of all bodies."""

    sent = 0

    def __init__(self, *arguments, folder: Path, ranges: bool) -> None:
        self.folder, self.ranges = folder, ranges
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked and self.ranges:
            body = body[int(asked[1]) : int(asked[2]) + 1]
        self.send_response(206 if asked and self.ranges else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        Ranges.sent += len(body)  # before the reader can have it and look
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def serve(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Start a server of the project's files; its address."""
    monkeypatch.setattr(Ranges, "sent", 0)
    servers = []

    def start(ranges: bool) -> str:
        handler = partial(Ranges, folder=project, ranges=ranges)
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), handler))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_images_over_http_cost_their_own_bytes(serve):
    address = serve(ranges=True)
    rows = manifest.rows(manifest.read(Path("data/split")))[3:36:11]
    assert [read_remote_member(row, address) for row in rows] == [read_member(row) for row in rows]
    assert Ranges.sent == sum(row["size"] for row in rows) < Path(rows[0]["shard"]).stat().st_size


def test_what_a_server_cannot_give_is_said(serve):
    row = manifest.rows(manifest.read(Path("data/split")))[0]
    with pytest.raises(FoundryError, match=r"gone\.tar: shard cannot be read"):
        read_remote_member(row | {"shard": "gone.tar"}, serve(ranges=True))
    with pytest.raises(FoundryError, match="its server know HTTP ranges"):
        read_remote_member(row, serve(ranges=False))
