import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, build_model, layers, resnet
from inceptionctl.models.bn_inception import BnInception
from inceptionctl.models.inception_resnet import InceptionResNet
from inceptionctl.models.inception_v3 import InceptionV3
from inceptionctl.models.inception_v4 import InceptionV4
from inceptionctl.models.layers import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM, ImageClassifier


def test_importing_the_table_imports_no_torch() -> None:
    code = "import inceptionctl.models, sys; assert inceptionctl.models.MODELS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_module_with_a_network_says_which() -> None:
    folder = Path(layers.__file__).parent
    having = {file.stem for file in folder.glob("*.py") if "(ImageClassifier):" in file.read_text(encoding="utf-8")}
    assert {spec.place.split(":")[0].rpartition(".")[2] for spec in MODELS.values()} == having and len(having) >= 5
    for name, spec in MODELS.items():
        module, _, kind = spec.place.partition(":")
        family = importlib.import_module(module).FAMILY
        assert name in family["networks"] and issubclass(getattr(importlib.import_module(module), kind), ImageClassifier)


def test_inception_v4_spec() -> None:
    spec = MODELS["inception_v4"]
    assert (spec.default_input_px, spec.min_input_px) == (299, 75)
    assert (spec.paper_top1_error_percent, spec.paper_top5_error_percent) == (20.0, 5.0)
    assert "1602.07261" in spec.source


def test_arguments_reach_the_network() -> None:
    with torch.device("meta"):
        model = build_model("inception_v4", num_classes=5, width=0.5, dropout=0.3, batch_norm_momentum=0.25, batch_norm_eps=0.5)
    assert isinstance(model, InceptionV4)
    assert model.classifier.weight.shape == (5, 768)
    assert model.dropout.p == 0.3
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.25, 0.5)}


def test_the_two_kernel_orders_are_told_apart() -> None:
    with torch.device("meta"):
        kernels = [
            [layer.kernel_size for layer in build_model(name, num_classes=5).modules() if isinstance(layer, nn.Conv2d)]
            for name in ("inception_v4", "inception_v4_tf_slim")
        ]
    # 2 in the stem, 4 in each of 7 Inception-B, 2 in each of 3 Inception-C.
    assert sum(paper != slim for paper, slim in zip(*kernels, strict=True)) == 2 + 7 * 4 + 3 * 2


@pytest.mark.parametrize(
    ("builder", "names"),
    [
        (InceptionV3, ("inception_v3", "inception_v3_torchvision")),
        (InceptionV4, ("inception_v4", "inception_v4_tf_slim")),
        (InceptionResNet, ("inception_resnet_v1", "inception_resnet_v2", "inception_resnet_v2_tf_slim")),
        (BnInception, ("bn_inception",)),
    ],
)
def test_the_families_repeat_the_defaults_of_their_classes(builder, names) -> None:
    # The numbers are written twice, because this package may not import layers.py, which imports torch.
    common = {
        name: p.default for name, p in inspect.signature(build_model).parameters.items() if p.default not in (p.empty, None)
    }
    del common["drop_path"]  # set on the units of a network that is built
    if MODELS[names[0]].residual_scale is None:
        del common["shortcut"], common["extra_batch_norm"]
    assert (common["batch_norm_momentum"], common["batch_norm_eps"]) == (BATCH_NORM_MOMENTUM, BATCH_NORM_EPS)
    own = {name: p.default for name, p in inspect.signature(builder).parameters.items()}
    for name in names:
        spec = MODELS[name]
        assert common == {key: own[key] for key in common}
        if spec.aux_head is not None:
            assert (own["aux_head"], own["input_px"]) == (spec.aux_head, spec.default_input_px)
            assert spec.aux_head_min_input_px == layers.MIN_AUX_INPUT_PX
        assert own.get("residual_scale") == spec.residual_scale
        assert spec.min_input_px == inspect.getmodule(builder).MIN_INPUT_PX


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.residual_unit])
def test_the_table_repeats_what_each_resnet_does_by_itself(name: str) -> None:
    spec = MODELS[name]
    assert (spec.min_input_px, spec.default_input_px) == (resnet.MIN_INPUT_PX, 224)
    kind, depth, *version = name.split("_", 2)
    with torch.device("meta"):
        built = build_model(name, num_classes=5)
        other = build_model(name, num_classes=5, residual_unit="original")
        own = resnet.ResNet(int(depth), num_classes=5, stride_in="3x3" if version == ["v1_5"] else "1x1")
    assert kind == "resnet" and str(built) == str(own)
    assert (str(other) == str(own)) == (spec.residual_unit == "original")


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown model 'inception-v4'") as caught:
        build_model("inception-v4", num_classes=5)
    assert caught.value.hint is not None and "inception_v4" in caught.value.hint


def test_an_unknown_model_unlike_any_lists_all() -> None:
    with pytest.raises(RecipeError) as caught:
        build_model("zzz", num_classes=5)
    assert caught.value.hint is not None and all(name in caught.value.hint for name in MODELS)


@pytest.mark.parametrize(
    ("name", "options", "words", "others"),
    [
        (
            "resnet_50",
            {"aux_head": True},
            "aux_head: resnet_50 has no auxiliary head",
            "inception_v3, inception_v3_torchvision",
        ),
        ("inception_resnet_v1", {"aux_head": True}, "inception_resnet_v1 has no auxiliary head", "inception_resnet_v2_tf_slim"),
        ("inception_v4", {"residual_scale": 0.1}, "residual_scale: inception_v4 has no residuals", "inception_resnet_v1,"),
        ("resnet_50", {"residual_scale": 0.1}, "residual_scale: resnet_50 has no residuals to scale", "inception_resnet_v1,"),
        ("inception_v3", {"residual_unit": "original"}, "residual_unit: inception_v3 has no", "resnet_18, resnet_34"),
        (
            "inception_v3",
            {"input_px": 106},
            "aux_head of inception_v3 needs input_px of at least 107, got 106",
            "aux_head to false",
        ),
        (
            "inception_v3",
            {"input_px": 74, "aux_head": False},
            "input_px 74 is too small for inception_v3: at least 75",
            "larger",
        ),
        ("resnet_18", {"input_px": 31}, "input_px 31 is too small for resnet_18: at least 32", "larger"),
    ],
)
def test_options_that_a_network_does_not_have(name: str, options, words: str, others: str) -> None:
    with pytest.raises(RecipeError, match=words) as caught:
        build_model(name, num_classes=5, **options)
    assert caught.value.hint is not None and others in caught.value.hint


def test_options_that_change_nothing_are_no_error() -> None:
    with torch.device("meta"):
        assert build_model("resnet_18", num_classes=5, aux_head=False).num_classes == 5
        assert build_model("inception_v3", num_classes=5, input_px=106, aux_head=False).aux_head is None


def test_a_scale_of_zero_is_not_taken_for_the_default() -> None:
    with pytest.raises(ValueError, match="must be one positive number"):
        build_model("inception_resnet_v1", num_classes=5, residual_scale=0.0)


def test_the_options_reach_the_network() -> None:
    with torch.device("meta"):
        scaled = build_model("inception_resnet_v1", num_classes=5, residual_scale=(0.1, 0.2, 0.3))
        with_head = build_model("inception_v4", num_classes=5, aux_head=True, input_px=139)
    assert (scaled.blocks_a[0].scale, scaled.blocks_b[0].scale, scaled.blocks_c[0].scale) == (0.1, 0.2, 0.3)
    assert with_head.aux_head.input_px == 139
