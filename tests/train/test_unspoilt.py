"""A run directory is as it was after every command that is refused or has nothing to do, and other images than its own are noticed."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.dataset import open_data
from inceptionctl.data.shard_writer import pack
from inceptionctl.errors import DataError, RecipeError
from inceptionctl.recipe import load_recipe
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import Run, create_run, discard_unused, located, note_end
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.data_list import check_same_images, keep_list
from inceptionctl.train.lock import take_lock
from inceptionctl.train.start import Start, check_start, decide_start, keep_start
from inceptionctl.train.startup_log import changes_in_words
from tests.commands import inceptionctl, refused, sets
from tests.data.conftest import fill

NUM_TRAIN, BATCH = 8, 4
DIRECTORY = "started from"


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder with its time and content, but for the lock, which every start takes."""
    return {
        str(path.relative_to(folder)): (path.lstat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@contextmanager
def untouched(run: Run) -> Iterator[None]:
    before = tree(run.path)
    yield
    assert tree(run.path) == before


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set `data` and a run after 6 of 10 steps; classes are as large and their files called alike."""
    folder = tmp_path_factory.mktemp("made")
    for split, count in (("train", NUM_TRAIN // 2), ("val", 2)):
        for label in range(2):
            fill(folder / DIRECTORY / "data" / split / f"class_{label}", count, seed=100 * label + 50 * (split == "val"))
    run = create_run(folder / "run", recipe())
    save(run, 6)
    run.environment_file.write_text(json.dumps([{"started": "then", "directory": str(folder / DIRECTORY)}]))
    keep_list(run, *opened(folder / DIRECTORY / "data"), "all")
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the working directory is where the run was started from."""
    folder = Path(shutil.copytree(made, tmp_path / "place"))
    environment = folder / "run" / "environment.json"
    environment.write_text(environment.read_text().replace(str(made), str(folder)))
    monkeypatch.chdir(folder / DIRECTORY)
    return folder


@pytest.fixture
def run(place: Path) -> Run:
    return Run(place / "run")


def recipe(**train: object):
    given = {"epochs": 5.0, "global_batch_size": BATCH, "micro_batch_size": BATCH, "precision": "fp32", **train}
    network = {"num_classes": 2, "input_px": 75, "width": 0.125}
    return recipe_from_dict({"model": network, "data": {"root": "data"}, "schedule": COSINE, "train": given}, "test")


COSINE = {"name": "cosine", "base_lr": 0.01}


def opened(root: Path):
    return open_data(root, 2)


def save(run: Run, step: int) -> Path:
    """A checkpoint whose manifest is true, and whose tensors are none."""
    folder = files.step_folder(run.checkpoints, step)
    folder.mkdir()
    for name in files.FILES:
        (folder / name).write_bytes(b"tensor")
    progress = {"step": step, "total_steps": 10, "epoch": step / 2, "best": {}, "recipe": run.recipe().resolved()}
    (folder / "progress.json").write_text(
        json.dumps({**progress, "classes": ["class_0", "class_1"], "num_train_images": NUM_TRAIN})
    )
    files.seal(folder)
    files.point(run.checkpoints, "latest", folder)
    return folder


def train(run: Run, *settings: str, resume: str = "auto"):
    words = ["train", str(run.recipe_file), *sets(*settings), "--cpu-ranks", "1", "--output", str(run.path)]
    return CliRunner().invoke(app, [*words, "--resume", resume])


def swap(root: Path) -> None:
    one, other = (root / "train" / f"class_{label}" for label in range(2))
    one.rename(root / "aside")
    other.rename(one)
    (root / "aside").rename(other)


def test_a_finished_run_is_left_alone_by_a_command_with_another_root(run: Run) -> None:
    save(run, 10)
    shutil.copytree("data", "other")
    with untouched(run):
        result = train(run, "data.root=other")
    assert result.exit_code == 0 and "is finished: nothing to train" in result.stderr


def nowhere(run: Run) -> tuple[str, ...]:
    return ("data.root=nowhere",)


def relabelled(run: Run) -> tuple[str, ...]:
    swap(Path(shutil.copytree("data", "other")))
    return ("data.root=other", "train.epochs=9")


def too_short(run: Run) -> tuple[str, ...]:
    return ("train.epochs=3", "train.log_every_steps=1")


def another_network(run: Run) -> tuple[str, ...]:
    return ("model.width=0.25", "train.log_every_steps=1")


def damaged(run: Run) -> tuple[str, ...]:
    (run.checkpoints / "step-00000006" / "ema.safetensors").write_bytes(b"")
    return ("train.log_every_steps=1",)


@pytest.mark.parametrize(
    ("cause", "code", "words"),
    [
        (nowhere, 3, ["the data set nowhere does not exist in "]),
        (relabelled, 3, ["trained on other images", "class_0/000 had"]),
        (too_short, 2, ["the recipe ends at step 6, and", "has made 6 already", "hint: raise train.epochs (3)"]),
        (another_network, 5, ["was started with another recipe"]),
        (damaged, 5, ["no checkpoint in", "checkpoints verify", "Nothing was deleted"]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_refused_command_changes_nothing(
    cause: Callable[[Run], tuple[str, ...]], code: int, words: list[str], run: Run
) -> None:
    settings = cause(run)
    with untouched(run):
        result = train(run, *settings)
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stderr
    assert "--resume never" not in result.stderr


def test_a_run_in_use_is_left_alone_and_the_hint_can_be_followed(run: Run, place: Path) -> None:
    held, _ = take_lock(run)
    with untouched(run):
        result = train(run, "train.epochs=9")
    held.close()
    assert result.exit_code == 5 and f"{run.path} is being trained by process" in result.stderr
    assert f"`inceptionctl watch {run.path}`" in result.stderr and "--output" in result.stderr
    assert "--resume never" not in result.stderr  # it would be refused: --output is occupied


def test_a_look_at_the_lock_keeps_nobody_from_training(run: Run) -> None:
    import threading

    run.lock_file.touch()
    look = run.lock_file.open()
    fcntl.flock(look, fcntl.LOCK_SH)
    threading.Timer(0.1, look.close).start()
    held, _ = take_lock(run)
    held.close()


def test_a_rank_that_refuses_changes_nothing(run: Run) -> None:
    """As under srun: the command is a rank itself. Nothing is wrong before the weights are loaded, which are none."""
    shutil.copytree("data", "other")
    world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29611"}
    words = ["train", run.recipe_file, *sets("data.root=other", "train.epochs=9"), "--output", run.path]
    with untouched(run):
        refused(inceptionctl(*words, cwd=Path.cwd(), DS_ACCELERATOR="cpu", **world), 5, "cannot read", "model.safetensors")
    assert run.lock_file.read_text() == ""


def test_a_start_that_goes_well_keeps_its_recipe_and_the_one_before(run: Run) -> None:
    longer = recipe(epochs=9.0)
    start = decide_start(longer, run.path, "auto")
    assert run.recipe() == recipe() and not start.is_new and not start.finished
    keep_start(start, longer)
    assert run.recipe() == longer and len(list(run.path.glob("recipe.until-step-00000006.*.yaml"))) == 1


def test_what_has_changed_since_the_last_start_is_said_with_the_rate() -> None:
    then, now = recipe(epochs=8.0), recipe(epochs=3.0)
    start = Start(Run(Path("run")), Path("run/checkpoints/step-00000002"), recipe_before=then)
    words = changes_in_words(start, now, 2, 2.0)
    assert words == [
        "changed since the last start: train.epochs: 8 -> 3",
        "the learning rate jumps with that: at step 2 it was going to be 0.009619, and is 0.0075",
    ]
    assert changes_in_words(start, then, 2, 2.0) == []
    quiet = changes_in_words(start, recipe(epochs=8.0, log_every_steps=7), 2, 2.0)
    assert quiet == ["changed since the last start: train.log_every_steps: 20 -> 7"]


def compared(run: Run, *images: object) -> list[str]:
    return check_same_images(run, run.checkpoints / "step-00000006", *images)


def refusal(run: Run, root: Path) -> str:
    with pytest.raises(DataError) as caught:
        compared(run, *opened(root), "all")
    return str(caught.value)


def test_swapped_folders_whose_files_are_called_alike_are_noticed(run: Run, place: Path) -> None:
    swap(Path("data"))
    told = refusal(run, Path("data"))
    assert f"{run.path} was trained on other images than there are in {place / DIRECTORY / 'data' / 'train'} (then " in told
    assert "the content: of 8 files that were looked at, 8 are of another size" in told
    assert f"if the change is meant, delete {run.data_list_file}" in told
    run.data_list_file.unlink()
    assert compared(run, *opened(Path("data")), "all") == []


def test_moved_images_are_named_and_another_number_of_them_cannot_be_gone_on_with(run: Run) -> None:
    Path("data/train/class_0/001.jpg").rename("data/train/class_0/other.jpg")
    told = refusal(run, Path("data"))
    assert "1 only then: class_0/001\n" in told and "1 only now: class_0/other\n" in told and "if the change is meant" in told
    Path("data/train/class_0/other.jpg").unlink()
    told = refusal(run, Path("data"))
    assert "8 images then, 7 now" in told and "1 only then: class_0/001\n" in told and "if the change is meant" not in told
    Path("data/train/class_1").rename("data/train/class_2")
    assert "the classes: 'class_1' then, 'class_2' now" in refusal_of_train(run)


def test_without_a_list_the_classes_and_the_number_must_be_those_of_the_checkpoint(run: Run) -> None:
    run.data_list_file.unlink()
    assert compared(run, *opened(Path("data")), "all") == []
    Path("data/train/class_0/001.jpg").unlink()
    told = refusal(run, Path("data"))
    assert "8 images then, 7 now" in told and "another --output, and no --resume" in told and "delete" not in told
    Path("data/train/class_1").rename("data/train/class_2")
    assert "the classes: 'class_1' then, 'class_2' now" in refusal_of_train(run)


def refusal_of_train(run: Run) -> str:
    train_set, val_set = opened_splits()
    with pytest.raises(DataError) as caught:
        compared(run, train_set, val_set, "all")
    return str(caught.value)


def opened_splits():
    from inceptionctl.data.dataset import open_split

    return open_split(Path("data"), "train"), open_split(Path("data"), "val")


def test_the_same_images_elsewhere_or_in_another_form_are_the_same(run: Run, tmp_path: Path) -> None:
    moved = Path(shutil.copytree("data", tmp_path / "moved"))
    pack(*opened(moved), tmp_path / "packed", 60_000, lambda *_: None)
    lists = {}
    for split in ("train", "val"):
        paths = sorted((moved / split).glob("*/*"))
        lists[split] = tmp_path / f"{split}.csv"
        lists[split].write_text("path,label\n" + "".join(f"{path},{path.parent.name}\n" for path in paths))
    listed = open_data(moved, 2, train_csv=lists["train"], val_csv=lists["val"])
    for images in (opened(moved), opened(tmp_path / "packed"), listed, opened(Path("data"))):
        assert compared(run, *images, "all") == []
        keep_list(run, *images, "all")  # what the next is compared with
    lines = lists["train"].read_text().splitlines()
    lists["train"].write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    with pytest.raises(DataError, match=r"the order: image 0 was class_0/000, and is class_1/003"):
        compared(run, *open_data(moved, 2, train_csv=lists["train"], val_csv=lists["val"]), "all")


def test_relabelled_shards_are_noticed(run: Run, tmp_path: Path) -> None:
    train_set, val_set = opened(Path("data"))
    pack(train_set, val_set, tmp_path / "packed", 60_000, lambda *_: None)
    train_set, val_set = opened(tmp_path / "packed")
    keep_list(run, train_set, val_set, "all")
    other = dataclasses.replace(train_set, labels=np.array([1, *train_set.labels[1:]], dtype=np.int32))
    with pytest.raises(DataError, match="1 only then: class_0/000"):
        compared(run, other, val_set, "all")


def test_other_validation_images_are_remarked_on(run: Run) -> None:
    Path("data/val/class_0/000.jpg").unlink()
    [remark] = compared(run, *opened(Path("data")), "all")
    assert "validates on other images than at the last start (4 images then, 3 now)" in remark
    assert compared(run, *opened(Path("data")), "non-blacklisted") == []


def test_a_list_that_was_damaged_is_written_anew(run: Run) -> None:
    keep_list(run, *opened(Path("data")), "all")
    whole = run.data_list_file.read_bytes()
    for damage in (b"", whole[:40], b"\x1f\x8b" + whole[5:]):
        run.data_list_file.write_bytes(damage)
        assert compared(run, *opened(Path("data")), "all") == []
        keep_list(run, *opened(Path("data")), "all")
        assert run.data_list_file.read_bytes() == whole


def test_the_end_of_a_recipe_is_compared_only_with_the_runs_own_images(run: Run) -> None:
    start, images = decide_start(recipe(epochs=3.0), run.path, "auto"), opened(Path("data"))
    with pytest.raises(RecipeError, match="ends at step 6"):
        check_start(start, recipe(epochs=3.0), *images)
    assert check_start(start, recipe(epochs=4.0), *images) == []


def test_a_relative_root_leads_to_the_data_from_anywhere(run: Run, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert located(recipe(), run).data.root == "data"
    monkeypatch.chdir(place)
    assert located(recipe(), run).data.root == str(place / DIRECTORY / "data")
    save(run, 10)
    assert train(run).exit_code == 0  # the command has found the images
    (place / "data").mkdir()  # what the words say here comes first
    assert located(recipe(), run).data.root == "data"
    assert run.recipe().data.root == "data"
    run.environment_file.write_text("[1, {")
    (place / "data").rmdir()
    assert located(recipe(), run) == recipe()


def test_an_unused_directory_is_taken_back_and_hidden_files_stay(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", recipe())
    discard_unused(run)
    assert not run.path.exists()
    run = create_run(tmp_path / "run", recipe())
    (run.path / ".DS_Store").touch()
    (run.checkpoints / ".nfs0001").touch()
    discard_unused(run)
    assert sorted(path.name for path in run.path.iterdir()) == [".DS_Store"]
    assert decide_start(recipe(), run.path, "auto").is_new  # what is hidden occupies no place


def test_hidden_files_in_a_checkpoint_are_passed_over(run: Run) -> None:
    checkpoint = run.checkpoints / "step-00000006"
    for name in (".DS_Store", "._model.safetensors", ".nfs00000000012345670000abcd"):
        (checkpoint / name).write_bytes(b"of the system")
    files.verify(checkpoint)
    assert files.newest_whole(run.checkpoints) == (checkpoint, [])
    result = CliRunner().invoke(app, ["checkpoints", "list", str(run.path), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)[0]["problem"] is None
    files.seal(checkpoint)
    assert set(files.read_manifest(checkpoint)) == set(files.FILES)
    (checkpoint / "notes.txt").touch()
    with pytest.raises(Exception, match=r"holds notes.txt, which"):
        files.verify(checkpoint)


def test_hidden_files_in_a_data_set_are_passed_over(tmp_path: Path) -> None:
    root, packed = tmp_path / "data", tmp_path / "packed"
    for split in ("train", "val"):
        for label in range(2):
            fill(root / split / f"class_{label}", 2, seed=label)
    pack(*opened(root), packed, 60_000, lambda *_: None)
    for folder, name in ((root / "train", ".ipynb_checkpoints"), (root / "val", ".Trashes")):
        (folder / name).mkdir()
    for file in (root / "train/class_0/._000.jpg", root / "val/.DS_Store", packed / "train/._train-000000.tar"):
        file.write_bytes(b"of the system")
    for where in (root, packed):
        assert [len(images) for images in opened(where)] == [4, 4]


def test_an_end_is_noted_once_and_only_of_a_start_that_has_an_entry(run: Run) -> None:
    note_end(run, 4, "the disk is full")
    [entry] = json.loads(run.environment_file.read_text())
    assert (entry["ended"]["exit_code"], entry["ended"]["message"]) == (4, "the disk is full")
    note_end(run, 0, "")
    assert json.loads(run.environment_file.read_text()) == [entry]


def test_a_recipe_of_the_package_is_found_without_a_run() -> None:
    assert located(load_recipe("quickstart"), None) == load_recipe("quickstart")
