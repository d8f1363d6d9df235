"""Several trainings of a study at once, what other commands begin in the same moment, and the budget. Real processes."""

from __future__ import annotations

import fcntl
import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from inceptionctl.cores import usable_cores
from inceptionctl.distributed.local import visible_gpus
from inceptionctl.recipe import load_study
from inceptionctl.run import Run, create_run
from inceptionctl.run_contents import read_run
from inceptionctl.study.cells import reported_cells
from inceptionctl.train.lock import take_lock
from tests.commands import TINY, inceptionctl, refused, sets, started, wait_for_step
from tests.data.conftest import two_classes
from tests.study.test_study_command import RECIPE
from tests.train.test_signals import left_of, wait_for

two_cores = pytest.mark.skipif(usable_cores() < 2, reason="two trainings at once need two cores")
SETTINGS = (*TINY, "study.tune=null", "schedule.base_lr=0.01")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    images = two_classes(folder / "images")
    (folder / "two.yaml").write_text(RECIPE.replace("model: {num", f"data: {{root: {images}}}\nmodel: {{num"))
    return folder / "two.yaml"


Words = Callable[..., tuple[str, ...]]


@pytest.fixture
def words(recipe: Path, tmp_path: Path) -> Words:
    """The command with settings, in tmp_path/out."""
    return lambda *settings: (
        *("study", str(recipe), *sets(*SETTINGS, *settings)),
        *("--cpu-ranks", "1", "--output", str(tmp_path / "out")),
    )


def environment_of(run: Path) -> dict[str, object]:
    return dict(json.loads((run / "environment.json").read_text())[-1])


@two_cores
@pytest.mark.slow
def test_two_train_at_once_each_on_its_cores(words: Words, tmp_path: Path) -> None:
    refused(inceptionctl(*words(), "--jobs", "1000"), 4, "--jobs 1000", "1 for each training")
    made = inceptionctl(*words("study.seeds=[1]"), "--jobs", "2", "--json")
    assert made.returncode == 0 and json.loads(made.stdout)["unfinished"] == 0, made.stderr
    lines = [line for line in made.stderr.splitlines() if line.startswith(("training", "a,", "b,"))]
    runs = [tmp_path / "out/runs" / arm / "seed-1" for arm in ("a", "b")]
    assert all("begins on core" in line for line in lines[:2]) and all("finished after" in line for line in lines[2:])
    assert sum(int(str(environment_of(run)["cores"])) for run in runs) == usable_cores()
    assert all("finished: 3 steps" in run.with_suffix(".log").read_text() for run in runs)
    assert "finished: 3 steps" not in made.stderr


@two_cores
@pytest.mark.slow
def test_a_signal_or_the_end_of_the_command_stops_all(words: Words, tmp_path: Path) -> None:
    longer = (*words("study.seeds=[1, 2]", "train.max_steps=5000", "train.epochs=10000"), "--jobs", "2")
    log, runs = tmp_path / "log", [tmp_path / "out/runs" / arm / "seed-1" for arm in ("a", "b")]
    with started(*longer, cwd=tmp_path, log=log) as process:
        for run in runs:
            wait_for_step(run, 1, process, log, 600)
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 75, log.read_text()
        wait_for(lambda: not left_of(process), None, log)
    said = log.read_text()
    assert "stopped in the trainings of a, seed 1; b, seed 1" in said or "b, seed 1; a, seed 1" in said
    assert "resume with: inceptionctl study" in said and "--jobs 2" in said and "seed 2" not in said
    reached = [read_run(Run(run)).step for run in runs]
    assert [read_run(Run(run)).state for run in runs] == ["stopped"] * 2 and min(reached) > 0
    with started(*longer, cwd=tmp_path, log=log) as process:
        for run, step in zip(runs, reached, strict=True):
            wait_for_step(run, step + 1, process, log, 600)
        process.kill()
        wait_for(lambda: not left_of(process), None, log)
    assert [read_run(Run(run)).state for run in runs] == ["stopped"] * 2


@two_cores
@pytest.mark.slow
def test_when_one_fails_no_other_begins_and_the_rest_goes_on_to_its_end(words: Words, tmp_path: Path) -> None:
    cell = reported_cells(load_study(words()[1], SETTINGS), tmp_path / "out", {})[1]
    assert (cell.condition, cell.seed) == ("b", 1)
    (create_run(cell.run.path, cell.recipe).checkpoints / "step-00000001").mkdir()  # no whole one
    made = inceptionctl(*words(), "--jobs", "2")
    assert made.returncode == 5, made.stderr
    assert "the training of b, seed 1 ended with exit code 5, see " in made.stderr
    assert "no other starts; 1 continue" in made.stderr and "seed 2" not in made.stderr
    assert "error: " in cell.recipe_file.with_suffix(".log").read_text()
    assert read_run(Run(tmp_path / "out/runs/a/seed-1")).state == "finished"


@pytest.mark.slow
def test_what_others_begin_in_the_same_moment_is_passed_over(words: Words, tmp_path: Path) -> None:
    (tmp_path / "out/runs/b").mkdir(parents=True)
    log, run = tmp_path / "log", Run(tmp_path / "out/runs/a/seed-1")
    with (tmp_path / "out/runs/b/.seed-1.lock").open("w") as claim:
        fcntl.flock(claim, fcntl.LOCK_EX)
        with started(*words("study.seeds=[1]"), cwd=tmp_path, log=log) as process:
            # It has looked, found nobody, and made the directory; its ranks come in seconds. We are somebody else's rank.
            wait_for(run.recipe_file.exists, process, log)
            lock, _ = take_lock(run)
            assert process.wait(120) == 0, log.read_text()
            assert lock.read() == "" and run.recipe_file.exists()
            lock.close()
    said = log.read_text()
    assert "a, seed 1: trained by process" in said and "b, seed 1: begun by another command; passed over" in said
    assert "2 trainings not done yet" in said


@pytest.mark.slow
def test_a_budget_ends_in_a_page_and_before_the_end_of_the_tuning_in_none(words: Words, tmp_path: Path) -> None:
    briefly = "study.budget_hours=1e-4"
    page = tmp_path / "out/index.html"
    tuning = inceptionctl(*words(briefly, "study.tune.values=[0.01, 0.02]", "study.tune.key=schedule.base_lr"))
    assert tuning.returncode == 75, tuning.stderr
    assert "the budget ended before the tuning: 3 trainings of the tuning are not done" in tuning.stderr and not page.exists()
    # How long one takes is not known before the first has ended.
    for begun in (1, 0):
        made = inceptionctl(*words(briefly))
        assert made.returncode == 0 and made.stderr.count("\ntraining ") + made.stderr.startswith("training ") == begun
        assert "study.budget_hours is 0.0001" in made.stderr and "3 trainings not done yet" in made.stderr
        assert "3 trainings have not ended" in page.read_text()
    nothing = inceptionctl(*words("study.budget_hours=0"))
    assert nothing.returncode == 2 and "study.budget_hours: 0: input should be greater than 0" in nothing.stderr
    whole = inceptionctl(*words("study.budget_hours=1", "study.seeds=[1]"), "--json")
    assert whole.returncode == 0 and json.loads(whole.stdout)["unfinished"] == 0, whole.stderr


@pytest.mark.gpu
def test_each_gpu_trains_one_at_a_time(recipe: Path, tmp_path: Path) -> None:
    made = inceptionctl("study", str(recipe), *sets(*SETTINGS, "study.seeds=[1]"), "--output", str(tmp_path / "out"))
    assert made.returncode == 0, made.stderr
    assert made.stderr.count("begins on GPU") == (2 if len(visible_gpus()) > 1 else 0)
    runs = [tmp_path / "out/runs" / arm / "seed-1" for arm in ("a", "b")]
    assert all(len(environment_of(run)["gpus"]) == environment_of(run)["ranks"] == 1 for run in runs)  # type: ignore[arg-type]
