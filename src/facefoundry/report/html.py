"""Small pieces of HTML. Text is escaped here and nowhere else; `Html` is markup already."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

JPEG_QUALITY = 88


class Html(str):
    """Markup that is safe to put into the page as it is."""


def text(value: object) -> str:
    """Escaped, unless it is Html."""
    return value if isinstance(value, Html) else html.escape(str(value))


def join(parts: Iterable[str]) -> Html:
    return Html("\n".join(parts))


def tag(name: str, content: object, css: str = "") -> Html:
    opening = f'{name} class="{css}"' if css else name
    return Html(f"<{opening}>{text(content)}</{name}>")


def section(anchor: str, title: str, *content: str) -> Html:
    return Html(f'<section id="{anchor}"><h2>{text(title)}</h2>{join(content)}</section>')


def table(names: Sequence[object], rows: Iterable[Sequence[object]], prose: bool = False) -> Html:
    """The first column is a heading of its row; only `prose` cells may break into lines."""
    head = "".join(f'<th scope="col">{text(name)}</th>' for name in names)
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>'
        + "".join(f"<td>{text(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    css = ' class="prose"' if prose else ""
    return Html(
        f'<div class="scroll"><table{css}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def figure(content: Html, caption: str = "") -> Html:
    return Html(f"<figure>{content}{tag('figcaption', caption) if caption else ''}</figure>")


def grid(figures: Iterable[Html]) -> Html:
    return Html(f'<div class="grid">{join(figures)}</div>')


def not_run(stage: str) -> Html:
    return Html(
        f'<p class="absent">Not run: the stage <code>{text(stage)}</code> has left no results here.'
        f" <code>dvc repro {text(stage)}</code> makes them.</p>"
    )


def picture(path: Path, description: str, wide: bool = True) -> Html:
    """The image file inside the page, as JPEG; a wide one scrolls sideways on a phone."""
    with Image.open(path) as image:
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
        width, height = image.size
    data = base64.b64encode(buffer.getvalue()).decode()
    element = (
        f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(description, quote=True)}"'
        f' width="{width}" height="{height}">'
    )
    return Html(f'<div class="scroll sheet">{element}</div>' if wide else element)
