"""The page in Chromium, with a camera that shows a photo from the sheet of faces."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from toy_service import Server, jpeg, photo

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
WIDTH, HEIGHT = 640, 480
expect.set_options(timeout=20_000)


def camera_file(path: Path) -> Path:
    """A second of Ada, as the raw video that Chromium plays in place of a camera."""
    frame = np.full((HEIGHT, WIDTH, 3), 127, np.uint8)
    frame[72:408, 152:488] = photo("Ada")
    planes = cv2.cvtColor(frame, cv2.COLOR_RGB2YUV_I420).tobytes()
    head = f"YUV4MPEG2 W{WIDTH} H{HEIGHT} F10:1 Ip A0:0 C420jpeg\n".encode()
    path.write_bytes(head + 10 * (b"FRAME\n" + planes))
    return path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    camera = camera_file(tmp_path_factory.mktemp("camera") / "ada.y4m")
    options = [
        "--no-sandbox",
        "--disable-gpu",
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """Behind the door, with an empty gallery; nothing may go wrong in the page's console."""
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(20_000)
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda line: errors.append(line.text) if "Content Security Policy" in line.text else None,
    )
    page.goto(server.address)
    page.get_by_label("The key printed at the first start").fill(server.key)
    page.get_by_role("button", name="Enter").click()
    expect(page.get_by_role("heading", name="Gallery")).to_be_visible()
    yield page
    assert errors == []
    context.close()


def enroll(page: Page, name: str, *photos: bytes) -> None:
    page.get_by_label("Name", exact=True).fill(name)
    files = [{"name": "p.jpg", "mimeType": "image/jpeg", "buffer": data} for data in photos]
    page.get_by_label("Photos of one face each").set_input_files(files)
    page.get_by_role("button", name="Enrol from photos").click()


def delete(page: Page, name: str) -> None:
    page.get_by_role("button", name=f"Delete {name}").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()


def test_the_camera_enrols_and_identifies_live(page: Page) -> None:
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_role("button", name="Identify live").click()
    expect(page.locator("#who")).to_have_text("Unknown")
    page.get_by_label("Name", exact=True).fill("Ada")
    page.get_by_role("button", name="Enrol from the camera").click()
    expect(page.locator("#message")).to_have_text("Ada: enrolled, 1 templates.")
    expect(page.locator("#who")).to_have_text("Ada")
    page.get_by_role("button", name="Stop identifying").click()
    expect(page.locator("#who")).to_have_text("")
    delete(page, "Ada")
    expect(page.locator("#message")).to_have_text("Ada: deleted.")


def test_files_are_enrolled_listed_and_deleted(page: Page) -> None:
    enroll(page, "<b>Bela", jpeg("Bela"), jpeg("Bela", side=280))
    expect(page.locator("#message")).to_have_text("<b>Bela: enrolled, 2 templates.")
    expect(page.get_by_role("listitem")).to_contain_text("2 templates")
    page.get_by_role("button", name="Delete <b>Bela").click()
    page.get_by_role("button", name="Keep").click()
    expect(page.get_by_role("listitem")).to_contain_text("<b>Bela")
    delete(page, "<b>Bela")
    expect(page.get_by_role("listitem")).to_have_text("Nobody is enrolled yet.")


def test_a_bad_photo_is_explained(page: Page) -> None:
    enroll(page, "Bela", b"not an image")
    expect(page.locator("#message")).to_contain_text("not a readable")
    enroll(page, "Bela", cv2.imencode(".jpg", np.full((200, 200, 3), 99, np.uint8))[1].tobytes())
    expect(page.locator("#message")).to_have_text("No face in the picture.")
    page.get_by_label("Name", exact=True).fill("")
    page.get_by_role("button", name="Enrol from photos").click()
    expect(page.get_by_label("Name", exact=True)).to_be_focused()


def test_the_slider_says_its_rate(page: Page) -> None:
    slider, rate = page.get_by_label("How sure must it be?"), page.locator("#rate")
    expect(rate).to_contain_text("1 in 10,000")
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(rate).to_contain_text("1 in 1,000;")
    page.keyboard.press("ArrowLeft")
    expect(rate).to_contain_text("1 in 100;")
    assert slider.get_attribute("aria-valuetext") == "1 in 100"


def test_it_speaks_chinese_and_remembers(page: Page) -> None:
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("button", name="打开摄像头")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh"
    page.reload()
    expect(page.get_by_role("heading", name="名单")).to_be_visible()
    english, chinese = page.evaluate(
        "import('./words.js').then(({WORDS}) => [Object.keys(WORDS.en), Object.keys(WORDS.zh)])"
    )
    assert english == chinese


def test_a_keyboard_reaches_everything_and_everything_has_a_name(page: Page) -> None:
    page.get_by_role("button", name="Start the camera").click()
    expect(page.get_by_role("button", name="Identify live")).to_be_enabled()
    page.locator("#language").focus()
    reached = []
    for _ in range(7):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.type"))
    assert reached == ["camera", "identify", "threshold", "name", "photos", "submit", "from-camera"]
    nameless = page.evaluate(
        "[...document.querySelectorAll('button, input, select')].filter(node => "
        "!node.closest('dialog') && !node.labels?.length && !node.textContent.trim() "
        "&& !node.ariaLabel).length"
    )
    assert nameless == 0


def test_a_wrong_key_stays_outside(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    page.goto(server.address)
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    expect(page.locator("#message")).not_to_be_empty()
    expect(page.locator("#inside")).to_be_hidden()
    page.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_no_sideways_scrolling(page: Page, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 800})
    wide = page.evaluate(
        "[...document.querySelectorAll('body *')].filter(node => node.getBoundingClientRect().right"
        " > innerWidth).map(node => node.outerHTML.slice(0, 60))"
    )
    assert wide == []
