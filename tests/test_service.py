"""The REST interface: in the process for its answers, as a server of its own for its limits."""

from __future__ import annotations

import asyncio
import ssl
import struct
import subprocess
import tempfile
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import GenerationMode
from test_images import png_header
from toy_service import Server, jpeg, save_photos, toy_recognizer

from facefoundry.cli.service import serve
from facefoundry.errors import FoundryError
from facefoundry.gallery.store import StorageError
from facefoundry.inference import Recognizer
from facefoundry.service.app import Settings, add_errors, create_app
from facefoundry.service.auth import digest, matching, open_keys
from facefoundry.service.batching import Batcher
from facefoundry.service.limits import Limits, RateLimiter

API_KEY = "a key of the tests"
AUTHORIZED = {"Authorization": f"Bearer {API_KEY}"}
GENEROUS = Limits(requests_per_second=1e6)


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    return toy_recognizer(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return save_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def client(recognizer: Recognizer) -> Iterator[TestClient]:
    app = create_app(recognizer, Settings([digest(API_KEY)], GENEROUS))
    with TestClient(app, headers=AUTHORIZED) as client:
        yield client


def upload(*fields: tuple[str, bytes]) -> list[tuple[str, tuple[str, bytes]]]:
    return [(field, ("photo.jpg", data)) for field, data in fields]


def test_verify_answers_with_a_decision(client: TestClient) -> None:
    again = jpeg("Ada", side=280)
    same = client.post("/v1/verify", files=upload(("a", jpeg("Ada")), ("b", again)))
    assert same.json() == {"same": True, "fmr": 1e-4, "scores": None}
    other = client.post("/v1/verify", files=upload(("a", jpeg("Ada")), ("b", jpeg("Bela"))))
    assert other.json()["same"] is False


def test_the_rate_that_is_asked_for_decides(client: TestClient) -> None:
    pair = upload(("a", jpeg("Ada")), ("b", jpeg("Cleo")))
    answers = {
        rate: client.post(f"/v1/verify?fmr={rate}", files=pair) for rate in ("1e-2", "1e-3", "0.5")
    }
    assert answers["1e-2"].json()["same"] and not answers["1e-3"].json()["same"]
    assert answers["0.5"].status_code == 422
    assert "choose from: 1 in 10,000" in answers["0.5"].json()["detail"]


def test_identify_names_the_known_and_nobody_else(client: TestClient) -> None:
    known = client.post("/v1/identify", files=upload(("photo", jpeg("Bela")))).json()
    assert known["name"] == "Bela" and known["scores"] is None
    assert 0 < known["box"]["width"] < 336
    stranger = client.post("/v1/identify", files=upload(("photo", jpeg("Emil")))).json()
    assert stranger["name"] is None


def test_scores_only_where_asked_for_at_the_start(recognizer: Recognizer) -> None:
    app = create_app(recognizer, Settings(None, GENEROUS, scores=True))
    with TestClient(app) as client:
        found = client.post("/v1/identify", files=upload(("photo", jpeg("Bela")))).json()
    assert found["scores"] == {"similarity": pytest.approx(1, abs=1e-5), "threshold": 0.75}


def test_trouble_with_the_disk_is_no_fault_of_the_request() -> None:
    app = FastAPI()
    add_errors(app)

    @app.get("/")
    def full() -> None:
        raise StorageError("gallery.db: database or disk is full")

    answer = TestClient(app).get("/")
    assert (answer.status_code, answer.json()["code"]) == (503, "storage")


def test_enrol_list_delete(client: TestClient, recognizer: Recognizer) -> None:
    photos = upload(("photos", jpeg("Dora")), ("photos", jpeg("Dora", side=280)))
    made = client.post("/v1/enroll", data={"name": "多拉"}, files=photos)
    assert made.json() == {"name": "多拉", "templates": 2}
    listed = client.get("/v1/identities").json()
    assert listed["count"] == 4
    assert {row["name"]: row["templates"] for row in listed["identities"]}["多拉"] == 2
    once = client.post("/v1/enroll", data={"name": "多拉", "replace": "true"}, files=photos[:1])
    assert once.json()["templates"] == 1
    assert (
        client.post("/v1/identify", files=upload(("photo", jpeg("Dora")))).json()["name"] == "多拉"
    )
    assert client.delete("/v1/identities/多拉").status_code == 204
    assert client.post("/v1/identify", files=upload(("photo", jpeg("Dora")))).json()["name"] is None
    gone = client.delete("/v1/identities/多拉")
    assert (gone.status_code, gone.json()["code"]) == (404, "unknown")
    assert recognizer.gallery.count() == (3, 3)


def test_photos_are_kept_only_where_asked_for(recognizer: Recognizer, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    source = recognizer.model.source
    for keep in (False, True):
        own = Recognizer(
            source, tmp_path / f"{keep}.db", key_file=key_file, threads=1, keep_photos=keep
        )
        with TestClient(create_app(own, Settings(None, GENEROUS))) as client:
            assert client.get("/v1/model").json()["keeps_photos"] is keep
            files = upload(("photos", jpeg("Ada")), ("photos", jpeg("Ada", side=280)))
            assert client.post("/v1/enroll", data={"name": "Ada"}, files=files).is_success
        kept = [jpeg("Ada"), jpeg("Ada", side=280)] if keep else []
        assert own.gallery.photos("Ada") == kept


@pytest.mark.parametrize(
    ("photo", "status", "code"),
    [
        ("none", 422, "no_face"),
        ("two", 422, "several_faces"),
        ("small", 422, "small_face"),
        ("text", 422, "input"),
    ],
)
def test_a_bad_photo_changes_nothing(
    client: TestClient, photos: dict[str, Path], photo: str, status: int, code: str
) -> None:
    before = client.get("/v1/identities").json()
    bad = photos[photo].read_bytes()
    files = upload(("photos", jpeg("Dora")), ("photos", bad))
    answer = client.post("/v1/enroll", data={"name": "Dora"}, files=files)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["detail"].startswith("photo 2: ")
    assert client.get("/v1/identities").json() == before


@pytest.mark.parametrize("name", ["../../etc/passwd", "a\\b", "..", " ", ""])
def test_a_bad_name_changes_nothing(client: TestClient, name: str) -> None:
    files = upload(("photos", jpeg("Dora")))
    answer = client.post("/v1/enroll", data={"name": name}, files=files)
    assert answer.status_code == 422 and "name" in answer.json()["detail"]
    assert client.get("/v1/identities").json()["count"] == 3


@pytest.mark.parametrize("path", ["/v1/identities", "/v1/model", "/metrics", "/v1/nothing"])
@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": API_KEY}])
def test_nothing_without_the_key(client: TestClient, path: str, key: dict[str, str]) -> None:
    stranger = TestClient(client.app)
    answer = stranger.get(path, headers=key)
    assert answer.status_code == 401 and "API key" in answer.json()["detail"]
    assert stranger.get("/health").json()["status"] == "ok"


def test_other_origins_are_not_let_in(client: TestClient) -> None:
    answer = client.get("/v1/model", headers={"Origin": "https://elsewhere.example"})
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert "default-src 'self'" in client.get("/").headers["content-security-policy"]


def test_metrics_are_prometheus_and_name_nobody(client: TestClient) -> None:
    client.post("/v1/identify", files=upload(("photo", jpeg("Bela"))))
    client.delete("/v1/identities/Somebody")
    text = client.get("/metrics").text
    families = {family.name for family in text_string_to_metric_families(text)}
    assert {"facefoundry_request_seconds", "facefoundry_decisions"} <= families
    assert "facefoundry_identities 3.0" in text
    assert 'route="/v1/identities/{name}",status="404"' in text
    assert "Somebody" not in text and "Bela" not in text


def test_the_key_is_shown_once_and_kept_as_a_digest(tmp_path: Path) -> None:
    path = tmp_path / "gallery.db.keys"
    digests, key = open_keys(path)
    assert key and key not in path.read_text() and path.stat().st_mode & 0o077 == 0
    assert open_keys(path) == (digests, None)
    assert matching(key, digests) == digests[0] and matching(key + "x", digests) is None
    path.write_text("")
    with pytest.raises(FoundryError, match="no API key"):
        open_keys(path)


def test_the_bucket_fills_at_its_rate() -> None:
    now = [0.0]
    limiter = RateLimiter(2, 4, lambda: now[0])
    assert [limiter.take("a") for _ in range(4)] == [0, 0, 0, 0]
    assert limiter.take("a") == pytest.approx(0.5) and limiter.take("b") == 0
    now[0] = 1.0
    assert [limiter.take("a") > 0 for _ in range(3)] == [False, False, True]


def test_too_fast_is_429_with_the_time_to_wait(recognizer: Recognizer) -> None:
    app = create_app(recognizer, Settings([digest(API_KEY)], Limits(requests_per_second=1)))
    with TestClient(app, headers=AUTHORIZED) as client:
        statuses = [client.get("/v1/model").status_code for _ in range(4)]
        refused = client.get("/v1/model")
    assert statuses[:2] == [200, 200] and statuses[-1] == 429
    assert refused.json()["code"] == "rate_limit" and int(refused.headers["retry-after"]) >= 1


def test_a_large_body_is_refused_with_and_without_a_length(client: TestClient) -> None:
    piece = b"x" * 1_000_000
    told = client.post("/v1/identify", content=piece * 11)
    untold = client.post("/v1/identify", content=(piece for _ in range(11)))
    assert told.status_code == untold.status_code == 413
    assert untold.json() == told.json() and told.json()["code"] == "body"


def test_photos_never_touch_the_disk(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    rolled = []
    rollover = tempfile.SpooledTemporaryFile.rollover
    monkeypatch.setattr(
        tempfile.SpooledTemporaryFile,
        "rollover",
        lambda self: (rolled.append(self), rollover(self)),
    )
    large = jpeg("Ada") + bytes(5_000_000)
    assert client.post("/v1/identify", files=upload(("photo", large))).json()["name"] == "Ada"
    assert not rolled


def test_waiting_crops_are_embedded_together() -> None:
    sizes: list[int] = []

    def embed(crops: list[np.ndarray]) -> np.ndarray:
        time.sleep(0.02)
        return np.array([[crop.mean()] for crop in crops])

    async def run() -> list[float]:
        batcher = Batcher(embed, 4, sizes.append)
        batcher.start()
        crops = [np.full((2, 2), number) for number in range(9)]
        found = await asyncio.gather(*(batcher.embed([crop]) for crop in crops))
        await batcher.stop()
        return [float(rows[0][0]) for rows in found]

    assert asyncio.run(run()) == list(range(9))
    assert sum(sizes) == 9 and max(sizes) == 4


def test_an_error_of_the_model_reaches_those_who_wait() -> None:
    def fail(crops: object) -> np.ndarray:
        raise FoundryError("broken")

    async def run() -> None:
        batcher = Batcher(fail, 4)
        batcher.start()
        for _ in range(2):  # the second time too
            with pytest.raises(FoundryError, match="broken"):
                await batcher.embed([np.zeros((2, 2))])
        await batcher.stop()

    asyncio.run(run())


# ---- a server of its own


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"), "--in-flight", "4", "--rate", "100000")
    yield server
    server.stop()


def large_png(side: int) -> bytes:
    """A whole, valid PNG of side x side black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    squeeze = zlib.compressobj(1)
    rows = b"".join(squeeze.compress(bytes(side + 1)) for _ in range(side)) + squeeze.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_400_megapixels_cost_little_memory(server: Server) -> None:
    with httpx.Client(base_url=server.address, headers=server.headers, timeout=60) as client:
        warm = client.post("/v1/identify", files=upload(("photo", jpeg("Ada"))))
        assert warm.status_code == 200
        before = server.peak_memory()
        answer = client.post("/v1/identify", files=upload(("photo", large_png(20_000))))
        only_claimed = client.post("/v1/identify", files=upload(("photo", png_header(5000, 5000))))
    assert answer.status_code == only_claimed.status_code == 413
    assert answer.json()["code"] == "pixels"
    assert server.peak_memory() - before < 50e6


def test_fuzzed_requests_never_break_it(server: Server) -> None:
    described = httpx.get(f"{server.address}/openapi.json").json()
    seen: set[int] = set()
    for operation in schemathesis.openapi.from_dict(described).get_all_operations():
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            fuzz(operation.ok(), mode, server, seen)
    assert {200, 422} <= seen
    assert httpx.get(f"{server.address}/health").status_code == 200


def fuzz(operation: Any, mode: GenerationMode, server: Server, seen: set[int]) -> None:
    """Send what the schema allows, or does not, and collect the answers' statuses."""

    @settings(
        max_examples=15,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: schemathesis.Case) -> None:
        answer = case.call(base_url=server.address, headers=server.headers)
        seen.add(answer.status_code)
        assert answer.status_code < 500, answer.text

    with suppress(Unsatisfiable):  # an operation without parameters has nothing to get wrong
        send()


def test_overload_is_429_and_right_answers(server: Server) -> None:
    with httpx.Client(base_url=server.address, headers=server.headers, timeout=60) as client:
        files = upload(("photos", jpeg("Ada")))
        assert client.post("/v1/enroll", data={"name": "Ada"}, files=files).status_code == 200

        def ask(number: int) -> httpx.Response:
            name = ("Ada", "Dora")[number % 2]
            return client.post("/v1/identify", files=upload(("photo", jpeg(name))))

        with ThreadPoolExecutor(24) as threads:
            answers = list(threads.map(ask, range(96)))
    statuses = {answer.status_code for answer in answers}
    assert statuses == {200, 429}
    for number, answer in enumerate(answers):
        if answer.status_code == 200:
            assert answer.json()["name"] == (None if number % 2 else "Ada")
        else:
            assert answer.json()["code"] == "overload" and answer.headers["retry-after"]


def test_the_log_holds_no_name_image_or_key_beyond_the_first(server: Server) -> None:
    with httpx.Client(base_url=server.address, headers=server.headers, timeout=60) as client:
        client.post("/v1/identify", files=upload(("photo", jpeg("Ada"))))
        client.delete("/v1/identities/Secretname")
    log = server.log.read_text()
    assert "Secretname" not in log and log.count(server.key) == 1 and len(log) < 2000


def test_tls_and_no_keys_on_the_loopback(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *files, *subject]
    subprocess.run(command, check=True, capture_output=True)
    tls = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem")]
    server = Server(tmp_path, "--no-keys", *tls)
    try:
        assert server.address.startswith("https://") and not server.key
        trusted = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert httpx.get(f"{server.address}/v1/model", verify=trusted).status_code == 200
    finally:
        server.stop()


def test_no_keys_is_refused_beyond_the_loopback() -> None:
    with pytest.raises(FoundryError, match="--no-keys: only on the loopback"):
        serve(no_keys=True, host="0.0.0.0")
