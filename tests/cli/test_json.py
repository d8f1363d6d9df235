"""--json: every command that tells something has it, and stdout then has one JSON document, whatever happens."""

import json
import os
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.cli.group import ERROR_FILE
from inceptionctl.recipe import load_recipe
from inceptionctl.run import create_run
from tests.commands import TINY, inceptionctl, rows, sets
from tests.data.conftest import two_classes

# It hands its process to `tail`: what a job has printed.
TEXT_ALONE = {"slurm logs"}

# A mistake for each verb, and the exit code of it.
MISTAKES = {
    "train": ("train none", 2),
    "train --dry-run": ("train none --dry-run", 2),
    "plan": ("plan none", 2),
    "evaluate": ("evaluate none", 5),
    "evaluate --show-crops": ("evaluate none --show-crops x.jpg", 5),
    "ensemble": ("ensemble none other", 3),
    "study": ("study none", 2),
    "report": ("report none", 5),
    "watch": ("watch none", 5),
    "export": ("export none", 5),
    "predict": ("predict none x.jpg", 5),
    "predict --submission": ("predict none x.jpg --submission s.txt", 5),
    "recipes list": ("recipes list more", 2),
    "recipes show": ("recipes show none", 2),
    "recipes copy": ("recipes copy none x.yaml", 2),
    "recipes check": ("recipes check none", 2),
    "data check": ("data check none", 3),
    "data pack": ("data pack none packed", 3),
    "data fetch": ("data fetch none data", 2),
    "models list": ("models list more", 2),
    "models show": ("models show none", 2),
    "weights import": ("weights import none.pth --model resnet_18", 5),
    "runs list": ("runs list none", 5),
    "runs show": ("runs show none", 5),
    "runs compare": ("runs compare none other", 5),
    "runs prune": ("runs prune none", 5),
    "checkpoints list": ("checkpoints list none", 5),
    "checkpoints verify": ("checkpoints verify none", 5),
    "checkpoints show": ("checkpoints show none", 5),
    "slurm submit": ("slurm submit none --nodes 1 --time 1:00", 2),
    "slurm status": ("slurm status none", 5),
    "slurm cancel": ("slurm cancel none", 5),
    "bench data": ("bench data none", 2),
    "bench photographs": ("bench photographs none made --size x", 2),
    "bench lists": ("bench lists --images 1", 2),
    "bench checkpoint": ("bench checkpoint none", 2),
    "bench evaluate": ("bench evaluate none", 2),
    "bench step": ("bench step none", 2),
    "bench train": ("bench train none", 2),
    "recipes suggest": ("recipes suggest none", 3),
    "data preview": ("data preview none", 2),
    "weights fetch": ("weights fetch none", 2),
    "bench lr": ("bench lr none", 2),
    "bench start": ("bench start none", 2),
    "bench allreduce": ("bench allreduce", 2),
    "bench compare": ("bench compare none.json other.json", 3),
    "doctor": ("doctor more", 2),
}


def verbs() -> dict[str, set[str]]:
    """Every command and its options."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        below = command.commands if isinstance(command, TyperGroup) else {"": command}
        for sub, one in below.items():
            found[f"{name} {sub}".strip()] = {option for parameter in one.params for option in parameter.opts}
    return found


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "SLURM_PROCID", ERROR_FILE):
        monkeypatch.delenv(name, raising=False)


def test_every_command_has_it() -> None:
    assert {name for name, options in verbs().items() if "--json" not in options} == TEXT_ALONE
    assert {name.split(" --")[0] for name in MISTAKES} == set(verbs()) - TEXT_ALONE


@pytest.mark.parametrize("verb", MISTAKES)
def test_what_goes_wrong_is_json_too(verb: str) -> None:
    words, code = MISTAKES[verb]
    result = CliRunner().invoke(app, [*words.split(), "--json"])
    told = json.loads(result.stdout)
    assert (result.exit_code, told["exit_code"]) == (code, code), result.stderr
    assert told["error"] and told["hint"] and "rror: " in result.stderr
    assert ERROR_FILE not in os.environ
    without = CliRunner().invoke(app, words.split())
    assert (without.exit_code, without.stdout) == (code, "")


def test_the_problems_of_a_recipe_are_told_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("train: {epochs: -1}\nmodel: {widht: 1}\n")
    for words in ("train r.yaml", "recipes check r.yaml"):
        told = json.loads(CliRunner().invoke(app, [*words.split(), "--json"]).stdout)
        assert [problem["where"] for problem in told["problems"]] == ["r.yaml:1", "r.yaml:2"]
        assert told["problems"][1]["hint"] == "did you mean `width`?"


def test_a_result_stays_alone_on_stdout(tmp_path: Path) -> None:
    root = two_classes(tmp_path / "images")
    (root / "train" / "class_0" / "zz.jpg").write_text("not a photograph")
    result = CliRunner().invoke(app, ["data", "check", str(root), "--json"])
    assert result.exit_code == 3 and json.loads(result.stdout)["splits"] and "zz.jpg" not in result.stderr


def test_results_that_were_words_alone(root: Path, tmp_path: Path) -> None:
    def told(*words: str | Path) -> dict[str, object]:
        result = CliRunner().invoke(app, [*map(str, words), "--json"])
        assert result.exit_code == 0, result.stderr
        return dict(json.loads(result.stdout))

    assert told("recipes", "copy", "quickstart", "mine.yaml") == {"recipe": "quickstart", "copy": "mine.yaml"}
    packed = told("data", "pack", root, "packed")
    assert packed["root"] == "packed" and packed["images"] and packed["classes"]
    create_run(tmp_path / "runs" / "a", load_recipe("quickstart"))
    assert told("watch", "a")["step"] == 0
    page = told("report", "runs/a")
    assert Path(str(page["page"])).stat().st_size == page["bytes"]


def test_a_training_tells_what_came_of_it_and_what_its_ranks_died_of(tmp_path: Path) -> None:
    data = two_classes(tmp_path)
    words = ["train", "inception_v4", *sets(*TINY, "model.num_classes=2", "train.max_steps=2", f"data.root={data}"), "--json"]
    result = inceptionctl(*words, "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    told = json.loads(result.stdout)
    assert result.returncode == 0 and (told["path"], told["step"]) == ("run", 2), result.stderr
    assert told["last_loss"] == rows(tmp_path / "run")[-1]["loss"]
    again = inceptionctl(*words, "--output", "run", cwd=tmp_path)
    assert json.loads(again.stdout)["step"] == 2 and "nothing to train" in again.stderr
    # What a rank finds, its command tells: here a network that a diverged loss has ended.
    broken = inceptionctl(*words, "--set", "schedule.base_lr=1e30", "--set", "optim.clip_agc=0", "--output", "b", cwd=tmp_path)
    told = json.loads(broken.stdout)
    assert (broken.returncode, told["exit_code"]) == (6, 6) and "not finite" in told["error"] and told["hint"], broken.stderr
