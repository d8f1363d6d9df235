import json
from pathlib import Path

import pytest
import yaml

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS
from inceptionctl.recipe import bundled_recipes, dump_recipe, find_recipe, load_recipe, recipe_from_dict
from inceptionctl.recipe.schema import Recipe, binding
from inceptionctl.recipe.variants import SgdSection
from inceptionctl.recipe.yaml_source import parse, parse_value
from inceptionctl.section import Section
from inceptionctl.train.optim import learning_rate


def write(tmp_path: Path, text: str, name: str = "r.yaml") -> str:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems(path: str, *settings: str) -> dict[str, tuple[str, str | None]]:
    """message -> (where, hint) of every problem."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, settings)
    assert caught.value.exit_code == 2
    return {problem.message: (problem.where, problem.hint) for problem in caught.value.problems}


def test_an_empty_recipe_is_the_papers_training(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, ""))
    assert recipe == Recipe()
    assert (recipe.optim.name, recipe.schedule.base_lr, recipe.train.global_batch_size) == ("rmsprop", 0.045, 640)


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_load_and_survive_a_round_trip(name: str, tmp_path: Path) -> None:
    recipe = load_recipe(name)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_open_with_their_facts(name: str) -> None:
    head = bundled_recipes()[name].read_text(encoding="utf-8").split("\n\n")[0]
    assert all(f"# {key}: " in head for key in ("source", "expected", "cost", "command", "differs"))


@pytest.mark.parametrize("name", bundled_recipes())
def test_bundled_recipes_of_imagenet_have_the_networks_image_size(name: str) -> None:
    model = load_recipe(name).model
    if model.num_classes == 1000:
        assert model.input_px == MODELS[model.name].default_input_px


def test_resnet_152_is_trained_as_its_paper_says() -> None:
    recipe = load_recipe("resnet_152")
    assert recipe.optim == SgdSection(name="sgd", momentum=0.9, weight_decay=1e-4)
    assert (recipe.model.dropout, recipe.model.batch_norm_eps, recipe.train.label_smoothing) == (0.0, 1e-5, 0.0)
    # arXiv 1512.03385, section 3.4: 600,000 steps of 256 images, from 0.1 down tenfold at a time.
    steps = recipe.train.epochs * 1_281_167 / recipe.train.global_batch_size
    assert steps == pytest.approx(600_000, rel=1e-3)
    curve = recipe.schedule
    rates = [learning_rate(curve, step=step, steps_per_epoch=5005, epochs=120) for step in (0, 150_150, 300_300, 450_450)]
    assert rates == pytest.approx([0.1, 0.01, 0.001, 0.0001])


def test_the_sgd_baseline_differs_in_its_optimizer_alone() -> None:
    paper, baseline = load_recipe("inception_v4"), load_recipe("inception_v4_sgd")
    assert baseline.optim == SgdSection(name="sgd", momentum=0.9, weight_decay=4e-5)
    assert baseline == paper.model_copy(update={"optim": baseline.optim})


@pytest.mark.parametrize("name", [name for name in bundled_recipes() if name.endswith("_modern")])
def test_a_modern_recipe_has_the_papers_network_and_says_why_it_differs(name: str) -> None:
    paper, modern = load_recipe(name.removesuffix("_modern")), load_recipe(name)
    assert MODELS[modern.model.name].place == MODELS[paper.model.name].place
    assert (modern.model.input_px, modern.model.residual_scale) == (paper.model.input_px, paper.model.residual_scale)
    assert modern.data.augment.mix.is_on and modern.data.augment.switched_on and modern.schedule.name == "cosine"
    has_residuals = MODELS[modern.model.name].residual_scale or MODELS[modern.model.name].residual_unit
    assert (modern.model.drop_path > 0.0) == bool(has_residuals)
    # RandAugment and TrivialAugment change colors.
    assert (modern.data.augment.brightness, modern.data.augment.saturation) == (0.0, 0.0)


def test_every_problem_is_reported_with_line_and_hint(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """\
model:
  width: "1e-1"
  num_clases: 4
optim: {name: sdg}
schedule:
  name: cosine
  base_lr: 0.1
  base_lr: 0.2
train:
  epochs: -1
  precision: fp61
dat: 5
""",
    )
    found = problems(path, "train.seeed=3", "nonsense", "optim.name=rmsprob")
    assert found["model.width: '1e-1' is text, not a number"] == (f"{path}:2", "remove the quotes")
    assert found["model.num_clases: unknown key"] == (f"{path}:3", "did you mean `num_classes`?")
    assert found["optim.name: 'rmsprob' is not a choice (rmsprop, sgd, adamw, lamb)"] == (
        "--set optim.name=rmsprob",
        "did you mean `rmsprop`?",
    )
    assert found[f"schedule.base_lr: given twice (first at {path}:7)"] == (f"{path}:8", "keep one of the two")
    assert found["train.epochs: -1: input should be greater than 0"][0] == f"{path}:10"
    assert found["train.precision: 'fp61' is not a choice"] == (f"{path}:11", "choose 'auto', 'fp32' or 'bf16'")
    assert found["dat: unknown key"] == (f"{path}:12", "did you mean `data`?")
    assert found["train.seeed: unknown key"] == ("--set train.seeed=3", "did you mean `seed`?")
    assert "is not of the form key.sub=value" in found
    assert len(found) == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E5", 1e5),
        ("-2.5e+3", -2500.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("null", None),
    ],
)
def test_scalars_are_yaml_1_2(text: str, value: object) -> None:
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


def test_scientific_numbers_work_in_files_and_settings(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "optim: {weight_decay: 4e-5}\n"), ["schedule.base_lr=1e-3"])
    assert (recipe.optim.weight_decay, recipe.schedule.base_lr) == (4e-5, 1e-3)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("model: [1\n", 2, "not YAML"),
        ("\tmodel: 1\n", 1, "not YAML"),
        ("- 1\n", 1, "a recipe is a mapping of sections"),
        ("model: 3\n", 1, "model: 3"),
        ("model: {input_px: 74}\n", 1, "model.input_px 74 is too small for inception_v4: at least 75"),
        ("train: {epochs: 1}\nschedule:\n  warmup_epochs: 2\n", 3, "schedule.warmup_epochs 2 must be shorter"),
        ("train:\n  collective_timeout_seconds: 60\n", 2, "train.collective_timeout_seconds 60 must be longer than data.read"),
        ("data:\n  augment:\n    crop_area: [0.5, 0.1]\n", 3, "data.augment.crop_area [0.5, 0.1] must satisfy"),
        ("data:\n  std: [0.2, 0.0, 0.2]\n", 2, "data.std"),
        ("data:\n  mean: [0.2, 0.3]\n", 2, "data.mean"),
        ("data:\n  augment:\n    resize_filters: [area, area]\n", 3, "names a filter twice"),
        ("evaluate:\n  interpolation: area\n", 2, "evaluate.interpolation"),
        ("extends: nobody\n", 1, "extends: no recipe 'nobody'"),
        ("train: {seed: true}\n", 1, "train.seed: true"),
        ("train: {epochs: .inf}\n", 1, "train.epochs: inf"),
        ("train: {seed: !!int abc}\n", 1, "not YAML"),
        ("model: !!python/object:x.Y {}\n", 1, "not YAML"),
        ("a: &a [*a]\n", 1, "not YAML"),
        ("model: {name: inception_v9}\n", 1, "'inception_v9' is not a network"),
        ("model: {name: timm/}\n", 1, "'timm/' is not a network"),
        ("model: {name: timm/resnet50, width: 0.5}\n", 1, "model.width: timm/resnet50 has the one width"),
        ("model:\n  name: inception_v4\n  residual_scale: 0.1\n", 3, "model.residual_scale: inception_v4 has no residuals"),
        ("model:\n  name: resnet_50\n  aux_head: true\n", 3, "model.aux_head: resnet_50 has no auxiliary head"),
        ("model:\n  name: inception_v3\n  residual_unit: original\n", 3, "model.residual_unit: inception_v3 has no"),
        ("model: {name: resnet_50, residual_unit: wide}\n", 1, "model.residual_unit: 'wide' is not a choice"),
        ("model:\n  name: inception_v3\n  input_px: 75\n", 1, "model: aux_head of inception_v3 needs input_px of at least 107"),
        ("model: {name: inception_resnet_v1, residual_scale: 0}\n", 1, "model.residual_scale: 0 is neither a number in (0, 1]"),
        ("model: {name: inception_resnet_v1, residual_scale: true}\n", 1, "model.residual_scale: True is neither a number"),
        ("model: {name: inception_resnet_v1, residual_scale: [0.1]}\n", 1, "model.residual_scale: [0.1] is neither a number"),
        ("model: {name: inception_resnet_v1, residual_scale: .nan}\n", 1, "model.residual_scale: nan is neither a number"),
        ("model: {name: inception_resnet_v1, residual_scale: [a, b, c]}\n", 1, "is neither a number in (0, 1]"),
    ],
)
def test_bad_recipes_are_worded(text: str, where: int, message: str, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    found = problems(path)
    assert any(message in text and place[0] == f"{path}:{where}" for text, place in found.items()), found


def test_options_of_a_network_and_their_hint(tmp_path: Path) -> None:
    text = "model: {name: inception_resnet_v1, input_px: 107, residual_scale: [0.1, 0.2, 0.3]}\n"
    recipe = load_recipe(write(tmp_path, text))
    assert recipe.model.residual_scale == (0.1, 0.2, 0.3)
    assert load_recipe(write(tmp_path, dump_recipe(recipe))) == recipe
    assert recipe_from_dict(json.loads(json.dumps(recipe.resolved())), "kept") == recipe
    assert load_recipe(write(tmp_path, text), ["model.residual_scale=1"]).model.residual_scale == 1
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, text), ["model.aux_head=true"])
    [problem] = caught.value.problems
    assert problem.where == "--set model.aux_head=true"
    assert problem.hint is not None and "inception_v3" in problem.hint


def test_a_recipe_of_before_these_options_reads_the_same() -> None:
    kept = recipe_from_dict({"model": {"name": "inception_v4", "input_px": 299}}, "kept").resolved()
    for option in ("aux_head", "residual_scale", "residual_unit"):
        assert kept["model"].pop(option) is None
    read = recipe_from_dict(kept, "kept").resolved()["model"]
    assert read == {**kept["model"], "aux_head": None, "residual_scale": None, "residual_unit": None}


def test_extends_merges_deeply_and_settings_come_last(tmp_path: Path) -> None:
    write(tmp_path, "train: {epochs: 5, seed: 1}\ndata: {augment: {hue_degrees: 3, contrast: 0.1}}\n", "base.yaml")
    top = write(tmp_path, "extends: base.yaml\ntrain: {epochs: 6}\ndata: {augment: {contrast: 0.2}}\n", "top.yaml")
    recipe = load_recipe(top, ["train.seed=9"])
    assert (recipe.train.epochs, recipe.train.seed) == (6, 9)
    assert (recipe.data.augment.hue_degrees, recipe.data.augment.contrast) == (3, 0.2)


def test_a_new_optimizer_starts_its_section_anew(tmp_path: Path) -> None:
    write(tmp_path, "optim: {name: rmsprop, epsilon: 0.5, weight_decay: 0.5}\n", "base.yaml")
    recipe = load_recipe(write(tmp_path, "extends: base.yaml\noptim: {name: sgd}\n", "top.yaml"))
    assert recipe.optim.name == "sgd" and recipe.optim.weight_decay == 4e-5


def test_extends_in_a_circle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "extends: b.yaml\n", "a.yaml")
    path = write(tmp_path, "extends: a.yaml\n", "b.yaml")
    assert any("circular" in message for message in problems(path))


def test_problems_of_a_base_name_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, "train:\n  epocs: 5\n", "base.yaml")
    found = problems(write(tmp_path, "extends: base.yaml\n", "top.yaml"))
    assert found == {"train.epocs: unknown key": (f"{base}:2", "did you mean `epochs`?")}


def test_names_are_found_or_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quickstart") == find_recipe("recipes/quickstart.yaml") == bundled_recipes()["quickstart"]
    with pytest.raises(RecipeError, match="no recipe 'quikstart'") as caught:
        find_recipe("quikstart")
    assert "did you mean `quickstart`?" in str(caught.value.hint)
    with pytest.raises(RecipeError, match="is a folder"):
        find_recipe(str(tmp_path))


def test_a_file_that_is_not_text_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="cannot read recipe"):
        load_recipe(str(path))


def test_every_key_has_a_docstring() -> None:
    sections = [Recipe, *Section.__subclasses__()]
    missing = [
        f"{kind.__name__}.{name}" for kind in sections for name, field in kind.model_fields.items() if not field.description
    ]
    assert not missing


def test_binding_keys_leave_out_what_may_change() -> None:
    keys = binding(Recipe().resolved())
    assert "optim.epsilon" in keys and "data.augment.contrast" in keys and "train.global_batch_size" in keys
    assert not {"data.root", "train.epochs", "checkpoint.keep_last", "evaluate.batch_size"} & set(keys)


def test_recipes_never_construct_objects() -> None:
    source = parse("model: !!python/object/apply:os.system ['true']\n", "x.yaml")
    assert "not YAML" in source.problems[0].message


def test_dump_is_plain_yaml() -> None:
    assert yaml.safe_load(dump_recipe(Recipe()))["model"]["name"] == "inception_v4"


def test_the_licence_of_data_does_not_go_over_to_others(tmp_path: Path) -> None:
    assert load_recipe("quickstart").export.data_license is None  # the photographs tell it themselves
    base = write(tmp_path, "data: {root: a}\nexport: {data_license: mine, license: mit}\n", "base.yaml")
    assert load_recipe(base, ["data.root=a"]).export.data_license == "mine"
    other = load_recipe(base, ["data.root=b"]).export
    assert (other.data_license, other.license) == (None, "mit")
    assert load_recipe(base, ["data.root=b", "export.data_license=theirs"]).export.data_license == "theirs"
    anywhere = write(tmp_path, "export: {data_license: mine}\n", "anywhere.yaml")
    assert load_recipe(anywhere, ["data.root=b"]).export.data_license == "mine"
    over = write(tmp_path, "extends: base.yaml\ndata: {root: b}\n", "over.yaml")
    assert load_recipe(over).export.data_license is None
