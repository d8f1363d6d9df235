"""Recipes of studies: arms, points of a grid and seeds, and every problem at once."""

import json
from pathlib import Path

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.recipe import bundled_recipes, bundled_studies, find_recipe, is_study, load_any, load_recipe, load_study
from inceptionctl.recipe.schema import flatten

STUDY = """\
study:
  seeds: [1, 2]
  tune: {values: [0.1, 0.3], seeds: [7]}
  grid: {model.residual_scale: [null, 0.1], train.epochs: [2, 3]}
  pairs: [[plain, with]]
model: {width: 0.5}
arms:
  plain: {model: {name: inception_resnet_v1, shortcut: false}}
  with: {model: {name: inception_resnet_v1}, schedule: {name: cosine}}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "s.yaml"
    path.write_text(STUDY, encoding="utf-8")
    return str(path)


def test_arms_at_each_point_of_the_grid(file: str) -> None:
    study = load_study(file, ["arms.with.model.width=0.25", "train.label_smoothing=0"])
    points = [f"residual_scale={scale},epochs={epochs}" for scale in ("null", "0.1") for epochs in (2, 3)]
    assert [one.name for one in study.conditions] == [f"{arm},{point}" for arm in ("plain", "with") for point in points]
    tree = flatten(study.recipe(study.conditions[6], 2, 0.3).resolved())
    wanted = {
        **{"model.width": 0.25, "model.residual_scale": 0.1, "model.shortcut": True, "train.epochs": 2.0, "train.seed": 2},
        **{"schedule.name": "cosine", "schedule.base_lr": 0.3, "train.label_smoothing": 0.0},
    }
    assert {key: tree[key] for key in wanted} == wanted
    plain = study.recipe(study.conditions[0], 1, 0.1)
    assert (plain.model.shortcut, plain.model.width, plain.model.residual_scale) == (False, 0.5, None)


@pytest.mark.parametrize(
    ("setting", "words", "hint"),
    [
        ("study.seeds=[1, 7]", "seeds has [7], which tune.seeds has too", ""),
        ("study.seeds=[1, 1]", "seeds has a seed twice", ""),
        ("study.seeds=[]", "study.seeds", ""),
        ("study.tune.key=train.epochs", "tune.key train.epochs is in grid too", ""),
        ("study.tune.key=train.seed", "train.seed is not a key that can be varied", ""),
        ("study.pairs=[[plain, without]]", "study.pairs names without, which is no arm", "arms are plain, with"),
        ("study.pairs=[[plain, plain]]", "pairs compares plain with itself", "name two arms"),
        ("study.pairs=[[plain, with], [plain, with]]", "pairs compares plain twice", "remove the pair"),
        ("study.grid={model.residual_scale: [1.0, 1]}", "has two values that are both called 1", "names of their own"),
        ("study.grid={model.init_from: [a/b, a|b]}", "has two values that are both called a_b", "names of their own"),
        ("study.tune.values=[0.01, 0.01]", "tune.values has two values that are both called 0.01", "names of their own"),
        ("study.ensembles={e: {plain: 1}}", "ensembles.e has one network", "at least two"),
        ("study.ensembles={e: {plain: 3}}", "takes 3 networks of plain, but seeds has 2", "3 seeds for one draw, 9 for three"),
        ("study.ensembles={e: {none: 2}}", "study.ensembles.e names none, which is no arm", "arms are plain, with"),
        ("study.ensembles={with: {plain: 2}}", "study.ensembles.with has the name of an arm", "rename one"),
        ("study.foo=1", "study.foo: unknown key", "known keys here: question, seeds"),
        ("foo=1", "foo: unknown key", ""),
        ("arms.wiht.model.width=1", "arms.wiht: no such arm", "did you mean `with`?"),
        ("arms.with.model.width=-1", "arms.with.model.width", ""),
        ("model.width=-1", "model.width", ""),
    ],
)
def test_problems_name_key_and_place(file: str, setting: str, words: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_study(file, [setting])
    (problem,) = caught.value.problems
    assert words in problem.message and problem.where == f"--set {setting}" and hint in (problem.hint or "")


def test_names_of_points_are_names_of_folders(file: str) -> None:
    values = [None, "runs/pre trained/checkpoints/best", f"/scratch/{'x' * 300}/last"]
    study = load_study(file, [f"study.grid={{model.init_from: {json.dumps(values)}, train.epochs: [0.1, 0.10000001]}}"])
    names = [one.name for one in study.conditions]
    assert names[1] == "plain,residual_scale=null,epochs=0.1,init_from=runs_pre_trained_checkpoints_best"
    assert "epochs=0.10000001," in names[3] and len(set(names)) == 24
    assert all("/" not in name and len(name) < 100 for name in names)


def test_a_study_without_arms_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("study: {}\narms: {}\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_study(str(path))
    assert [problem.message for problem in caught.value.problems] == ["arms is empty"]


def test_a_value_of_the_grid_that_does_not_fit_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("study:\n  grid:\n    model.width: [1, -1]\narms: {a: {}}\n", encoding="utf-8")
    with pytest.raises(RecipeError) as caught:
        load_study(str(path))
    (problem,) = caught.value.problems
    assert problem.where == f"{path}:3" and problem.message.startswith("arms.a.model.width: -1")


@pytest.mark.parametrize("name", bundled_studies())
def test_bundled_studies_load_and_open_with_their_facts(name: str) -> None:
    study = load_study(name)
    assert study.first_recipes() and set(study.resolved()) == {"study", "arms"}
    head = bundled_studies()[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert all(f"# {key}: " in head for key in ("source", "expected", "cost", "command"))


def test_kinds_of_recipes_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_study("residual") and not is_study("quickstart") and not set(bundled_studies()) & set(bundled_recipes())
    monkeypatch.chdir(tmp_path)
    assert find_recipe("recipes/studies/residual.yaml") == find_recipe("residual") == bundled_studies()["residual"]
    assert type(load_any("residual")).__name__ == "Study"
    with pytest.raises(RecipeError, match="is a study, not a single training"):
        load_recipe("residual")
