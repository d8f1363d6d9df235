"""A study by one command: real trainings, stopped on the way, gone on with by the same command; one that dies is a result."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from inceptionctl.recipe import Recipe
from inceptionctl.run import create_run
from tests.commands import TINY, inceptionctl, refused, rows, sets, started, wait_for_step
from tests.data.conftest import two_classes
from tests.train.test_signals import left_of, wait_for

RECIPE = """\
study:
  question: Which is better?
  seeds: [1, 2]
  tune: {values: [0.01, 1.0e+9]}
  errors: [60, 0]
  pairs: [[a, b]]
model: {num_classes: 2}
schedule: {name: constant}
evaluate: {every_epochs: null, batch_size: 16}
checkpoint: {every_epochs: null, every_steps: 100}
train: {max_steps: 3}
arms:
  a: {model: {name: inception_resnet_v1}}
  b: {model: {name: inception_resnet_v1, shortcut: false}}
"""

AS_A_RANK = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The command."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "two.yaml").write_text(RECIPE, encoding="utf-8")
    images = two_classes(folder / "images")
    settings = sets(*TINY, f"data.root={images}")
    return ("study", str(folder / "two.yaml"), *settings, "--cpu-ranks", "1", "--output", str(folder / "both"))


@pytest.mark.slow
def test_a_study_is_tuned_trained_and_reported(words: tuple[str, ...]) -> None:
    folder = Path(words[-1])
    told = inceptionctl(*words, "--dry-run", "--json")
    assert told.returncode == 0, told.stderr
    planned = json.loads(told.stdout)["trainings"]
    assert [(row["purpose"], row["value"]) for row in planned] == [
        *[("tuning", 0.01), ("tuning", 1e9)] * 2,
        *[("reported", None)] * 4,
    ]
    made = inceptionctl(*words, "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)
    # The rate of a billion dies or ends worse, whichever, and so the other is taken.
    assert [(one["name"], one["tuned"], len(one["trainings"]), one["unfinished"]) for one in result["conditions"]] == [
        ("a", 0.01, 2, 0),
        ("b", 0.01, 2, 0),
    ]
    first = result["conditions"][0]["trainings"][0]
    losses = [row["loss"] for row in rows(folder / "runs/a/seed-1")]
    assert first["seed"] == 1 and first["mean_loss"] == pytest.approx(sum(losses) / 3) and first["final_loss"] == losses[-1]
    assert {(one["baseline"], one["other"], one["n"]) for one in result["differences"]} == {("a", "b", 2)}
    assert json.loads((folder / "study.json").read_text()) == result
    page = (folder / "index.html").read_text()
    assert all(text in page for text in ("Which is better?", "data:image/png", "schedule.base_lr", "seed-2"))
    # All is done: the same command trains nothing, and says the same.
    again = inceptionctl(*words, "--json")
    assert again.returncode == 0 and "training 1 of" not in again.stderr
    assert {**json.loads(again.stdout), "made": ""} == {**result, "made": ""}
    # Another recipe in the same folder would mix two studies.
    refused(inceptionctl(*words, *sets("model.width=0.25")), 5, "was started with another recipe", "model.width")
    # So would trainings of another length, which `train` would resume.
    refused(inceptionctl(*words, *sets("train.max_steps=4")), 5, "was started with another recipe", "train.max_steps: 3 -> 4")


@pytest.mark.slow
def test_it_is_stopped_and_resumed_and_passes_over_what_another_trains(words: tuple[str, ...], tmp_path: Path) -> None:
    longer = (
        *words[:-1],
        str(tmp_path / "both"),
        *sets("train.max_steps=100", "study.tune=null", "schedule.base_lr=0.01", "study.seeds=[1]"),
    )
    held, log = tmp_path / "both/runs/a/seed-1", tmp_path / "log"
    with started(*longer, cwd=tmp_path, log=log) as process:
        wait_for_step(held, 2, process, log)
        # A second command leaves the first arm to the first command.
        with started(*longer, cwd=tmp_path, log=tmp_path / "other") as other:
            wait_for_step(tmp_path / "both/runs/b/seed-1", 1, other, tmp_path / "other")
            assert "a, seed 1: trained by process" in (tmp_path / "other").read_text()
            other.send_signal(signal.SIGTERM)
            assert other.wait(120) == 75
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75, log.read_text()
        wait_for(lambda: not left_of(process), None, log)
    assert "resume with: inceptionctl study" in log.read_text()
    state = json.loads(inceptionctl(*longer, "--dry-run", "--json").stdout)["trainings"]
    assert {row["state"] for row in state} == {"stopped"}


def test_mistakes_are_worded(words: tuple[str, ...], tmp_path: Path) -> None:
    refused(inceptionctl("study", "quickstart"), 2, "is no study", "recipes list")
    refused(inceptionctl("study", "none"), 2, "no recipe 'none'")
    refused(inceptionctl(*words, *sets("study.seeds=[0]")), 2, "which tune.seeds has too")
    refused(inceptionctl(*words, *sets("data.root=nowhere"), "--output", tmp_path / "x"), 3, "nowhere")
    create_run(tmp_path / "run", Recipe())
    refused(inceptionctl(*words, "--report-only", "--output", tmp_path / "run"), 5, "is the directory of a run", "--output")
    refused(inceptionctl("study", "residual", **AS_A_RANK), 4, "was started as one of several ranks")
