"""What other programs' users write into a recipe or behind --set, and what they are told."""

from pathlib import Path

import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, hint_of_name
from inceptionctl.recipe import load_ensemble, load_recipe
from inceptionctl.recipe.keys import all_keys, is_text
from inceptionctl.recipe.synonyms import INSTEAD_OF, KEY_OF
from tests.recipe.test_load import problems, write

TEXTS = ("data/my #1 set", "a: b", '"quoted"', "yes", "2012", "1e-3", "[a", "*star", " spaced ", "it's", "{x}", "a=b", "true")


@pytest.mark.parametrize("text", TEXTS)
def test_what_follows_a_key_of_text_is_its_text(text: str) -> None:
    recipe = load_recipe("quickstart", [f"data.root={text}", f"data.class_names={text}", f"export.data_license={text}"])
    assert (recipe.data.root, recipe.data.class_names, recipe.export.data_license) == (text, text, text)


def test_members_of_an_ensemble_take_text_too() -> None:
    loaded = load_ensemble("ensemble_elpv", ["data.root=my #1 set"])
    assert {member.data.root for member in loaded.members.values()} == {"my #1 set"}
    name = next(iter(loaded.members))
    loaded = load_ensemble("ensemble_elpv", [f"members.{name}.data.root=my #2 set"])
    assert loaded.members[name].data.root == "my #2 set"


def test_other_keys_are_yaml_as_before() -> None:
    settings = ["data.class_names=null", "train.seed=3 # the third", "model.freeze=[stem, '#1']", "train.precision=fp32"]
    recipe = load_recipe("quickstart", [*settings, "data.mean=[0.1, 0.2, 0.3]", "optim.clip_global_norm=~"])
    assert (recipe.data.class_names, recipe.train.seed, recipe.model.freeze) == (None, 3, ["stem", "#1"])
    assert recipe.data.mean == (0.1, 0.2, 0.3)


def test_keys_of_text_are_those_of_the_schema() -> None:
    texts = {key for key in all_keys() if is_text(tuple(key.split(".")))}
    assert {"data.root", "model.name", "optim.name", "train.precision", "evaluate.blacklist", "export.license"} <= texts
    assert not {"model.freeze", "train.zero_stage", "model.residual_scale", "export.formats", "data.mean", "train.tf32"} & texts


@pytest.mark.parametrize(
    ("written", "hint"),
    [
        ("train.batch_size=64", "it is `train.global_batch_size` here, of all ranks together"),
        ("optim.lr=0.1", "it is `schedule.base_lr` here"),
        ("lr=0.1", "it is `schedule.base_lr` here"),
        ("train.lr=0.1", "it is `schedule.base_lr` here"),
        ("optim.learning_rate=0.1", "it is `schedule.base_lr` here"),
        ("train.weight_decay=0.1", "it is `optim.weight_decay`"),
        ("train.momentum=0.9", "it is `optim.momentum`"),
        ("epochs=3", "it is `train.epochs`"),
        ("data.img_size=224", "it is `model.input_px` here"),
        ("data.num_classes=4", "it is `model.num_classes`"),
        ("train.amp=true", "it is `train.precision` here: auto, fp32 or bf16"),
        ("model.ema_decay=0.99", "it is `train.ema_decay`"),
        ("train.clip_grad=1", "it is `optim.clip_global_norm` here"),
        ("train.smoothing=0.1", "it is `train.label_smoothing` here"),
        ("model.drop=0.1", "it is `model.dropout` here"),
        ("train.workers=4", "it is `data.num_threads` here"),
        ("train.gradient_accumulation_steps=4", "it is computed: train.global_batch_size"),
        ("train.gpus=4", "--gpus N or --cpu-ranks N"),
        ("data.mixup=0.2", "it is `data.augment.mix.mixup_alpha` here"),
        ("data.aug_splits=3", "there is none"),
        ("train.epoch=3", "did you mean `epochs`?"),
    ],
)
def test_keys_of_other_programs(written: str, hint: str) -> None:
    [(_, (_, found))] = problems("quickstart", written).items()
    assert hint in str(found)


def test_a_key_of_another_optimizer_says_whose_it_is(tmp_path: Path) -> None:
    found = problems(write(tmp_path, "optim: {name: adamw, momentum: 0.9}\n"))
    assert found["optim.momentum: unknown key"][1] == "it is a key of rmsprop and sgd; optim.name is adamw"


def test_every_synonym_is_of_a_key_that_there_is_and_of_none_itself() -> None:
    keys = set(all_keys())
    assert set(KEY_OF.values()) <= keys
    assert not {name for name in KEY_OF if KEY_OF[name].endswith(f".{name}")} and not set(KEY_OF) & set(INSTEAD_OF)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("resnet50", "resnet_50_v1_5"),
        ("ResNet-101", "resnet_101_v1_5"),
        ("resnet152.tv_in1k", "resnet_152_v1_5"),
        ("resnet18", "resnet_18"),
        ("Inception-v4", "inception_v4"),
        ("inceptionv4", "inception_v4"),
        ("Inception_ResNet_V2", "inception_resnet_v2"),
        ("InceptionResNetV2", "inception_resnet_v2"),
        ("inception-v3", "inception_v3"),
        ("inception_v2", "bn_inception"),
        ("inceptoin_v4", "inception_v4"),
    ],
)
def test_names_of_networks_elsewhere(name: str, ours: str) -> None:
    assert f"`{ours}`" in hint_of_name(name) and ours in MODELS
    found = problems("quickstart", f"model.name={name}")
    assert found[f"model.name: '{name}' is not a network"][1] == hint_of_name(name)


@pytest.mark.parametrize("name", ["resnet50d", "efficientnet_b0", "vgg16"])
def test_other_networks_of_timm_are_written_so(name: str) -> None:
    assert "timm/NAME" in hint_of_name(name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("train: {tf32: yes}\n", "write true"),
        ("train: {channels_last: off}\n", "write false"),
        ("train: {max_steps: None}\n", "write null"),
        ("evaluate: {every_epochs: off}\n", "write null"),
        ("checkpoint: {every_steps: false}\n", "write null"),
        ("data: {class_names: None}\n", "write null"),
        ("model: {name: resnet_50, residual_unit: none}\n", "write null"),
        ("train: {epochs: None}\n", "leave the key out for its default"),
        ("data: {root: 2012}\n", "it is text: write '2012' in quotes"),
        ("model: {freeze: stem}\n", "write a list: [stem]"),
        ("base: &base {seed: 1}\ntrain:\n  <<: *base\n", "extends: FILE"),
    ],
)
def test_other_yaml_is_told_what_to_write(text: str, hint: str, tmp_path: Path) -> None:
    found = problems(write(tmp_path, text))
    assert [told for _, told in found.values() if told and hint in told], found
    assert len(found) == (2 if "<<" in text else 1)


def test_rules_between_keys_are_told_beside_other_problems(tmp_path: Path) -> None:
    text = """\
model: {widht: 1, input_px: 32}
data: {augment: {crop_area: [0.5, 0.1], crop_aspect: [2, 1], contrast: x}}
schedule: {warmup_epochs: 2}
train: {epochs: 1, zero_stage: 1, seed: -1}
optim: {name: lamb}
"""
    path = write(tmp_path, text)
    found = problems(path)
    assert {message.split()[0] for message in found} == {
        "model.widht:",
        "model.input_px",
        "data.augment.crop_area",
        "data.augment.crop_aspect",
        "data.augment.contrast:",
        "schedule.warmup_epochs",
        "train.seed:",
        "optim.name",
    }
    assert found["schedule.warmup_epochs 2 must be shorter than train.epochs 1"][0] == f"{path}:3"


def test_rules_are_silent_about_defaults_in_place_of_what_is_wrong(tmp_path: Path) -> None:
    found = problems(write(tmp_path, "schedule: {warmup_epochs: 200}\ntrain: {epochs: 300x}\nmodel: {name: x, input_px: 32}\n"))
    assert [message.split()[0] for message in found] == ["train.epochs:", "model.name:"]


def test_a_rule_of_a_recipe_is_told_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(tmp_path, "schedule: {warmup_epochs: 2}\ntrain: {epochs: 1}\n"))
    assert len(caught.value.problems) == 1
