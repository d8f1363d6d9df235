"""Recipes of ensembles: layers over layers, and every problem of every member at once."""

from pathlib import Path

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.recipe import (
    bundled_ensembles,
    bundled_recipes,
    dump_recipe,
    is_ensemble,
    load_any,
    load_ensemble,
    load_recipe,
)
from inceptionctl.recipe.schema import flatten

BASE = "model: {width: 0.5}\nschedule: {name: cosine, base_lr: 0.1}\ntrain: {epochs: 7}\n"


def write(tmp_path: Path, text: str, name: str = "e.yaml") -> str:
    (tmp_path / "base.yaml").write_text(BASE, encoding="utf-8")
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(path: str, *settings: str) -> dict[str, tuple[str, str | None]]:
    """message -> (where, hint) of every problem; each is told once."""
    with pytest.raises(RecipeError) as caught:
        load_ensemble(path, settings)
    found = [(problem.message, (problem.where.rpartition("/")[2], problem.hint)) for problem in caught.value.problems]
    assert len({message for message, _ in found}) == len(found)
    return dict(found)


def test_the_papers_ensemble() -> None:
    ensemble = load_ensemble("ensemble_paper")
    assert (ensemble.protocol, ensemble.shares) == ("144crop", [1.0] * 4)
    names = [recipe.model.name for recipe in ensemble.members.values()]
    assert sorted(names) == ["inception_resnet_v2"] * 3 + ["inception_v4"]
    resnets = [recipe for recipe in ensemble.members.values() if recipe.model.name == "inception_resnet_v2"]
    trees = [flatten(recipe.resolved()) for recipe in resnets]
    assert {key for tree in trees for key in tree if tree[key] != trees[0][key]} == {"train.seed"}
    alone = flatten(load_recipe("inception_resnet_v2").resolved())
    assert {key for key in alone if alone[key] != trees[0][key]} == {"train.seed"}
    assert ensemble.members["v4"] == load_recipe("inception_v4")


@pytest.mark.parametrize(
    ("name", "base", "number"), [("ensemble_inception_v3", "inception_v3", 4), ("ensemble_resnet_152", "resnet_152", 6)]
)
def test_ensembles_of_one_network_differ_in_seed_alone(name: str, base: str, number: int) -> None:
    ensemble = load_ensemble(name)
    assert list(ensemble.members.values()) == [load_recipe(base, [f"train.seed={seed}"]) for seed in range(number)]


@pytest.mark.parametrize("name", bundled_ensembles())
def test_bundled_ensembles_survive_a_round_trip_and_open_with_their_facts(name: str, tmp_path: Path) -> None:
    ensemble = load_ensemble(name)
    assert load_any(write(tmp_path, dump_recipe(ensemble))) == ensemble
    head = bundled_ensembles()[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert all(f"# {key}: " in head for key in ("source", "expected", "cost", "command", "differs"))


def test_both_kinds_are_told_apart() -> None:
    assert not set(bundled_recipes()) & set(bundled_ensembles())
    assert all(is_ensemble(name) for name in bundled_ensembles()) and not any(map(is_ensemble, bundled_recipes()))
    with pytest.raises(RecipeError, match="is an ensemble") as caught:
        load_recipe("ensemble_paper")
    assert "inceptionctl ensemble ensemble_paper" in (caught.value.hint or "")


def test_what_comes_later_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
weights: {b: 2.5}
model: {width: 0.25, num_classes: 5}
members:
  a: {extends: base.yaml, model: {input_px: 139}}
  b: {extends: base.yaml, model: {width: 0.125}, train: {seed: 4}, schedule: {name: constant, base_lr: 0.2}}
  c:
""",
    )
    ensemble = load_ensemble(path, ["model.num_classes=3", "train.seed=8", "members.b.train.seed=9", "protocol=single"])
    a, b, c = ensemble.members.values()
    assert [one.model.width for one in (a, b, c)] == [0.25, 0.125, 0.25]  # what it extends < the top < its own
    assert [one.train.epochs for one in (a, b, c)] == [7, 7, 100]
    assert [one.model.num_classes for one in (a, b, c)] == [3, 3, 3]  # --set over the file
    assert [one.train.seed for one in (a, b, c)] == [8, 9, 8]  # --set of one over --set of all
    assert [one.schedule.name for one in (a, b, c)] == ["cosine", "constant", "staircase"]  # begun anew, for that member alone
    assert (a.model.input_px, ensemble.protocol, ensemble.shares) == (139, "single", [1.0, 2.5, 1.0])


def test_an_ensemble_extends_another(tmp_path: Path) -> None:
    write(tmp_path, "members:\n  a: {extends: base.yaml}\n  b: {extends: base.yaml, train: {seed: 1}}\n", "one.yaml")
    (tmp_path / "below").mkdir()
    two = tmp_path / "below" / "two.yaml"
    two.write_text("extends: ../one.yaml\nprotocol: 12crop\nmembers:\n  b: {train: {seed: 5}}\n", encoding="utf-8")
    ensemble = load_ensemble(str(two))
    # `base.yaml` lies beside the file that names it.
    assert [(one.train.epochs, one.train.seed) for one in ensemble.members.values()] == [(7, 0), (7, 5)]
    assert ensemble.protocol == "12crop"


def test_every_problem_is_told_once_with_its_place(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
protcol: 144crop
train: {epochs: -1}
members:
  a:
    model: {widht: 1}
  b: {extends: nothing.yaml}
  c d: {}
  e: 3
weights: {x: 1, a: -1}
""",
    )
    found = problems(path, "members.z.train.seed=1", "data.rot=x", "members.a.optim.name=sdg")
    assert {message: where for message, (where, _) in found.items()} == {
        "protcol: unknown key": "e.yaml:1",
        "train.epochs: -1: input should be greater than 0": "e.yaml:2",
        "members.a.model.widht: unknown key": "e.yaml:5",
        "members.b.extends: no recipe 'nothing.yaml': neither a file nor a bundled name": "e.yaml:6",
        "members.c d: not a valid name": "e.yaml:7",
        "members.e: 3 is not a recipe": "e.yaml:8",
        "weights.a: -1: input should be greater than or equal to 0": "e.yaml:9",
        "weights.x is not a member; members are a, b, c d, e": "e.yaml:9",
        "members.z: no such member": "--set members.z.train.seed=1",
        "data.rot: unknown key": "--set data.rot=x",
        "members.a.optim.name: 'sdg' is not a choice (rmsprop, sgd, adamw, lamb)": "--set members.a.optim.name=sdg",
    }
    hints = {message: hint for message, (_, hint) in found.items()}
    assert hints["protcol: unknown key"] == "did you mean `protocol`?"
    assert hints["members.a.model.widht: unknown key"] == "did you mean `width`?"


@pytest.mark.parametrize(
    ("text", "settings", "message", "where"),
    [
        ("members: 3\n", (), "members: 3 is not a mapping", "e.yaml:1"),
        ("members: {a: {}}\n", (), "members must be at least two", "e.yaml:1"),
        ("members: {a: {}, b: {}}\n", (), "members.b is the same training as members.a", "e.yaml:1"),
        ("members:\n  a: {}\n  b: {train: {seed: 1}}\n", ("train.seed=2",), "members.b is the same training", "e.yaml:3"),
        (
            "members:\n  a: {model: {num_classes: 1000}}\n  b: {model: {num_classes: 7}}\n",
            (),
            "members.b has 7 classes, members.a has 1000",
            "e.yaml:3",
        ),
        ("members:\n  a: {extends: e.yaml}\n  b: {train: {seed: 1}}\n", (), "members.a.extends: circular", "e.yaml:2"),
        (
            "members:\n  a: {}\n  b: {train: {seed: 1}}\nweights: {c: 1}\n",
            (),
            "weights.c is not a member",
            "e.yaml:4",
        ),
        (
            "members:\n  a: {}\n  b: {train: {seed: 1}}\nweights: {a: 0, b: 0}\n",
            (),
            "weights are 0 for every member",
            "e.yaml:4",
        ),
        ("members:\n  a: {}\n  b: {train: {seed: 1}}\n", ("members=2",), "members: 2 is not a mapping", "--set members=2"),
        (
            "members:\n  a: {}\n  b: {train: {seed: 1}}\n",
            ("protocol=13crop",),
            "protocol: '13crop' is not a",
            "--set protocol=13crop",
        ),
        ("members:\n  a: {}\n  a: {}\n", (), "members.a: given twice", "e.yaml:3"),
    ],
)
def test_what_is_no_ensemble(tmp_path: Path, text: str, settings: tuple[str, ...], message: str, where: str) -> None:
    found = problems(write(tmp_path, text), *settings)
    (place,) = [place for told, (place, _) in found.items() if told.startswith(message)]
    assert place == where


def test_a_section_of_all_says_nothing_of_what_one_leaves_open(tmp_path: Path) -> None:
    (tmp_path / "sgd.yaml").write_text("optim: {name: sgd}\n", encoding="utf-8")
    path = write(
        tmp_path, "optim: {weight_decay: 1e-5}\nmembers:\n  a: {}\n  b: {extends: sgd.yaml}\n  c: {train: {seed: 1}}\n"
    )
    optimizers = [member.optim for member in load_ensemble(path).members.values()]
    assert [optim.name for optim in optimizers] == ["rmsprop", "sgd", "rmsprop"]
    assert {optim.weight_decay for optim in optimizers} == {1e-5}
