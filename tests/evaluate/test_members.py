"""What counts as done of an ensemble's member: its own training to its end, and an evaluation of that, of the right images."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from inceptionctl.cli import app
from inceptionctl.errors import CheckpointError, DataError
from inceptionctl.evaluate.members import EnsembleMember, MemberState, check_same_images, members_of
from inceptionctl.recipe import Ensemble, Recipe
from inceptionctl.run import Run


@pytest.fixture
def member(run: Run, tmp_path: Path) -> EnsembleMember:
    """A trained one that is evaluated by 12 crops."""
    shutil.copytree(run.path, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "evaluations")
    answer = CliRunner().invoke(app, ["evaluate", str(tmp_path / "tiny"), "--protocol", "12crop", "--precision", "fp32"])
    assert answer.exit_code == 0, answer.output
    copied = Run(tmp_path / "tiny")
    return EnsembleMember("tiny", copied.recipe(), copied)


def changed(recipe: Recipe, section: str, **keys: Any) -> Recipe:
    return recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=keys)})


def test_what_is_done_and_what_is_not(member: EnsembleMember, tmp_path: Path) -> None:
    record = member.run.evaluations / "step-00000010_ema_12crop.parquet"
    assert member.state("12crop") == MemberState(10, True, record)
    assert member.state("144crop") == member.state("single") == MemberState(10, True, None)
    assert EnsembleMember("absent", member.recipe, Run(tmp_path / "absent")).state("12crop") == MemberState(0, False, None)
    longer = EnsembleMember("tiny", changed(member.recipe, "train", epochs=2.0), member.run)
    assert longer.state("12crop") == MemberState(10, False, None)
    elsewhere = EnsembleMember("tiny", changed(member.recipe, "data", root=str(tmp_path)), member.run)
    assert elsewhere.state("12crop") == MemberState(10, True, None)
    (member.run.checkpoints / "step-00000010" / "manifest.json").unlink()  # what is newest is damaged then
    assert member.state("12crop") == MemberState(5, False, None)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda told: told.update(scales=[75]),
        lambda told: told.update(subset="non-blacklisted"),
        lambda told: [told.pop(key) for key in ("data_root", "data_root_absolute")],
        lambda told: told.update(data_root="other", data_root_absolute="/other"),
    ],
)
def test_another_evaluation_under_the_same_name(member: EnsembleMember, spoil: Callable[[dict[str, Any]], Any]) -> None:
    file = member.run.evaluations / "step-00000010_ema_12crop.json"
    told = json.loads(file.read_text())
    spoil(told)
    file.write_text(json.dumps(told))
    assert member.state("12crop").record is None


def test_the_same_data_set_however_its_root_is_spelled(
    member: EnsembleMember, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = member.run.evaluations / "step-00000010_ema_12crop.json"

    def is_found(root: str) -> bool:
        there = EnsembleMember("tiny", changed(member.recipe, "data", root=root), member.run)
        return there.state("12crop").record is not None

    monkeypatch.chdir(data.parent)
    assert all(map(is_found, (str(data), data.name, f"./{data.name}", f"../{data.parent.name}/{data.name}")))
    assert not is_found("val")
    # Evaluations of earlier versions have it as written alone; and moved with the data, a run is of the same.
    told = json.loads(file.read_text())
    for absolute in ({}, {"data_root_absolute": "/before/images"}):
        file.write_text(json.dumps({key: told[key] for key in ("subset", "scales")} | {"data_root": "images", **absolute}))
        assert is_found("images") and not is_found(data.name)


def test_a_run_of_another_recipe_is_left_alone(member: EnsembleMember) -> None:
    other = changed(member.recipe, "train", seed=9)
    ensemble = Ensemble(members={"tiny": other, "b": member.recipe})
    with pytest.raises(CheckpointError, match=r"train.seed: 0 -> 9"):
        members_of(ensemble, member.run.path.parent)


def test_members_of_different_images(member: EnsembleMember, data: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(data, tmp_path / "copy")
    other = EnsembleMember("other", changed(member.recipe, "data", root=str(copied)), Run(tmp_path / "other"))
    check_same_images([member, other])
    next((copied / "val").rglob("*.jpg")).rename(copied / "val" / "fox" / "new.jpg")
    with pytest.raises(DataError, match="tiny and other would be validated on different images"):
        check_same_images([member, other])
