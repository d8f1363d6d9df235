import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, in_batches
from inceptionctl.errors import DataError
from inceptionctl.evaluate.inputs import folder_of, load_images, loading_of
from inceptionctl.evaluate.subject import claim_machine
from inceptionctl.evaluate.unlabelled import predict
from inceptionctl.recipe.data_section import DataSection
from inceptionctl.run import Run
from tests.defaults import preparation
from tests.evaluate.making import CLASSES, INPUT_PX, photo

OPTIONS = {"preparation": preparation(INPUT_PX), "num_threads": 1}


def val_images(data: Path) -> list[Path]:
    return [path for name in CLASSES for path in sorted((data / "val" / name).iterdir())]


def test_files_from_anywhere_keep_their_order(tmp_path: Path) -> None:
    paths = [tmp_path / "b" / "c" / "2.jpg", tmp_path / "1.jpg", tmp_path / "b" / "größe 1.jpg", tmp_path / "1.jpg"]
    folder = folder_of(paths)
    assert [folder.path(i) for i in range(len(folder))] == [os.fsencode(path) for path in paths]


def test_files_with_nothing_but_the_root_in_common(data: Path) -> None:
    image = val_images(data)[0]
    folder = folder_of([image, Path("/proc/version")])
    assert image.samefile(os.fsdecode(folder.path(0)))
    assert Path("/proc/version").samefile(os.fsdecode(folder.path(1)))


def test_relative_names_and_names_that_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    odd = os.fsdecode(b"a\xff.jpg")
    photo(1, 80, 80).save(tmp_path / "plain.jpg")
    (tmp_path / "plain.jpg").rename(tmp_path / odd)
    assert folder_of([Path(odd)]).path(0) == os.fsencode(tmp_path) + b"/a\xff.jpg"
    (images,) = load_images(folder_of([Path(odd)]), batch_size=4, **OPTIONS)
    assert images.shape == (1, 3, INPUT_PX, INPUT_PX)


def test_pixels_are_those_of_an_evaluation(data: Path) -> None:
    from inceptionctl.data.dataset import open_split

    split = open_split(data, "val")
    batches = in_batches(range(len(split)), 7)
    loader = EvalLoader(split, batches, OPTIONS["preparation"], LoaderSettings(num_threads=1, seconds_to_read=60.0))  # type: ignore[arg-type]
    expected = torch.cat([batch.images.clone() for batch in loader])
    found = torch.cat([images.clone() for images in load_images(folder_of(val_images(data)), batch_size=5, **OPTIONS)])
    assert torch.equal(found, expected)


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Logits [N, 6] that can be known without a network: class i likes brightness i."""
    return images.mean((1, 2, 3))[:, None] * torch.arange(6.0)


def test_the_likeliest_come_first_with_their_probabilities(data: Path) -> None:
    paths = val_images(data)[:3]
    (images,) = load_images(folder_of(paths), batch_size=3, **OPTIONS)
    expected = brightness(images).softmax(1)
    for i, item in enumerate(predict(brightness, CLASSES, paths, **OPTIONS)):
        assert (item.image, item.reason, len(item.classes)) == (paths[i], None, 5)
        values = [value for _, value in item.classes]
        assert values == sorted(values, reverse=True)
        for name, value in item.classes:
            assert value == pytest.approx(expected[i, CLASSES.index(name)].item())


def test_fewer_than_five_classes(data: Path) -> None:
    (item,) = predict(lambda images: brightness(images)[:, :3], CLASSES[:3], val_images(data)[:1], **OPTIONS)
    assert len(item.classes) == 3
    assert sum(value for _, value in item.classes) == pytest.approx(1.0)


def test_missing_files_are_told_before_any_work() -> None:
    def never(images: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    with pytest.raises(DataError, match=r"no such image file: nowhere.jpg, /tmp"):
        predict(never, CLASSES, [Path("nowhere.jpg"), Path("/tmp")], **OPTIONS)


def test_the_machine_is_used_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    machine = claim_machine()
    assert told == [machine.num_threads] == [len(os.sched_getaffinity(0))]
    assert machine.device == torch.device("cpu")
    here, gpu = machine.device, torch.device("cuda", 0)
    assert {loading_of(machine, DataSection(decode=decode), here).decode for decode in ("auto", "mixed", "cpu")} == {"cpu"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    machine = claim_machine()
    assert machine.device == torch.device("cuda", 0)
    asked = [loading_of(machine, DataSection(decode=decode), gpu) for decode in ("auto", "mixed", "cpu")]
    assert [(one.decode, one.device_id) for one in asked] == [("mixed", 0), ("mixed", 0), ("cpu", 0)]


def test_command_agrees_with_the_evaluation(run: Run, data: Path) -> None:
    paths = val_images(data)
    answer = CliRunner().invoke(app, ["predict", str(run.path), *map(str, paths), "--json"])
    assert answer.exit_code == 0, answer.output
    result = json.loads(answer.stdout)
    assert result["source"] == str(run.checkpoints / "step-00000010")
    assert [item["image"] for item in result["predictions"]] == list(map(str, paths))
    assert all(item["error"] is None for item in result["predictions"])
    top1 = [item["classes"][0]["class"] for item in result["predictions"]]
    evaluated = CliRunner().invoke(app, ["evaluate", str(run.path), "--json", "--precision", "fp32"])
    confusion = json.loads(evaluated.stdout)["confusion"]
    found = [[top1[4 * i : 4 * i + 4].count(name) for name in CLASSES] for i in range(6)]
    assert found == confusion


@pytest.fixture
def mixed(data: Path, tmp_path: Path) -> list[Path]:
    """A good image, one cut in half, a text, a good one."""
    good = val_images(data)[:2]
    cut = tmp_path / "cut [bold].jpg"
    content = good[0].read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    return [good[0], cut, text, good[1]]


def test_command_answers_the_others_and_names_the_bad(run: Run, mixed: list[Path]) -> None:
    answer = CliRunner().invoke(app, ["predict", str(run.path), *map(str, mixed)], terminal_width=200)
    assert answer.exit_code == 3
    assert answer.stdout.count("\n") >= 10  # two images with five lines each
    assert "cannot decode 2 images" in answer.stderr
    assert f"{mixed[1]}: " in answer.stderr and f"{mixed[2]}: the file is no image" in answer.stderr


def test_command_answers_the_others_in_json_too(run: Run, mixed: list[Path]) -> None:
    answer = CliRunner().invoke(app, ["predict", str(run.path), *map(str, mixed), "--json"])
    assert answer.exit_code == 3
    items = json.loads(answer.stdout)["predictions"]
    assert [len(item["classes"]) for item in items] == [5, 0, 0, 5]
    assert [item["error"] is None for item in items] == [True, False, False, True]


def test_command_with_bad_images_only(run: Run, mixed: list[Path]) -> None:
    answer = CliRunner().invoke(app, ["predict", str(run.path), str(mixed[2])])
    assert answer.exit_code == 3
    assert f"cannot decode {mixed[2]}: the file is no image" in answer.stderr
    assert answer.stdout == ""


def test_command_with_a_damaged_checkpoint(run: Run, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    (copy / "ema.safetensors").unlink()
    answer = CliRunner().invoke(app, ["predict", str(copy), str(val_images(data)[0])])
    assert answer.exit_code == 5
    assert "ema.safetensors is missing" in answer.stderr


def test_command_with_a_source_that_is_none(data: Path, tmp_path: Path) -> None:
    image = str(val_images(data)[0])
    (tmp_path / "empty").mkdir()
    for source, said in (
        ("nowhere", "no run or checkpoint"),
        (image, "is not an export"),
        (str(tmp_path), "neither a run"),
        (str(tmp_path / "empty"), "is an empty folder"),
    ):
        answer = CliRunner().invoke(app, ["predict", source, image])
        assert (answer.exit_code, said in answer.stderr) == (5, True), answer.stderr


def test_a_turned_photograph_is_predicted_as_the_network_was_trained(data: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(val_images(data)[0]) as image:
        image.save(tmp_path / "turned.png", exif=exif)
        image.save(tmp_path / "plain.png")
    images = [tmp_path / "turned.png", tmp_path / "plain.png"]
    for upright, same in ((True, False), (False, True)):
        either = preparation(INPUT_PX, exif_orientation=upright)
        seen: list[torch.Tensor] = []

        def logits(batch: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(batch.clone())
            return batch.flatten(1)[:, : len(CLASSES)]

        predict(logits, CLASSES, images, either, num_threads=1)
        assert torch.equal(*seen[0]) is same
