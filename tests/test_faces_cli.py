"""The commands as a user types them, the live camera from video files, and the service's page of
recipes."""

from __future__ import annotations

import re
import shlex
import urllib.request
from pathlib import Path

import cv2
import numpy as np
import pytest
from toy_service import SHEET, photo, save_photos, toy_model
from typer.testing import CliRunner

from facefoundry import live
from facefoundry.alignment import TEMPLATE
from facefoundry.cli import build_app
from facefoundry.errors import FoundryError
from facefoundry.images import Image, read_image
from facefoundry.live_preview import BOUNDARY, Preview

ROOT = Path(__file__).parents[1]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a model at its default place and photos."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "models/quantize").mkdir(parents=True)
    toy_model(tmp_path / "models/quantize/student.onnx")
    save_photos(tmp_path)
    return tmp_path


def run(line: str, status: int = 0) -> str:
    result = CliRunner().invoke(build_app(), shlex.split(line))
    if isinstance(result.exception, FoundryError):
        assert status == 1, result.exception
        return str(result.exception)
    assert result.exit_code == status, (line, result.output, result.exception)
    return result.output


def test_enrol_identify_forget(home: Path) -> None:
    assert "Ada: 2 templates in gallery.db" in run("enroll Ada Ada.jpg Ada.jpg")
    run("enroll 'Bela B.' Bela.jpg")
    assert run("identify Ada.jpg -k 2").startswith("Ada\n  1.000  Ada\n")
    assert run("identify Dora.jpg", status=2).startswith("unknown\n")
    assert [line.split("\t")[:2] for line in run("identities").splitlines()] == [
        ["Ada", "2"],
        ["Bela B.", "1"],
    ]
    run("enroll Ada Ada.jpg --replace")
    assert "Ada\t1" in run("identities")
    run("forget Ada")
    assert run("identify Ada.jpg", status=2).startswith("unknown")
    assert (home / ".config/facefoundry/gallery.key").stat().st_mode & 0o077 == 0


def test_photos_come_back_where_they_were_kept(home: Path) -> None:
    run("enroll Ada Ada.jpg")
    run("enroll Ada Dora.jpg --keep-photos")
    assert "Ada: 1 photos were kept; they are in kept" in run("photos Ada kept")
    assert (home / "kept/001.jpeg").read_bytes() == (home / "Dora.jpg").read_bytes()
    assert "no such name" in run("photos Bela kept", status=1)
    run("forget Ada")
    assert "no such name" in run("photos Ada kept", status=1)


def test_verify_exits_by_its_decision(home: Path) -> None:
    assert "same: similarity 1.000, threshold 0.750" in run("verify Ada.jpg Ada.jpg")
    assert "different" in run("verify Ada.jpg Cleo.jpg --fmr '1 in 1,000'", status=2)
    assert "same" in run("verify Ada.jpg Cleo.jpg --fmr 1e-2")
    assert "choose from: 1 in 10,000" in run("verify Ada.jpg Ada.jpg --fmr 1e-6", status=1)


def test_rotation_leaves_the_old_key_useless(home: Path) -> None:
    run("enroll Ada Ada.jpg")
    assert "opens only with new.key now" in run("rotate-key new.key")
    assert "does not open with this key" in run("identities", status=1)
    assert "Ada" in run("identities --key-file new.key")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("enroll ../Ada Ada.jpg", "name: no slashes"),
        ("enroll Ada two.jpg", r"two\.jpg: 2 faces"),
        ("enroll Ada absent.jpg", r"absent\.jpg: cannot be read"),
        ("identify Ada.jpg --model nowhere", "nowhere: no model there; give an .onnx file"),
        ("identify Ada.jpg --gallery Ada.jpg", r"Ada\.jpg: not a usable gallery"),
        ("identify Ada.jpg --gallery galery.db", r"galery\.db: no gallery there; enrol somebody"),
        ("forget Nobody", "identity: no such name"),
        ("watch --source nothing.avi", r"nothing\.avi: no camera of that number, and no video"),
    ],
)
def test_a_mistake_is_one_line_and_changes_nothing(home: Path, line: str, message: str) -> None:
    run("enroll Bela Bela.jpg")
    said = run(line, status=1)
    assert re.search(message, said) and "\n" not in said
    assert run("identities").startswith("Bela\t1") and len(run("identities").splitlines()) == 1


def video(path: Path, frames: list[Image]) -> Path:
    film = live.VideoFile(path)
    for frame in frames:
        film.show(frame)
    film.close()
    return path


def test_watch_names_faces_and_saves_what_it_showed(home: Path) -> None:
    run("enroll Ada Ada.jpg")
    both = np.concatenate([photo("Ada", 300), photo("Dora", 300)], axis=1)
    empty = np.full_like(both, 127)
    video(home / "in.avi", [both, both, empty])
    said = run("watch --source in.avi --save out.avi --fmr 1e-2")
    assert re.search(r"frame 1: (Ada, unknown|unknown, Ada) \(", said)
    assert "frame 3: nobody (" in said
    assert "frame 2" not in said and "3 frames, " in said
    shown = list(live.read_frames("out.avi"))
    assert len(shown) == 3
    green = (np.abs(shown[0].astype(int) - live.KNOWN).max(axis=2) < 60).sum()
    assert green > 300  # the box of the known face


def test_the_nose_tells_the_yaw() -> None:
    assert live.nose_offset(TEMPLATE) == pytest.approx(0, abs=0.01)
    left = TEMPLATE.copy()
    left[2, 0] += 0.3 * (TEMPLATE[1, 0] - TEMPLATE[0, 0])
    assert live.nose_offset(left) == pytest.approx(0.3, abs=0.01)
    tilted = left @ np.array([[0.8, 0.6], [-0.6, 0.8]], np.float32)  # a rolled head is no yaw
    assert live.nose_offset(tilted) == pytest.approx(0.3, abs=0.01)


def poses() -> tuple[Image, Image, Image]:
    """One identity of the sheet: straight, turned to its left, turned to its right."""
    sheet = read_image(SHEET)
    cells = (sheet[672:784, column * 112 : column * 112 + 112] for column in (3, 5, 0))
    straight, left, right = (cv2.resize(cell, (336, 336)) for cell in cells)
    return straight, np.ascontiguousarray(left[:, ::-1]), right


def test_capture_guides_through_the_poses(home: Path) -> None:
    straight, left, right = poses()
    empty = np.full_like(straight, 127)
    two = np.concatenate([straight[:, 70:238], straight[:, 70:238]], axis=1)
    video(home / "cam.avi", [empty, two, straight, straight, right, left, left, right])
    said = run("capture Bela --source cam.avi").splitlines()
    assert said[1:] == [
        "move into the picture",
        "only one face, please",
        "1 of 3 taken",
        "turn your head a little to your left",
        "2 of 3 taken",
        "turn your head a little to your right",
        "3 of 3 taken",
        "Bela: 3 templates in gallery.db",
    ]


def test_capture_that_ends_early_enrols_nothing(home: Path) -> None:
    video(home / "cam.avi", [poses()[0]])
    said = run("capture Bela --source cam.avi", status=1)
    assert "after 1 of 3 poses; nothing was enrolled" in said
    assert run("identities") == ""


def test_a_blurred_frame_is_not_taken() -> None:
    blurred = cv2.GaussianBlur(poses()[0], (0, 0), 8)
    assert live.objection(blurred, live.POSES[0]) in (
        "hold still, and find more light",
        "move into the picture",
    )
    assert live.objection(poses()[0], live.POSES[0]) is None


def test_the_picture_is_seen_in_a_browser() -> None:
    preview = Preview()
    with urllib.request.urlopen(preview.address, timeout=10) as stream:
        assert BOUNDARY in stream.headers["content-type"]
        preview.show(photo("Ada"))
        assert stream.readline() == f"--{BOUNDARY}\r\n".encode()
        assert stream.readline() == b"Content-Type: image/jpeg\r\n"
    preview.close()


def test_a_port_that_is_taken() -> None:
    first = Preview()
    with pytest.raises(FoundryError, match="give another --port"):
        Preview(int(first.address.rsplit(":")[-1].strip("/")))
    first.close()


def test_the_library_of_the_page_runs(home: Path) -> None:
    """The Python block of docs/service.md, as it stands there."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/service.md").read_text(), re.S)
    for name, source in (("ada-1", "Ada"), ("ada-2", "Ada"), ("visitor", "Ada")):
        (home / f"{name}.jpg").write_bytes((home / f"{source}.jpg").read_bytes())
    values: dict[str, object] = {}
    exec(code, values)
    assert values["found"].name == "Ada"  # type: ignore[attr-defined]


def test_every_command_of_the_page_exists() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs/service.md").read_text(), re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True)[1:] for line in lines if "facefoundry " in line]
    assert len(commands) >= 8
    for name, *arguments in commands:
        shown = CliRunner().invoke(build_app(), [name, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, name
        for option in (word for word in arguments if word.startswith("--")):
            assert option in shown.output, (name, option)
