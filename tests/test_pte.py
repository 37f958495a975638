"""The ExecuTorch file, run by its own runtime. Skipped where the extra is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry.errors import FoundryError
from facefoundry.export import cosines, embed_torch, to_input
from facefoundry.pte import export_executorch
from facefoundry.runtimes import open_runner

BACKBONE = tiny_backbone()
FACES = crops(6, seed=3)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("executorch", reason="executorch is not installed; see docs/edge.md")
    path = tmp_path_factory.mktemp("executorch") / "student.pte"
    export_executorch(BACKBONE, SPEC, path)
    return path


def test_parity_to_pytorch(file: Path) -> None:
    found = open_runner(file)(to_input(FACES))
    assert cosines(embed_torch(BACKBONE, FACES), found).min() >= 0.9999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_a_file_that_is_no_program(file: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.pte").write_bytes(b"not a program" * 99)
    with pytest.raises(FoundryError, match=r"broken\.pte: ExecuTorch refuses it"):
        open_runner(tmp_path / "broken.pte")


def test_without_the_extra_the_pip_line_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("executorch", "executorch.exir", "executorch.runtime"):
        monkeypatch.setitem(sys.modules, name, None)
    for use in (lambda path: export_executorch(BACKBONE, SPEC, path), open_runner):
        with pytest.raises(FoundryError, match=r"pip install 'facefoundry\[executorch\]'"):
            use(tmp_path / "student.pte")
    assert not list(tmp_path.iterdir())
