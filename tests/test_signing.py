"""A signed directory is checked file for file; whoever changes one byte of it is found."""

import random
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT, run_in
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from typer.testing import CliRunner

from facefoundry.cli import build_app
from facefoundry.errors import FoundryError

pytest.importorskip("model_signing", reason="the extra `signing` is not installed")
from facefoundry.signing import SIGNATURE, check_signature, sign


def key_pair(folder: Path, name: str) -> tuple[Path, Path]:
    private = ec.generate_private_key(ec.SECP256R1())
    key, public = folder / f"{name}.pem", folder / f"{name}.pub"
    key.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )
    public.write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return key, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key_pair(tmp_path, "ours")


@pytest.fixture
def model(tmp_path: Path, keys: tuple[Path, Path]) -> Path:
    directory = tmp_path / "model"
    for name in ("model.safetensors", "model.json", ".hidden", "triton/1/model.onnx"):
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(300))
    assert sign(directory, keys[0]) == directory / SIGNATURE
    return directory


def test_what_was_signed_passes_and_can_be_signed_again(model: Path, keys: tuple[Path, Path]):
    check_signature(model, keys[1])
    sign(model, keys[0])
    check_signature(model, keys[1])


def test_every_flipped_byte_is_found(model: Path, keys: tuple[Path, Path]):
    rng = random.Random(0)
    files = sorted(path for path in model.rglob("*") if path.is_file() and path.name != SIGNATURE)
    for _ in range(50):
        path = rng.choice(files)
        before = path.read_bytes()
        flipped = bytearray(before)
        flipped[rng.randrange(len(before))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(FoundryError, match=path.name):
            check_signature(model, keys[1])
        path.write_bytes(before)
    check_signature(model, keys[1])


def test_a_file_added_taken_or_moved_is_found(model: Path, keys: tuple[Path, Path]):
    (model / "extra").write_text("x")
    with pytest.raises(FoundryError, match=r"Extra files.*extra"):
        check_signature(model, keys[1])
    (model / "extra").unlink()
    (model / "model.json").rename(model / "other.json")
    with pytest.raises(FoundryError, match=r"Missing files.*model\.json"):
        check_signature(model, keys[1])


def test_another_key_and_a_forged_signature_are_refused(
    model: Path, keys: tuple[Path, Path], tmp_path: Path
):
    _, stranger = key_pair(tmp_path, "theirs")
    with pytest.raises(FoundryError, match="take it again"):
        check_signature(model, stranger)
    (model / SIGNATURE).write_text("{}")
    with pytest.raises(FoundryError, match="take it again"):
        check_signature(model, keys[1])
    (model / SIGNATURE).unlink()
    with pytest.raises(FoundryError, match="not signed"):
        check_signature(model, keys[1])


def test_what_is_no_key_and_what_is_no_model_is_named(model: Path, keys: tuple[Path, Path]):
    with pytest.raises(FoundryError, match=r"model\.json: not a private key"):
        sign(model, model / "model.json")
    with pytest.raises(FoundryError, match=r"ours\.pub: not a private key"):
        sign(model, keys[1])
    with pytest.raises(FoundryError, match=r"gone: not a public key"):
        check_signature(model, model / "gone")
    with pytest.raises(FoundryError, match="no directory with files"):
        sign(model / "gone", keys[0])


def test_the_commands_say_so(model: Path, keys: tuple[Path, Path]):
    key, public = map(str, keys)
    app, runner = build_app(), CliRunner()
    signed = runner.invoke(app, ["sign", str(model), "--key", key])
    assert (signed.exit_code, signed.output) == (0, f"signed: {model / SIGNATURE}\n")
    checked = runner.invoke(app, ["check-signature", str(model), "--key", public])
    assert (checked.exit_code, checked.output) == (0, f"{model} is as it was signed\n")
    (model / "model.json").write_text("{}")
    refused = runner.invoke(app, ["check-signature", str(model), "--key", public])
    assert isinstance(refused.exception, FoundryError)
    assert refused.exit_code == 1


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl here")
def test_the_recipe_of_the_page_runs(model: Path, tmp_path: Path):
    page = (ROOT / "docs/safety.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    (recipe,) = (block for block in blocks if "check-signature" in block)
    (tmp_path / "models").mkdir()
    shutil.copytree(model, tmp_path / "models/distill")
    *_, last = [run_in(tmp_path, *line.split()).stdout for line in recipe.splitlines()]
    assert last == "handed-on is as it was signed\n"
