import json
import os
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.recipe import recipe_from_dict
from inceptionctl.run import Run, create_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.lock import take_lock


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["runs", *arguments])


def listed(root: Path) -> dict[str, dict[str, Any]]:
    result = invoke("list", str(root), "--json")
    assert result.exit_code == 0, result.output
    return {item["name"]: item for item in json.loads(result.stdout)}


def shown(run: Run) -> dict[str, Any]:
    result = invoke("show", str(run.path), "--json")
    assert result.exit_code == 0, result.output
    content: dict[str, Any] = json.loads(result.stdout)
    return content


def make_run(path: Path, num_rows: int = 0) -> Run:
    """A run directory as a training leaves it, with tensors of a few bytes."""
    run = create_run(path, recipe_from_dict({"train": {"epochs": 10.0}}, "test"))
    start = {"started": "2026-08-22T10:00:00+00:00", "host": "node7", "ranks": 4, "from_step": 0, "precision": "bf16"}
    run.environment_file.write_text(json.dumps([{**start, "gpus": ["Card"] * 4, "versions": {"torch": "2.13.0"}}]))
    for number in range(1, num_rows + 1):
        step = number * 10
        add_row(run, kind="train", step=step, epoch=number / 2, loss=7.0 - number, learning_rate=0.045, grad_norm=1.5)
        add_row(run, kind="evaluate", step=step, epoch=number / 2, top1_error=60.0 + abs(number - 2), top5_error=30.0, loss=3.0)
    return run


def add_row(run: Run, **row: Any) -> None:
    with run.metrics_file.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def save(run: Run, step: int, total_steps: int = 100) -> Path:
    """A checkpoint with a true manifest."""
    folder = files.step_folder(run.checkpoints, step)
    folder.mkdir()
    for name in files.FILES:
        (folder / name).write_bytes(b"tensor")
    progress = {"step": step, "total_steps": total_steps, "epoch": step / 20, "best": {}, "recipe": run.recipe().resolved()}
    (folder / "progress.json").write_text(json.dumps(progress))
    files.seal(folder)
    files.point(run.checkpoints, "latest", folder)
    return folder


def test_no_runs_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "inceptionctl train" in result.stderr
    assert json.loads(invoke("list", "--json").stdout) == []


def test_wrong_roots_are_worded(tmp_path: Path) -> None:
    missing = invoke("list", str(tmp_path / "no"))
    assert missing.exit_code == 5
    assert "cannot list" in missing.stderr
    run = make_run(tmp_path / "a")
    itself = invoke("list", str(run.path))
    assert itself.exit_code == 5
    assert f"hint: inceptionctl runs show {run.path}" in itself.stderr


def test_states(tmp_path: Path) -> None:
    make_run(tmp_path / "new", num_rows=1)
    save(make_run(tmp_path / "half", num_rows=5), 40)
    make_run(tmp_path / "never").environment_file.unlink()
    save(make_run(tmp_path / "done", num_rows=10), 100)
    (tmp_path / "not a run").mkdir()
    (tmp_path / "file").touch()
    found = listed(tmp_path)
    assert {name: item["state"] for name, item in found.items()} == {
        "new": "stopped",
        "half": "stopped",
        "never": "not started",
        "done": "finished",
    }
    half = found["half"]
    # The metrics are ahead of the checkpoint; the best error is neither the first nor the last.
    assert (half["step"], half["total_steps"], half["epoch"]) == (50, 100, 2.5)
    assert (half["best_top1_error"], half["last_loss"], half["model"]) == (60.0, 2.0, "inception_v4")
    assert half["bytes"] == sum(path.stat().st_size for path in (tmp_path / "half").rglob("*") if path.is_file())
    assert found["new"]["total_steps"] is None
    assert all(item["problems"] == [] for item in found.values())


def test_oldest_first(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "middle", "oldest")):
        recipe = make_run(tmp_path / name).recipe_file
        os.utime(recipe, (1e9 - age, 1e9 - age))
    assert list(listed(tmp_path)) == ["oldest", "middle", "newest"]


def test_longer_recipe_makes_a_finished_run_a_stopped_one(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    save(run, 100)
    assert shown(run)["state"] == "finished"
    run.recipe_file.write_text(run.recipe_file.read_text().replace("epochs: 10.0", "epochs: 20.0"))
    assert shown(run)["state"] == "stopped"


def test_list_for_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    save(make_run(tmp_path / "a", num_rows=5), 40)
    make_run(tmp_path / "b[0]").recipe_file.write_text("model: {nmae: x}\n")
    result = invoke("list", str(tmp_path))
    rows = {line.split("│")[0].strip(): [cell.strip() for cell in line.split("│")] for line in result.stdout.splitlines()}
    assert rows["a"][1:7] == ["inception_v4", "50 / 100", "2.50", "60.00", "2.0000", "stopped"]
    assert rows["b[0]"][1:7] == ["?", "0 / ?", "", "", "", "broken"]
    assert "b[0]: recipe.yaml does not load: recipe.yaml:1: model.nmae: unknown key" in result.stdout


def damage_environment(run: Run) -> None:
    run.environment_file.write_text('[{"host": ')


def damage_environment_kind(run: Run) -> None:
    run.environment_file.write_text("[1, {}]")


def damage_metrics(run: Run) -> None:
    lines = run.metrics_file.read_bytes().splitlines(keepends=True)
    run.metrics_file.write_bytes(b"".join([lines[0], b"\xff\xfe\n", b"3\n", b'{"kind": "train", "step": "x"}\n', *lines[1:]]))


def damage_recipe(run: Run) -> None:
    run.recipe_file.write_text("model: [")


def damage_rollbacks(run: Run) -> None:
    run.rollbacks_file.write_text('{"step": 1}')


def remove_recipe(run: Run) -> None:
    run.recipe_file.unlink()


def damage_pointer(run: Run) -> None:
    (run.checkpoints / "best").write_bytes(b"\xff")


def cut_tensors(run: Run) -> None:
    (run.checkpoints / "step-00000040" / "ema.safetensors").write_bytes(b"ten")


def remove_tensors(run: Run) -> None:
    (run.checkpoints / "step-00000040" / "model.safetensors").unlink()


def damage_manifest(run: Run) -> None:
    (run.checkpoints / "step-00000040" / "manifest.json").write_text("[]")


def damage_progress(run: Run) -> None:
    path = run.checkpoints / "step-00000040" / "progress.json"
    path.write_text("{" + path.read_text()[1:].replace('"step"', '"steq"'))


def remove_checkpoints(run: Run) -> None:
    for path in sorted(run.checkpoints.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.checkpoints.rmdir()


@pytest.mark.parametrize(
    ("damage", "words", "state"),
    [
        (damage_environment, "environment.json cannot be read: ", "stopped"),
        (damage_rollbacks, "rollbacks.json is not a list of rollbacks", "stopped"),
        (damage_environment_kind, "environment.json is not a list of starts", "stopped"),
        (damage_metrics, "metrics.jsonl: 3 lines, the first of them line 2, are no row of numbers", "stopped"),
        (damage_recipe, "recipe.yaml does not load: ", "stopped"),
        (remove_recipe, "recipe.yaml is missing", "stopped"),
        (damage_pointer, "checkpoints/best names no checkpoint that is there", "stopped"),
        (cut_tensors, "step-00000040: ema.safetensors has 3 bytes, not 6", "broken"),
        (remove_tensors, "step-00000040: model.safetensors is missing", "broken"),
        (damage_manifest, "step-00000040: manifest.json cannot be read", "broken"),
        (damage_progress, "step-00000040: progress.json cannot be read", "broken"),
        (remove_checkpoints, "checkpoints/ is missing", "stopped"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_damage_is_said_and_the_rest_is_shown(tmp_path: Path, damage: Any, words: str, state: str) -> None:
    run = make_run(tmp_path / "a", num_rows=3)
    save(run, 40)
    damage(run)
    item = listed(tmp_path)["a"]
    assert len(item["problems"]) == 1, item["problems"]
    assert item["problems"][0].startswith(words)
    assert item["state"] == state
    assert item["last_loss"] == 4.0
    result = invoke("show", str(run.path))
    assert result.exit_code == 0
    assert f"problem: {words}" in result.stdout


def test_row_that_is_being_written_is_no_damage(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", num_rows=2)
    with run.metrics_file.open("a") as file:
        file.write('{"kind": "train", "st')
    assert listed(tmp_path)["a"]["problems"] == []


def test_loss_that_is_not_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", num_rows=2)
    add_row(run, kind="train", step=30, epoch=1.5, loss=float("nan"))
    add_row(run, kind="evaluate", step=30, epoch=1.5, top1_error=float("nan"), loss=float("inf"))
    result = invoke("list", str(tmp_path), "--json")
    assert "NaN" not in result.stdout
    assert listed(tmp_path)["a"]["last_loss"] is None
    assert listed(tmp_path)["a"]["best_top1_error"] == 60.0
    assert shown(run)["evaluate_rows"][-1]["loss"] is None
    monkeypatch.setenv("COLUMNS", "160")
    assert " nan " in invoke("list", str(tmp_path)).stdout


@pytest.mark.parametrize(("num_classes", "told"), [(5, None), (6, 0.0)])
def test_a_top5_error_that_says_nothing_is_null_in_json(tmp_path: Path, num_classes: int, told: float | None) -> None:
    run = create_run(tmp_path / "a", recipe_from_dict({"model": {"num_classes": num_classes}}, "test"))
    add_row(run, kind="evaluate", step=10, epoch=0.5, top1_error=20.0, top5_error=0.0, loss=3.0, num_images=9)
    (row,) = shown(run)["evaluate_rows"]
    assert (row["top1_error"], row["top5_error"]) == (20.0, told)
    text = invoke("show", str(run.path)).stdout
    assert "accuracy %" in text and " 80.00 " in text and ("top-5" in text) is (told is not None)


def test_show_tells_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", num_rows=8)
    older, newer = save(run, 40), save(run, 80)
    files.point(run.checkpoints, "best", older)
    (run.evaluations / "step-00000080_ema_single.json").write_text("{}")
    (run.export / "onnx").mkdir(parents=True)
    (run.export / "onnx" / "model.onnx").write_bytes(b"12345")
    content = shown(run)
    assert content["recipe"]["train.epochs"] == 10.0
    assert content["starts"][0]["host"] == "node7"
    assert content["last_train_row"]["step"] == 80
    assert [row["top1_error"] for row in content["evaluate_rows"]][:3] == [61.0, 60.0, 61.0]
    assert [(item["name"], item["pointers"]) for item in content["checkpoints"]] == [
        (older.name, ["best"]),
        (newer.name, ["latest"]),
    ]
    assert content["evaluations"] == [{"name": "step-00000080_ema_single.json", "bytes": 2}]
    assert content["export"] == [{"name": "onnx/model.onnx", "bytes": 5}]
    monkeypatch.setenv("COLUMNS", "160")
    text = invoke("show", str(run.path)).stdout
    for words in (
        "stopped",
        "80 of 100, epoch 4.00",
        "node7",
        "4 x Card",
        "torch 2.13.0",
        "61.00",
        "best",
        "onnx/model.onnx",
    ):
        assert words in text


def test_next_commands(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run")
    path = shlex.quote(str(run.path))
    going_on = f"inceptionctl train {shlex.quote(str(run.recipe_file))} --output {path}"
    assert shown(run)["next"] == [going_on]
    save(run, 40)
    assert shown(run)["next"] == [going_on]
    save(run, 100)
    assert shown(run)["next"] == [f"inceptionctl evaluate {path}", f"inceptionctl export {path}"]
    (run.evaluations / "a.json").touch()
    assert shown(run)["next"] == [f"inceptionctl export {path}"]
    run.export.mkdir()
    (run.export / "model.onnx").touch()
    assert shown(run)["next"] == [f"inceptionctl predict {path} IMAGE.jpg"]
    damage_recipe(run)
    assert shown(run)["next"] == [f"inceptionctl recipes check {shlex.quote(str(run.recipe_file))}"]
    remove_recipe(run)
    assert shown(run)["next"] == []


def ended(run: Run, exit_code: int | None, message: str = "", **more: Any) -> None:
    """As the last start of this version leaves environment.json; without a code it was killed."""
    [*before, last] = json.loads(run.environment_file.read_text())
    last |= {"directory": "/home", **more}
    if exit_code is not None:
        last["ended"] = {"time": "2026-11-27T10:00:00+00:00", "exit_code": exit_code, "message": message}
    run.environment_file.write_text(json.dumps([*before, last]))


@pytest.mark.parametrize(
    ("code", "message", "state", "why"),
    [
        (75, "", "stopped", "stopped"),
        (6, "loss is nan at step 47\nand more", "diverged", "diverged: exit code 6, loss is nan at step 47"),
        (4, "no space left", "failed", "failed: exit code 4, no space left"),
        (1, "KeyError: 'x'", "failed", "failed: exit code 1, KeyError: 'x'"),
        (None, "", "failed", "failed: process 7 on node7 was killed or exited without saving"),
    ],
)
def test_the_end_of_the_last_start_is_the_state(tmp_path: Path, code: int | None, message: str, state: str, why: str) -> None:
    run = make_run(tmp_path / "a", num_rows=5)
    save(run, 40)
    ended(run, code, message)
    if code is None:
        run.lock_file.write_text("process 7 on node7\n")
    found = shown(run)
    assert listed(tmp_path)["a"]["state"] == found["state"] == state
    assert (found["ended"] or {}).get("exit_code") == code
    for words in (("runs", "show", str(run.path)), ("watch", str(run.path), "--once")):
        result = CliRunner().invoke(app, words, env={"COLUMNS": "160"})
        assert result.exit_code == 0 and why in result.stdout, result.stdout
    [command] = found["next"]
    assert command.endswith(" --set train.on_divergence=rollback") == (state == "diverged")
    save(run, 100)
    assert shown(run)["state"] == "finished"  # whatever came after its last save


def test_a_live_run_is_running_and_what_comes_next_is_to_watch_it(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", num_rows=5)
    save(run, 100)
    ended(run, 75)
    held, _ = take_lock(run)
    found = shown(run)
    assert (found["state"], found["next"]) == ("running", [f"inceptionctl watch {run.path}"])
    assert listed(tmp_path)["a"]["state"] == "running"
    holder = f"running: process {os.getpid()} on "
    assert holder in CliRunner().invoke(app, ["watch", str(run.path), "--once"], env={"COLUMNS": "160"}).stdout
    held.close()
    assert shown(run)["state"] == "finished"


def test_a_lock_of_another_host_counts_while_its_log_grows(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", num_rows=5)
    ended(run, None)
    run.lock_file.write_text("process 7 on node7\n")
    run.log_file.write_text("step 50")
    assert shown(run)["state"] == "running"
    os.utime(run.log_file, (1e9, 1e9))
    assert shown(run)["state"] == "failed"


def test_a_broken_run_is_not_thrown_away_by_what_comes_next(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    save(run, 40)
    cut_tensors(run)
    assert (shown(run)["state"], shown(run)["next"]) == ("broken", [f"inceptionctl checkpoints verify {run.path}"])


def test_hidden_files_are_neither_runs_nor_exports(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    save(run, 100)
    make_run(tmp_path / ".a.old")
    run.export.mkdir()
    for folder in (run.export, run.evaluations):
        (folder / ".DS_Store").touch()
    assert list(listed(tmp_path)) == ["a"]
    found = shown(run)
    assert found["next"] == [f"inceptionctl {verb} {run.path}" for verb in ("evaluate", "export")]
    assert found["evaluations"] == found["export"] == []


def test_command_that_goes_on_is_one_that_train_takes(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a run")
    save(run, 40)
    [command] = shown(run)["next"]
    result = CliRunner().invoke(app, [*shlex.split(command)[1:], "--dry-run"])
    # All that it lacks is the data.
    assert result.exit_code == 3 and "the data set data/imagenet does not exist" in result.stderr, result.output


def test_run_by_its_name_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "runs" / "mine")
    monkeypatch.chdir(tmp_path)
    assert json.loads(invoke("show", "mine", "--json").stdout)["path"] == "runs/mine"
    assert "mine" in invoke("list").stdout


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, words in (("empty", "is not a run directory"), ("none", "no run directory")):
        result = invoke("show", str(tmp_path / name))
        assert (result.exit_code, result.stdout) == (5, "")
        assert words in result.stderr
