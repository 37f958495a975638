"""The paired bootstrap: what it can tell, and what it says it cannot."""

import json
import re
import shlex
import shutil
import sqlite3
import subprocess
from pathlib import Path

import numpy as np
import pytest
import typer
from conftest import AS_SOMEBODY, ROOT, run_in
from typer.testing import CliRunner

from facefoundry.cli import build_app
from facefoundry.compare import BETTER, UNKNOWN, WORSE, compare_scores, read_run
from facefoundry.errors import FoundryError
from facefoundry.scores import Scores, read_scores, write_scores


def scores(gap: float, own_noise: int, pairs: int = 2000, digest: str = "d") -> Scores:
    """Runs on the same pairs share how hard each pair is; `own_noise` seeds what they do not."""
    shared, rng = np.random.default_rng(0), np.random.default_rng(own_noise)
    same = np.arange(pairs) % 2 == 0
    hardness = shared.normal(0, 0.12, pairs)
    similarity = 0.1 + gap * same + hardness + rng.normal(0, 0.02, pairs)
    left = np.arange(pairs) // 8
    right = np.where(same, left, (left + 1) % (left.max() + 1))
    return Scores(
        models={"model": similarity.astype("f4")},
        same=same,
        fold=np.arange(pairs) // (pairs // 10),
        identity=np.stack([left, right], axis=1),
        digest=digest,
    )


def verdicts(base: Scores, other: Scores) -> dict[str, str]:
    return {row.measure: row.verdict for row in compare_scores({"lfw": base}, {"lfw": other})}


def test_a_clear_gain_is_better_and_the_other_way_round_worse() -> None:
    low, high = scores(0.25, 1), scores(0.4, 2)
    assert set(verdicts(low, high).values()) == {BETTER}
    assert set(verdicts(high, low).values()) == {WORSE}


def test_noise_alone_cannot_be_told() -> None:
    assert set(verdicts(scores(0.3, 1), scores(0.3, 2)).values()) == {UNKNOWN}


def test_a_run_against_itself() -> None:
    same = scores(0.3, 1)
    for row in compare_scores({"lfw": same}, {"lfw": same}):
        assert row.low == row.high == 0 and row.base == row.other and row.verdict == UNKNOWN


def test_pairing_tells_what_two_separate_intervals_could_not() -> None:
    """A small gain on the same pairs: the spread of the difference is far below each run's own."""
    base, other = scores(0.3, 1), scores(0.32, 2)
    (row,) = [r for r in compare_scores({"lfw": base}, {"lfw": other}) if r.measure == "auc"]
    assert row.verdict == BETTER
    shuffled = scores(0.32, 2).models["model"].copy()
    rng = np.random.default_rng(0)
    for kind in (base.same, ~base.same):  # the same scores, no longer pair by pair
        shuffled[kind] = rng.permutation(shuffled[kind])
    unpaired = Scores({"model": shuffled}, base.same, base.fold, base.identity, "d")
    (loose,) = [r for r in compare_scores({"lfw": base}, {"lfw": unpaired}) if r.measure == "auc"]
    assert loose.high - loose.low > 3 * (row.high - row.low)


def test_an_unsupported_rate_is_not_compared() -> None:
    assert "tar_at_fmr_1e-2" in verdicts(scores(0.3, 1), scores(0.3, 2))
    assert "tar_at_fmr_1e-3" not in verdicts(scores(0.3, 1), scores(0.3, 2))


def test_other_pairs_are_refused() -> None:
    with pytest.raises(FoundryError, match="share no set of pairs"):
        compare_scores({"lfw": scores(0.3, 1)}, {"lfw": scores(0.3, 1, digest="other")})


def test_scores_survive_the_file(tmp_path: Path) -> None:
    before = {"synthetic": scores(0.3, 1), "lfw": scores(0.4, 2)}
    write_scores(tmp_path / "scores.npz", before)
    after = read_scores(tmp_path / "scores.npz", "x")
    assert list(after) == ["lfw", "synthetic"]
    for name, pair_set in before.items():
        assert after[name].digest == "d"
        for key in ("same", "fold", "identity"):
            np.testing.assert_array_equal(getattr(after[name], key), getattr(pair_set, key))
        np.testing.assert_array_equal(after[name].models["model"], pair_set.models["model"])


def facefoundry(folder: Path, *arguments: str, check: bool = True):
    command = ("python", "-m", "facefoundry", *arguments)
    return run_in(folder, *command, check=check, PYTHONPATH=str(ROOT / "src"))


def write_run(folder: Path, gap: float, own_noise: int) -> Path:
    (folder / "models/evaluate").mkdir(parents=True, exist_ok=True)
    write_scores(folder / "models/evaluate/scores.npz", {"lfw": scores(gap, own_noise)})
    return folder


def test_the_command_says_better_in_words_and_in_json(tmp_path: Path) -> None:
    first, second = write_run(tmp_path / "a", 0.25, 1), write_run(tmp_path / "b", 0.4, 2)
    printed = facefoundry(tmp_path, "compare", str(first), str(second)).stdout
    assert "better" in printed and "worse" not in printed and "accuracy" in printed
    rows = json.loads(facefoundry(tmp_path, "compare", str(first), str(second), "--json").stdout)
    assert {row["verdict"] for row in rows} == {BETTER}
    assert all(row["low"] < row["other"] - row["base"] < row["high"] for row in rows)


def test_a_revision_is_compared_with_the_folder(tmp_path: Path, monkeypatch) -> None:
    """DVC gives back the scores of an earlier commit from its cache."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path, 0.25, 1)
    git = ("git", *AS_SOMEBODY)
    for command in (
        (*git, "init", "-q"),
        ("dvc", "init", "-q"),
        ("dvc", "add", "-q", "models/evaluate"),
        (*git, "add", "-A"),
        (*git, "commit", "-qm", "first"),
    ):
        run_in(tmp_path, *command)
    first = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    write_run(tmp_path, 0.4, 2)
    base, other = read_run(first.stdout.strip()), read_run(".")
    assert {row.verdict for row in compare_scores(base, other)} == {BETTER}


def test_a_run_that_is_nowhere_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FoundryError, match=r"no-such-run.*neither a folder.*dvc exp show"):
        read_run("no-such-run")
    with pytest.raises(FoundryError, match=r"dvc repro evaluate"):
        read_run(str(tmp_path))


def test_a_comparison_is_a_run_in_mlflow(tmp_path: Path, empty_mlflow: Path) -> None:
    shutil.copy(empty_mlflow, tmp_path)
    first, second = write_run(tmp_path / "a", 0.25, 1), write_run(tmp_path / "b", 0.4, 2)
    facefoundry(tmp_path, "compare", str(first), str(second), "--mlflow")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        tags = dict(database.execute("select key, value from tags"))
        metrics = dict(database.execute("select key, value from metrics"))
    assert tags["lfw.accuracy"] == tags["lfw.eer"] == BETTER
    assert 0 < metrics["lfw.auc.low"] < metrics["lfw.auc.difference"] < metrics["lfw.auc.high"]


def commands_of(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_the_commands_of_the_guide_are_ones_that_there_are() -> None:
    """Each is taken apart as the command line does it; an unknown name or option fails."""
    commands = commands_of(ROOT / "docs/evaluation.md")
    app = typer.main.get_command(build_app())
    ours = [shlex.split(line)[1:] for line in commands if line.startswith("facefoundry ")]
    assert {name for name, *_ in ours} == {"compare", "benchmarks-fetch"}
    for name, *arguments in ours:
        app.commands[name].make_context(name, list(arguments))


@pytest.mark.parametrize("command", ["compare", "benchmarks-fetch"])
def test_help_says_what_a_command_is_for(command: str) -> None:
    said = CliRunner().invoke(build_app(), [command, "--help"]).stdout
    assert {"compare": "paired bootstrap", "benchmarks-fetch": "pairs.csv"}[command] in said


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    done = facefoundry(tmp_path, "compare", ".", check=False)
    assert done.returncode == 1 and "compare needs two runs" in done.stderr
    assert "Traceback" not in done.stderr
