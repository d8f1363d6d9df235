"""What cannot be trained is refused alike by `recipes check`, `train --dry-run` and `train`; hints are in each command's own words."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

import inceptionctl
from inceptionctl.cli import app
from inceptionctl.cli.help import command_of
from inceptionctl.cli.hints import worded_for
from inceptionctl.train import preflight
from tests.recipe.test_load import write

USERS = (("recipes", "check"), ("train", "--dry-run"), ("train",))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, words)], env={"COLUMNS": "200"})


def refused_by_all(recipe: str, code: int, *words: str) -> None:
    for verb, *options in USERS:
        result = run(verb, *options, recipe) if verb == "recipes" else run(verb, recipe, *options, "--output", "run")
        assert result.exit_code == code, result.stderr
        for word in words:
            assert word in result.stderr, result.stderr
    assert not Path("run").exists()


TINY = "extends: quickstart\nmodel: {width: 0.125, input_px: 75, num_classes: 3"


def test_all_that_keeps_a_recipe_from_being_trained_is_told_with_its_line(root: Path, tmp_path: Path) -> None:
    text = f"{TINY}, freeze: [stem, nose],\n  init_from: runs/none}}\ndata:\n  root: {root}/absent\n"
    refused_by_all(
        write(tmp_path, text),
        2,
        "r.yaml:2: model.freeze: the network has no block 'nose'",
        "r.yaml:3: model.init_from: there is no runs/none",
        f"r.yaml:5: the data set {root}/absent does not exist",
    )


@pytest.mark.parametrize(
    ("keys", "code", "words"),
    [
        (", freeze: [nose]}", 2, "model.freeze: the network has no block 'nose'"),
        (", init_from: runs/none}", 5, "model.init_from: there is no runs/none"),
        (
            "}\nschedule: {warmup_epochs: 20}\ntrain: {seed: x}",
            2,
            "schedule.warmup_epochs 20 must be shorter than train.epochs",
        ),
        (
            "}\ncheckpoint:\n  best_by: top5_error",
            2,
            "r.yaml:4: checkpoint.best_by: the top-5 error of 3 classes is always 0: the first checkpoint would stay the best",
        ),
    ],
)
def test_each_of_them_alone(keys: str, code: int, words: str, root: Path, tmp_path: Path) -> None:
    refused_by_all(write(tmp_path, f"{TINY}{keys}\ndata: {{root: {root}}}\n"), code, words)


def test_a_data_set_that_somebody_has_named_must_be_there(root: Path, tmp_path: Path) -> None:
    refused_by_all(write(tmp_path, f"{TINY}}}\ndata: {{root: nowhere}}\n"), 3, "the data set nowhere does not exist")
    result = run("recipes", "check", "quickstart", "--set", "data.root=nowhere")
    assert result.exit_code == 3 and "--set data.root=FOLDER" in result.stderr
    mine = write(tmp_path, f"{TINY}}}\ndata: {{root: {root}}}\n")
    assert run("recipes", "check", mine).stdout == f"{mine}: fine\n"
    wrong = run("recipes", "check", mine, "--set", "model.num_classes=7")
    assert wrong.exit_code == 3 and "has 3 classes, model.num_classes is 7" in wrong.stderr


def test_a_data_set_on_another_machine_is_left_out_when_asked_to(tmp_path: Path) -> None:
    mine = write(tmp_path, f"{TINY}, freeze: [nose]}}\ndata: {{root: nowhere}}\n")
    for verb, *options in (("recipes", "check", mine), ("train", mine, "--dry-run")):
        result = run(verb, *options, "--no-data")
        assert result.exit_code == 2 and "nowhere" not in result.stderr and "nose" in result.stderr
    result = run("train", mine, "--dry-run", "--no-data", "--set", "model.freeze=[]")
    assert result.exit_code == 0 and "unknown: nowhere was not looked at" in result.stdout, result.stderr
    result = run("train", mine, "--no-data", "--output", "run")
    assert result.exit_code == 2 and "training needs the data set" in result.stderr and not Path("run").exists()


def test_a_data_set_that_is_left_out_is_not_opened(root: Path, tmp_path: Path) -> None:
    mine = write(tmp_path, f"{TINY}}}\ndata: {{root: {root}}}\ntrain: {{global_batch_size: 32}}\n")
    for verb in (("recipes", "check", mine), ("train", mine, "--dry-run")):
        assert "fewer than a batch" in run(*verb).stderr and "fewer than a batch" not in run(*verb, "--no-data").stderr


@pytest.mark.parametrize(
    ("words", "times"),
    [(("recipes", "check"), 1), (("train", "--dry-run"), 1), (("recipes", "check", "--no-data"), 0)],
)
def test_images_are_listed_once_if_at_all(
    words: tuple[str, ...], times: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[Path] = []
    real = preflight.open_data
    monkeypatch.setattr(preflight, "open_data", lambda root, *given, **more: listed.append(root) or real(root, *given, **more))
    mine = write(tmp_path, f"{TINY}}}\ndata: {{root: {root}}}\n")
    result = run(*words, mine)
    assert result.exit_code == 0, result.stderr
    assert listed == [root] * times
    assert result.stderr.count("13 training images are fewer than a batch of 64") == times


@pytest.mark.parametrize("name", ["quickstart", "inception_v4", "elpv_fine_tune", "fine_tune", "ensemble_elpv"])
def test_placeholders_of_bundled_recipes_are_remarked(name: str) -> None:
    result = run("recipes", "check", name)
    assert result.exit_code == 0 and "fine" in result.stdout, result.stderr
    assert ": not found, so not checked" in result.stderr and "--set data.root=FOLDER" in result.stderr
    assert json.loads(run("recipes", "check", name, "--json").stdout) == {"ok": True, "problems": [], "warnings": []}


def test_the_dry_run_of_the_readme_assumes_imagenet_in_a_clone_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    result = run("train", "recipes/inception_v4.yaml", "--dry-run", "--gpus", "20")
    assert result.exit_code == 0 and "assumed: ImageNet's" in result.stdout, result.stderr
    monkeypatch.chdir("recipes")
    assert run("recipes", "check", "inception_v4", "--set", "data.root=nowhere").exit_code == 3


def test_what_is_wrong_with_all_members_is_told_once() -> None:
    result = run("recipes", "check", "ensemble_elpv", "--set", "data.root=nowhere", "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == told["exit_code"] == 3 and not told["ok"]
    assert told["error"] == f"the data set nowhere does not exist in {Path.cwd()}"


def test_hints_name_what_the_command_has(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    for words, hint in (
        ("train quickstart --set data.root=nowhere", "set it with `--set data.root=FOLDER`"),
        ("evaluate photo.jpg --data nowhere", "set it with `--data FOLDER`"),
        ("export photo.jpg --data nowhere", "set it with `--data FOLDER`"),
        ("bench evaluate quickstart --set data.root=nowhere", "set it with `--data FOLDER`"),
        ("data check nowhere", "set it with the argument ROOT"),
        ("data pack nowhere packed", "set it with the argument SRC"),
        ("bench data --set data.root=nowhere", "set it with `--set data.root=FOLDER`"),
    ):
        result = run(*words.split())
        assert result.exit_code == 3 and hint in result.stderr, result.stderr


def test_no_hint_proposes_an_option_that_the_command_lacks() -> None:
    group = get_command(app)
    sources = Path(inceptionctl.__path__[0])
    hints = {found for path in sources.rglob("*.py") for found in re.findall(r"`--set [\w.{}]+=[^`]+`", path.read_text())}
    assert len(hints) > 5
    for words in (["evaluate"], ["export"], ["predict"], ["data", "pack"], ["weights", "import"]):
        for hint in hints:
            plain = re.sub(r"\{[^}]*\}", "x", hint)
            assert "--set" not in str(worded_for(command_of(group, words), plain))
    assert worded_for(command_of(group, ["train"]), "`--set data.format=auto`") == "`--set data.format=auto`"
    assert worded_for(command_of(group, ["evaluate"]), "`--set data.format=auto`") == "`data.format: auto` in the recipe"


@pytest.mark.parametrize("words", ["evaluate photo.jpg --gpus 99", "train quickstart --gpus 99"])
def test_the_cpu_is_proposed_in_words_of_every_command(words: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    result = run(*words.split())
    assert result.exit_code == 4 and "--cpu-ranks 1 takes the CPU" in result.stderr
