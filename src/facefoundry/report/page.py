"""The page as a whole."""

from __future__ import annotations

from pathlib import Path

from facefoundry import __version__
from facefoundry.keeping import atomic
from facefoundry.previous_run import Previous
from facefoundry.report import data_sections, device_sections, model_sections, trust_sections
from facefoundry.report.figures import PRINT_COLOURS
from facefoundry.report.html import Html, join
from facefoundry.report.opening import opening
from facefoundry.report.print_figures import collecting, write_figures
from facefoundry.report.sources import Sources, read_sources
from facefoundry.report.style import CSS, SCRIPT

TITLE = "Is this face embedder good enough?"

NAVIGATION = {
    "faces": "Faces",
    "dropped": "Dropped",
    "training": "Training",
    "verification": "Verification",
    "decisions": "Decisions",
    "identification": "Galleries",
    "groups": "Groups",
    "robustness": "Bad images",
    "strangers": "No faces",
    "probability": "Probability",
    "hardest": "Hardest pairs",
    "neighbours": "Neighbours",
    "leak": "Leaks",
    "sizes": "Size and speed",
    "tensorrt": "TensorRT",
    "cost": "Cost",
    "provenance": "Provenance",
    "reproduce": "Reproduce",
}


def write_report(root: Path, out: Path, previous: Previous | None = None) -> None:
    """Write `out/index.html` from the stage outputs under the project's `root`, and its figures as
    PNG files for print to `out/figures`.

    A stage that has left nothing is said to be "not run". Raises FoundryError naming an output
    that is there but damaged; an older page is then left as it was.
    """
    with collecting() as drawn:
        page = render(read_sources(root, previous))
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / "index.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_figures(drawn, PRINT_COLOURS, out / "figures")


def render(sources: Sources) -> str:
    links = join(f'<a href="#{anchor}">{name}</a>' for anchor, name in NAVIGATION.items())
    body = join(
        [
            data_sections.faces(sources),
            data_sections.dropped(sources),
            model_sections.training(sources),
            model_sections.verification(sources),
            model_sections.decisions(sources),
            trust_sections.identification(sources),
            trust_sections.groups(sources),
            trust_sections.robustness(sources),
            trust_sections.strangers(sources),
            trust_sections.probability(sources),
            model_sections.hardest(sources),
            trust_sections.neighbourhood(sources),
            trust_sections.leak(sources),
            device_sections.sizes(sources),
            device_sections.tensorrt(sources),
            device_sections.cost(sources),
            device_sections.provenance(sources),
            device_sections.reproduce(sources),
        ]
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>facefoundry: {TITLE}</title>
<link rel="icon" href="data:,">
<style>{CSS}</style>
</head>
<body>
<header><div><p class="kicker">facefoundry</p><h1>{TITLE}</h1>{opening(sources)}</div></header>
<nav aria-label="Sections"><div>{links}</div></nav>
<main>{body}</main>
<footer>facefoundry {__version__}. For print, every figure is a PNG file in
<code>figures/</code> beside this page.</footer>
<script>{Html(SCRIPT)}</script>
</body>
</html>
"""
