"""Shards on a Ray cluster of several nodes: the same bytes, also when a node dies."""

from __future__ import annotations

import hashlib
import importlib
import json
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
from crashing import OUT, OVERRIDES, PER_SHARD, make_project

from facefoundry import manifest
from facefoundry.align import _align_rows
from facefoundry.errors import FoundryError
from facefoundry.journal import VARIABLE
from facefoundry.sharding import build_shards, chunked, run_pool
from facefoundry.stage import run_trial

STAGES = ("synthesize", "curate", "align")
STORE = 80 * 2**20  # bytes of each node's object store; nothing large goes through it
SMALL = {
    "object_store_memory": STORE,
    "include_log_monitor": False,
    "include_dashboard": False,
    "no_monitor": True,
}
SYSTEM = {
    "agent_register_timeout_ms": 120_000,
    "enable_worker_prestart": False,
    "worker_niceness": 0,
    "health_check_initial_delay_ms": 500,  # a dead node is noticed soon
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 5,
}
# a busy machine takes its time; nodes on one machine need no token
STARTUP = {"RAY_raylet_start_wait_time_s": "120", "RAY_AUTH_MODE": "disabled"}
SESSION = "session"
WAITED_FOR = "dashboard_agent_listen_port"
PORTS = (WAITED_FOR, "metrics_agent_port", "metrics_export_port", "runtime_env_agent_port")


class Nodes:
    """A Ray cluster on this machine: a head that does no work, and nodes of one CPU.

    Ray gives a node's dashboard agent 15 s to write down the port that it has chosen, which a busy
    machine does not keep; ports are chosen here, and that one is written down beforehand.
    """

    def __init__(self, folder: Path) -> None:
        from ray.cluster_utils import Cluster

        self._folder, self._cluster = folder, Cluster()
        (folder / SESSION).mkdir()
        self.add(num_cpus=0, session_name=SESSION, temp_dir=str(folder), _system_config=SYSTEM)

    def add(self, **options: Any) -> Any:
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
        ports = {name: s.getsockname()[1] for name, s in zip(PORTS, sockets, strict=True)}
        for opened in sockets:
            opened.close()
        number = secrets.token_hex(28)
        (self._folder / SESSION / f"{WAITED_FOR}_{number}").write_text(str(ports[WAITED_FOR]))
        named = {"env_vars": {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": number}}
        return self._cluster.add_node(**SMALL, **ports, **named, **options)

    def kill(self, node: Any) -> None:
        """With its workers, as machines die: one left alone may end its shard before it notices."""
        raylet = node.all_processes["raylet"][0].process
        workers = psutil.Process(raylet.pid).children(recursive=True)
        self._cluster.remove_node(node, allow_graceful=False)
        for worker in workers:
            with suppress(psutil.NoSuchProcess):
                worker.kill()

    @property
    def address(self) -> str:
        return self._cluster.address

    def stop(self) -> None:
        self._cluster.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(dir="/tmp") as folder:
        for name, value in STARTUP.items():
            patch.setenv(name, value)
        pytest.importorskip("ray", reason="Ray is not installed")
        Path("/tmp/ray").mkdir(exist_ok=True)  # Ray writes an address there, whatever temp_dir
        nodes = Nodes(Path(folder))  # a short path: Ray's sockets lie below it
        for _ in range(2):
            nodes.add(num_cpus=1)
        yield nodes
        nodes.stop()


@pytest.fixture
def project(cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv(VARIABLE, str(tmp_path / "log.jsonl"))
    monkeypatch.setitem(sys.modules, "mlflow", MagicMock())
    project = make_project(tmp_path / "project")
    monkeypatch.chdir(project)
    return project


def digests(out: Path) -> dict[str, str]:
    """{file: SHA-256} of all that a stage leaves but what it cost."""
    files = [path for path in sorted(out.rglob("*")) if path.suffix in {".tar", ".parquet", ".png"}]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(stage: str, executor: str) -> dict[str, str]:
    """The digests of a stage's output, which is removed."""
    out = OUT[stage]
    main = importlib.import_module(f"stages.{stage}").main
    overrides = [f"out={out}", *OVERRIDES[stage], f"executor={executor}"]
    run_trial(stage, main.__wrapped__, overrides, "toy", "toy")
    found = digests(Path(out))
    shutil.rmtree(out)
    return found


def workers(log: Path) -> list[int]:
    """Processes by the units of work that they began."""
    lines = map(json.loads, log.read_text().splitlines() if log.is_file() else [])
    return [line["pid"] for line in lines if line["event"] == "begun"]


def test_every_stage_leaves_the_same_bytes_on_a_cluster(project: Path):
    log = project.parent / "log.jsonl"
    for stage in STAGES:
        local = run(stage, "local")
        log.unlink()
        assert run(stage, "ray") == local != {}
        assert workers(log), stage


def held_back(go: Path, rows: Sequence[dict]) -> Iterator[tuple[dict, bytes]]:
    """The rows of `align`, not before `go` is there."""
    while not go.exists():
        time.sleep(0.02)
    yield from _align_rows(rows)


def test_a_node_that_dies_at_work_changes_no_byte(cluster, project: Path):
    go, log, out = project / "go", project.parent / "log.jsonl", Path("data/crops")
    chunks = chunked(manifest.rows(manifest.read(Path("data/faces"))), PER_SHARD)
    victim = cluster.add(num_cpus=1)

    def kill_when_all_work() -> None:
        while len(workers(log)) < 3:
            time.sleep(0.05)
        cluster.kill(victim)
        go.touch()

    killer = Thread(target=kill_when_all_work)
    killer.start()
    build_shards(partial(held_back, go), chunks, out, "ray", 1, [], executor="ray")
    killer.join()
    after_the_kill = digests(out)
    assert len(workers(log)) == len(chunks) + 1  # only what the dead node had begun is done again
    build_shards(partial(held_back, go), chunks, out, "local", 1, [])
    assert after_the_kill == digests(out)


def refuse(item: int) -> None:
    raise FoundryError(f"{item}: refused; take another")


def test_what_a_shard_raises_is_what_the_user_reads(project: Path):
    with pytest.raises(FoundryError, match=r"^7: refused; take another$"):
        run_pool(refuse, [7], 1, "refusals", "ray")


def test_an_unknown_executor_and_a_missing_ray_say_what_to_do(monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FoundryError, match="'spark' is not one of local, ray"):
        run_pool(str, [1], 1, "label", "spark")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FoundryError, match=r"pip install 'facefoundry\[ray\]', or executor=local"):
        run_pool(str, [1], 1, "label", "ray")
