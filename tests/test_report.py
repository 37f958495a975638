"""The report and the summary, from toy stage outputs."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facefoundry import summary
from facefoundry.compare import Difference
from facefoundry.errors import FoundryError
from facefoundry.previous_run import Previous
from facefoundry.report import device_sections, model_sections, opening, write_report
from facefoundry.report.page import render
from facefoundry.report.sources import read_sources
from facefoundry.results import STAGES
from facefoundry.scores import histogram

CHROMIUM = shutil.which("chromium")
ANCHORS = (
    "faces dropped training verification decisions identification groups robustness strangers"
    " probability hardest neighbours leak sizes tensorrt cost provenance reproduce"
)


def toy_pipeline(root: Path, benchmark: bool = True) -> None:
    """Outputs of all nine stages before the report, with numbers of the usual size."""
    for name, extra in toy_metrics(benchmark).items():
        folder = root / STAGES[name]
        folder.mkdir(parents=True)
        cost = {"seconds": 12.3, "cpu_seconds": 20.5, "peak_memory_mb": 812.0}
        write_json(folder / "metrics.json", extra | {"cost": cost})
    rng = np.random.default_rng(0)
    for name in (
        "data/align/preview",
        "data/curate/removed",
        "models/evaluate/pairs",
        "models/evaluate/neighbours",
    ):
        pixels = rng.integers(0, 255, (4 * 112, 12 * 112, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((672, 224)).save(root / f"{name}.png")
    removed = {
        "image_id": "i<1>/03",
        "identity": "i1",
        "reason": "near_duplicate",
        "other": "i1/02",
    }
    write_json(root / "data/curate/removed.json", [removed])
    for name in ("train", "distill"):
        curves = [{"step": 100 * i, "loss": 9.0 / i, "val_eer": 0.4 / i} for i in range(1, 9)]
        write_json(root / STAGES[name] / "curves.json", curves)
    write_json(root / "models/train/model.json", toy_model())
    places = {"identity": [0, 0, 1, 1], "x": [0, 0.1, 0.9, 1], "y": [0, 0.1, 1, 0.9]}
    write_json(root / "models/evaluate/embedding_map.json", places)
    np.savez(root / "models/evaluate/scores.npz", **toy_scores(rng, benchmark))


def toy_metrics(benchmark: bool) -> dict[str, dict]:
    row = {"accuracy": 0.817, "accuracy_std": 0.0152, "eer": 0.181, "auc": 0.895}
    row |= {"tar_at_fmr_1e-2": 0.41, "tar_at_fmr_1e-3": None}
    lfw = row | {"sface": row | {"accuracy": 0.9945}, "pixels": row | {"accuracy": 0.6253}}
    note = {"benchmarks_note": "No benchmark was found under ../shared/benchmarks."}
    int8 = {"bytes": 868_352, "latency_ms_p50": 1.82, "latency_ms_p95": 2.31}
    return {
        "synthesize": {"identities": 150, "images": 2400, "generators": ["stylegan"]},
        "curate": {"identities": 143, "images": 2210, "removed": {"near_duplicate": 190}}
        | toy_similarity(),
        "align": {"identities": 143, "images": 2210},
        "split": {"identities": {"train": 115, "val": 14}, "images": {"train": 1800, "val": 205}},
        "train": {"steps": 2200},
        "evaluate": toy_judgement(row) | ({"lfw": lfw} if benchmark else note),
        "distill": {"steps": 1200},
        "quantize": {
            "fp32": int8 | {"bytes": 3_400_000, "lfw": {"accuracy": 0.8}},
            "int8": int8
            | {"lfw": {"accuracy": 0.795}, "cosine_to_fp32": {"mean": 0.998, "min": 0.97}},
        },
        "tensorrt": {"built": True, "statement": "Built ahead of time.", "not_run": ["a Jetson"]},
    }


def toy_similarity() -> dict:
    rng = np.random.default_rng(0)
    pairs = {"genuine": rng.normal(0.55, 0.1, 500), "impostor": rng.normal(0.1, 0.1, 500)}
    return {
        "similarity": {"genuine_mean": 0.551, "impostor_mean": 0.098},
        "similarity_histogram": {kind: histogram(values) for kind, values in pairs.items()},
    }


def toy_judgement(row: dict) -> dict:
    """What the evaluate stage says of the synthetic set beyond pairs, and under stress."""
    found = {"fpir": 0.1, "fnir": 0.42, "unmated_probes": 105, "needs_probes": None}
    unknown = {"fpir": 0.01, "fnir": None, "unmated_probes": 105, "needs_probes": 300}
    rate = {"rate": 0.25, "low": 0.2, "high": 0.31}
    group = {"genuine_pairs": 90, "fnmr": rate, "impostor_pairs": 700, "fmr": rate}
    groups = [group | {"group": "young"}, group | {"group": "old", "fmr": None}]
    bins = [{"predicted": 0.1, "observed": 0.2}, {"predicted": 0.9, "observed": 0.8}]
    level = {"auc": 0.9, "eer": 0.2, "fmr": 0.01, "fnmr": 0.3}
    factor = {"unit": "pixels", "levels": [level | {"level": n, "fnmr": n / 10} for n in (4, 8)]}
    stranger = {"images": 60, "false_accept": 0.11, "false_accept_with_faces": 0.02}
    stranger |= {"rejected": 0.9, "false_accept_kept": 0.05, "auc": 0.97}
    return {
        "synthetic": row
        | {
            "rates": [
                {"fmr": 0.1, "tar": 0.7, "low": 0.61, "high": 0.79, "needs_pairs": None},
                {"fmr": 1e-5, "tar": None, "low": None, "high": None, "needs_pairs": 300_000},
            ],
            "identification": {
                "gallery": 14,
                "probes": 190,
                "rank_1": 0.55,
                "rank_5": 0.8,
                "cmc": [0.55, 0.63, 0.7, 0.76, 0.8],
                "open_set": [row | {"gallery": n} for n in (10, 11) for row in (found, unknown)],
            },
            "fairness": {
                "threshold": 0.41,
                "age": {"groups": groups, "fnmr_ratio": 1.0, "fmr_ratio": None},
            },
            "reliability": {"bins": bins, "expected_calibration_error": 0.1, "brier": 0.15},
        },
        "probability": {"slope": 12.5, "intercept": -5.25},
        "leak": {"lfw": toy_leak()},
        "robustness": {
            "set": "synthetic",
            "pairs": 160,
            "clean": level,
            "factors": {"mask": factor, "blur": factor},
        },
        "out_of_distribution": {
            "limit": 7.25,
            "faces_rejected": 0.012,
            "sets": {"cartoons": stranger | {"histogram": [1 / 30] * 30}},
            "not_run": ["rendered heads: not run (no wheel)"],
        },
    }


def toy_leak() -> dict:
    nearest = {"p50": 0.31, "p99": 0.4, "p100": 0.52}
    row = {"samples": 400, "references": 7701, "threshold": 0.3, "strangers_alike": 0.01}
    row |= {"samples_alike": 0.012, "ratio": 1.2, "near_copies": 0.0, "strangers_near": 0.0}
    row |= {"samples_nearest": nearest, "strangers_nearest": nearest | {"p100": 0.61}}
    return row | {"passed": True}


def toy_model() -> dict:
    known = {"fmr": 1e-3, "threshold": 0.41, "tar": 0.62, "impostor_pairs": 26880}
    unknown = {"fmr": 1e-6, "threshold": None, "tar": None, "impostor_pairs": 26880}
    licence = {"name": "MobileStyleGAN", "licence": "research only", "source": "FFHQ is BY-NC-SA"}
    return {
        "thresholds": [known | {"needs_pairs": None}, unknown | {"needs_pairs": 3_000_000}],
        "provenance": {"commit": "0123abc", "seed": 0},
        "licences": [licence],
    }


def toy_scores(rng: np.random.Generator, benchmark: bool) -> dict[str, np.ndarray]:
    same = np.arange(2000) % 2 == 0
    arrays = {}
    for name in ("synthetic", "lfw") if benchmark else ("synthetic",):
        arrays |= {f"{name}/same": same, f"{name}/fold": np.arange(2000) // 200}
        arrays |= {f"{name}/identity": np.zeros((2000, 2), int), f"{name}/digest": name}
        for model, gap in (("model", 0.3), ("sface", 0.5), ("pixels", 0.1)):
            arrays[f"{name}/{model}"] = (rng.normal(0.1, 0.12, 2000) + gap * same).astype("f4")
    return arrays


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


class Page(HTMLParser):
    """The ids, tags and URL-valued attributes of a page; fails on unbalanced markup."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.urls: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "xlink:href", "action", "srcset", "poster"):
                self.urls.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pipeline")
    toy_pipeline(root)
    write_report(root, root / "reports")
    return root


@pytest.fixture(scope="module")
def page(pipeline: Path) -> str:
    return (pipeline / "reports/index.html").read_text()


def test_the_page_needs_no_network(page: str) -> None:
    urls = Page(page).urls
    assert urls and all(url.startswith(("#", "data:")) for url in urls)
    assert not re.search(r"url\((?![\"']?#)", page)
    assert "@import" not in page and "fetch(" not in page


def test_every_section_and_figure_is_there(page: str) -> None:
    parsed = Page(page)
    assert set(ANCHORS.split()) <= set(parsed.ids)
    assert parsed.tags.count("img") == 4
    # 2 x 2 curves, ROC, DET and histogram of two sets, similarity of the faces, cost
    assert parsed.tags.count("svg") == 4 + 6 + 1 + 1 + TRUST_FIGURES
    assert "Not run:" not in page


def test_every_figure_is_also_a_picture_for_print(pipeline: Path, page: str) -> None:
    pictures = {path.name: path for path in (pipeline / "reports/figures").iterdir()}
    assert len(pictures) == Page(page).tags.count("svg")
    blue, teal, magenta, ink = "#3b5bdb", "#0b8f77", "#d6336c", "#1d2129"
    for name, colours in {
        "roc-lfw.png": (blue, ink),
        "groups-synthetic-age-fnmr.png": (blue, ink),
        "histogram-lfw.png": (ink,),
        "degradation-mask.png": (teal, magenta, ink),
        "strangers.png": (magenta, ink),
        "face-similarity.png": (teal, magenta, ink),
    }.items():
        with Image.open(pictures[name]) as image:
            assert image.width > 800 and round(image.info["dpi"][0]) == 200
            found = {pixel for _, pixel in image.convert("RGB").getcolors(1 << 24)}
        assert (255, 255, 255) in found and (1, 2, 3) not in found
        assert {tuple(bytes.fromhex(colour[1:])) for colour in colours} <= found, name


@pytest.mark.parametrize(
    ("low", "high", "verdict", "said"),
    [
        (0.001, 0.02, "better", "it is better than the run before (yesterday) on lfw: +1.00"),
        (-0.04, -0.001, "worse", "it is worse than the run before (yesterday) on lfw: +1.00"),
        (-0.01, 0.02, "cannot tell", "it cannot be told whether it is better than the run before"),
    ],
)
def test_the_opening_says_whether_the_run_is_better(
    pipeline: Path, low: float, high: float, verdict: str, said: str
) -> None:
    rows = [
        Difference("synthetic", "accuracy", 0.9, 0.8, -0.2, -0.1, "worse"),
        Difference("lfw", "eer", 0.3, 0.2, -0.2, -0.1, "better"),
        Difference("lfw", "accuracy", 0.807, 0.817, low, high, verdict),
    ]
    sources = read_sources(pipeline, Previous("yesterday", rows))
    sentence, section = opening.accuracy(sources), model_sections.verification(sources)
    assert said in sentence and f"{100 * low:+.2f} to {100 * high:+.2f}" in sentence
    assert "Against the run before: yesterday" in section
    assert f"{low:+.4f} to {high:+.4f}" in section


def test_without_a_run_to_compare_with_the_opening_says_so(pipeline: Path, page: str) -> None:
    assert "there is no earlier run to compare with" in page
    assert "Against the run before" not in page
    found = opening.accuracy(read_sources(pipeline, Previous("yesterday", [])))
    assert "the run before (yesterday) judged other pairs, so it cannot be compared" in found


def test_what_a_gpu_spent_stands_beside_the_processors(pipeline: Path) -> None:
    sources = read_sources(pipeline)
    cost = {"seconds": 90.0, "cpu_seconds": 30.0, "peak_memory_mb": 812.0, "energy_joules": 3600.0}
    cost |= {"gpu_peak_memory_mb": 2000.0, "gpu_seconds": 60.0, "gpu_energy_joules": 7200.0}
    page = device_sections.cost(replace(sources, metrics={"train": {"cost": cost}}))
    for said in ("30.0 s, GPU 1 min 0 s", "812 MB, GPU 2,000 MB", "1.00 Wh, GPU 2.00 Wh"):
        assert said in page, said


def test_an_older_pages_figures_do_not_stay(tmp_path: Path) -> None:
    (tmp_path / "reports/figures").mkdir(parents=True)
    (tmp_path / "reports/figures/roc-old.png").write_bytes(b"")
    write_report(tmp_path, tmp_path / "reports")
    assert not list((tmp_path / "reports/figures").iterdir())


def test_the_cost_of_compression_is_told_where_there_was_any(pipeline: Path, page: str) -> None:
    title = "What pruning and fine-tuning for INT8 changed"
    assert title not in page
    sources = read_sources(pipeline)
    before = {"macs": 54_000_000, "parameters": 460_000, "val_eer": 0.061}
    pruned = {"val_eer": 0.0745, "pruning": {"share": 0.5, "macs": 31_250_000, "before": before}}
    int8 = dict(sources.metrics["quantize"]["int8"])
    int8["finetune"] = {"steps": 200, "cosine_without": {"mean": 0.9812, "min": 0.9}}
    metrics = {**sources.metrics, "distill": pruned, "quantize": {"int8": int8}}
    found = render(replace(sources, metrics=metrics))
    assert title in found
    for cell in ("54.0", "31.2", "6.10 %", "7.45 %", "INT8 cosine, 200 steps", "0.9812", "0.9980"):
        assert cell in found


# CMC and open set, two rates of groups, two factors, strangers, reliability, the map
TRUST_FIGURES = 2 + 2 + 2 + 1 + 1 + 1


def test_the_limits_stand_in_words_and_numbers(page: str) -> None:
    for said in (
        "Among 14 identities, 55.0 % of 190 probes find their own first",
        "needs 300 probes of strangers; there are 105",
        "age (worst to best: FNMR 1.0, FMR -)",
        "25.00 % (20.00 % to 31.00 %)",
        "Two images of one identity: 0.55 on average (semi-hard would be 0.5 to 0.6",
        "of two: 0.10 (separate would be under 0.3",
        "no pairs",
        "160 pairs of Held-out synthetic identities",
        "rendered heads: not run (no wheel)",
        "1 / (1 + exp(-(12.5 * similarity -5.25)))",
        "61.00 % to 79.00 %",
        "needs 300,000 impostor pairs",
        "1.20 % (1.20 times)",
        "0.310, 0.610",
        "<title>identity 1</title>",
    ):
        assert said in page, said


def test_an_older_run_without_these_results_still_has_a_page(tmp_path: Path) -> None:
    toy_pipeline(tmp_path)
    path = tmp_path / "models/evaluate/metrics.json"
    old = json.loads(path.read_text())
    row = {key: old["synthetic"][key] for key in ("accuracy", "accuracy_std", "eer", "auc")}
    write_json(path, {"synthetic": row})
    write_report(tmp_path, tmp_path / "reports")
    assert "Not run" in (tmp_path / "reports/index.html").read_text()


def test_the_opening_has_five_sentences_and_five_numbers(page: str) -> None:
    lead = page[page.index('<ul class="lead">') : page.index("</header>")]
    assert lead.count("<li>") == 5
    assert re.findall(r"<b>(.*?)</b>", lead) == ["143", "2,210", "81.70 %", "868 kB", "1.82 ms"]
    assert "190 of 2,400 images" in page
    assert "0.50 points below FP32" in lead
    assert "rejects most often where age is young: 25.0 % of 90 genuine pairs" in lead
    assert "the worst mask costs most: 80.0 % rejected instead of 30.0 %" in lead
    assert "2,400 faces of 150 identities came from stylegan" in page


def test_an_unsupported_rate_is_no_number(page: str) -> None:
    assert "needs 3,000 impostor pairs" in page
    assert "needs 3,000,000 impostor pairs" in page


def test_text_from_outside_is_escaped(page: str) -> None:
    assert "i&lt;1&gt;/03" in page and "i<1>" not in page


def test_the_same_outputs_give_the_same_page(pipeline: Path, page: str, tmp_path: Path) -> None:
    write_report(pipeline, tmp_path)
    assert (tmp_path / "index.html").read_text() == page


def test_nothing_run_is_said_plainly(tmp_path: Path) -> None:
    write_report(tmp_path, tmp_path / "reports")
    page = (tmp_path / "reports/index.html").read_text()
    Page(page)
    for stage in ("synthesize", "curate", "train", "evaluate", "quantize", "tensorrt"):
        assert f"the stage <code>{stage}</code> has left no results" in page


def test_no_benchmark_is_a_line_and_no_failure(tmp_path: Path) -> None:
    toy_pipeline(tmp_path, benchmark=False)
    write_report(tmp_path, tmp_path / "reports")
    page = (tmp_path / "reports/index.html").read_text()
    assert "No benchmark was found under" in page
    assert "accuracy, synthetic" in page


def test_a_damaged_output_is_named_and_the_old_page_stays(tmp_path: Path) -> None:
    write_report(tmp_path, tmp_path / "reports")
    before = (tmp_path / "reports/index.html").read_text()
    damaged = tmp_path / "models/evaluate/metrics.json"
    damaged.parent.mkdir(parents=True)
    damaged.write_text("{")
    with pytest.raises(FoundryError, match=r"evaluate/metrics\.json.*dvc repro"):
        write_report(tmp_path, tmp_path / "reports")
    assert (tmp_path / "reports/index.html").read_text() == before


def test_summary_prints_one_table(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.main(pipeline) == 0
    printed = capsys.readouterr().out
    for part in (
        "143",
        "2,210",
        "81.70 ± 1.52 %",
        "SFace 99.45",
        "868 kB",
        "1.82 ms",
        "1 min 51 s",
    ):
        assert part in printed
    assert "index.html" in printed.replace("\n", "")


def test_summary_before_anything_ran(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert summary.main(tmp_path) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1 and "make repro" in printed.err


def test_summary_imports_nothing_heavy() -> None:
    heavy = "{'numpy', 'torch', 'matplotlib', 'mlflow', 'hydra', 'pyarrow', 'cv2'}"
    code = f"import sys, facefoundry.summary; assert not {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def chromium(profile: Path, *arguments: str) -> str:
    fixed = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}")
    command = [str(CHROMIUM), *fixed, "--virtual-time-budget=4000", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [375, 1280])
def test_no_sideways_scrolling(page: str, tmp_path: Path, width: int) -> None:
    """The page stands in a frame of that width and reports what sticks out of it."""
    measure = (
        "<script>const root = document.documentElement;"
        "parent.postMessage(`${innerWidth} wide, ${root.scrollWidth - root.clientWidth} over,"
        " slider ${!document.querySelector('.slider').hidden}`, '*')</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", measure))
    frame = tmp_path / "frame.html"
    frame.write_text(
        "<script>onmessage = event => document.title = event.data</script>"
        f'<iframe src="page.html" style="width:{width}px;height:800px;border:0"></iframe>'
    )
    dom = chromium(tmp_path / "profile", "--dump-dom", frame.as_uri())
    assert f"<title>{width} wide, 0 over, slider true</title>" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize("width", [500, 1280])
def test_screenshot_is_not_blank(pipeline: Path, tmp_path: Path, width: int) -> None:
    shot = tmp_path / "shot.png"
    address = (pipeline / "reports/index.html").as_uri()
    chromium(tmp_path / "profile", f"--screenshot={shot}", f"--window-size={width},4000", address)
    with Image.open(shot) as image:
        assert image.width == width
        strips = [image.crop((0, top, width, top + 800)) for top in range(0, 4000, 800)]
        assert all(len(strip.convert("L").getcolors()) > 20 for strip in strips)


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
def test_the_page_is_dark_where_the_reader_wants_it(pipeline: Path, tmp_path: Path) -> None:
    address = (pipeline / "reports/index.html").as_uri()
    ink = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        wanted = f"--blink-settings=preferredColorScheme={scheme}"
        chromium(
            tmp_path / "profile", wanted, f"--screenshot={shot}", "--window-size=500,900", address
        )
        with Image.open(shot) as image:
            ink[name] = image.convert("L").getpixel((4, 4))
    assert ink["dark"] < 60 and ink["light"] > 200
