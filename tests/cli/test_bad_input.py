"""What users get wrong: each a worded error with the value, the place and a hint, its own exit code, and nothing overwritten."""

import shutil
import socket
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.commands import TINY, inceptionctl, refused, sets


@pytest.fixture
def mine(root: Path, tmp_path: Path) -> Path:
    """A copy of the data set to spoil."""
    copy = tmp_path / "images"
    shutil.copytree(root, copy)
    return copy


def train(tmp_path: Path, *arguments: str | Path, settings: tuple[str, ...] = ()) -> CompletedProcess[str]:
    return inceptionctl("train", "quickstart", *sets(*TINY, "model.num_classes=3", *settings), *arguments, cwd=tmp_path)


def test_a_recipe_with_problems(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text('optim:\n  epsilom: 1\n  decay: "1e-3"\n  decay: 0.5\nmodel: {width: wide}\n')
    for command in (("recipes", "check"), ("train",)):
        result = inceptionctl(*command, "r.yaml", cwd=tmp_path)
        refused(result, 2, "problems", "r.yaml:2: optim.epsilom: unknown key", "did you mean `epsilon`?")
        refused(
            result,
            2,
            "r.yaml:4: optim.decay: given twice (first at r.yaml:3)",
            "r.yaml:3: optim.decay: '1e-3' is text",
            "r.yaml:5: model.width",
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.yaml"]


def test_no_such_recipe(tmp_path: Path) -> None:
    refused(inceptionctl("train", "quickstrat", cwd=tmp_path), 2, "no recipe 'quickstrat'", "did you mean `quickstart`?")


def test_missing_data_root(tmp_path: Path) -> None:
    refused(train(tmp_path, settings=("data.root=nowhere",)), 3, "nowhere")
    assert list(tmp_path.iterdir()) == []


def test_a_class_folder_without_images(mine: Path, tmp_path: Path) -> None:
    for image in (mine / "train" / "class_1").iterdir():
        image.unlink()
    refused(train(tmp_path, settings=(f"data.root={mine}",)), 3, "class_1")


def test_another_number_of_classes(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path, settings=(f"data.root={root}", "model.num_classes=5")), 3, "3 classes", "5", "--set model.num_classes=3"
    )


def test_ranks_that_do_not_share_the_batch(root: Path, tmp_path: Path) -> None:
    refused(
        train(tmp_path, "--cpu-ranks", "3", settings=(f"data.root={root}",)), 2, "global batch of 8", "3 ranks", "2 or 4 ranks"
    )


def test_an_occupied_output_directory(root: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("dear")
    refused(train(tmp_path, "--output", "out", settings=(f"data.root={root}",)), 5, "out", "occupied")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_made(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(train(tmp_path, "--output", "file/run", settings=(f"data.root={root}",)), 4, "cannot write file/run", "--output")


def test_more_gpus_than_there_are(root: Path, tmp_path: Path) -> None:
    refused(train(tmp_path, "--gpus", "99", settings=(f"data.root={root}",)), 4, "--gpus 99")


def test_a_port_in_use(root: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(train(tmp_path, "--port", port, settings=(f"data.root={root}",)), 4, f"port {port} cannot be used")
        # The same where a launcher has named the port: rank 0 finds it taken.
        world = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        result = inceptionctl("train", "quickstart", *sets(*TINY), cwd=tmp_path, **world)
        refused(result, 4, f"127.0.0.1:{port} is in use", "MASTER_PORT")


@pytest.mark.parametrize("decode", ["mixed", "mixed_roi"])
def test_decoding_on_a_gpu_without_one(root: Path, tmp_path: Path, decode: str) -> None:
    settings = (f"data.root={root}", f"data.decode={decode}")
    refused(train(tmp_path, "--cpu-ranks", "1", settings=settings), 4, f"data.decode is `{decode}`", "auto or cpu")


def test_a_launcher_that_says_half(tmp_path: Path) -> None:
    result = inceptionctl("train", "quickstart", cwd=tmp_path, RANK="0", WORLD_SIZE="2")
    refused(result, 4, "LOCAL_RANK, MASTER_ADDR, MASTER_PORT")


@pytest.mark.parametrize("command", ["evaluate", "export", "predict"])
def test_no_such_run(command: str, tmp_path: Path) -> None:
    extra = ["x.jpg"] if command == "predict" else []
    result = inceptionctl(command, "runs/none", *extra, cwd=tmp_path)
    refused(result, 5, "runs/none")


def test_resume_from_nothing(root: Path, tmp_path: Path) -> None:
    refused(train(tmp_path, "--resume", "runs/none", settings=(f"data.root={root}",)), 5, "no run or checkpoint runs/none")


def test_copy_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: {}\n")
    refused(inceptionctl("recipes", "copy", "quickstart", "mine.yaml", cwd=tmp_path), 2, "mine.yaml already exists")
    assert (tmp_path / "mine.yaml").read_text() == "model: {}\n"


def test_unknown_options_and_verbs(tmp_path: Path) -> None:
    for words in (("train", "quickstart", "--gpu", "1"), ("trian",), ("recipes", "look")):
        result = inceptionctl(*words, cwd=tmp_path)
        assert (
            result.returncode == 2 and "Traceback" not in result.stderr and words[-1 if len(words) < 3 else -2] in result.stderr
        )


def test_a_data_set_with_unreadable_files(mine: Path, tmp_path: Path) -> None:
    (mine / "train" / "class_0" / "zz.jpg").write_text("not a photograph")
    result = inceptionctl("data", "check", mine, cwd=tmp_path)
    refused(result, 3, "1 of the images")
    assert "zz.jpg" in result.stdout
