import inspect
import subprocess
import sys

import pytest
import torch
from torch import nn

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, aux_head, build_model
from inceptionctl.models.inception_resnet import inception_resnet
from inceptionctl.models.inception_v3 import inception_v3
from inceptionctl.models.inception_v4 import InceptionV4, inception_v4
from inceptionctl.models.layers import BATCH_NORM_EPS, BATCH_NORM_MOMENTUM


def test_importing_the_table_imports_no_torch() -> None:
    code = "import inceptionctl.models, sys; assert inceptionctl.models.MODELS; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", MODELS)
def test_every_model_builds_and_takes_its_smallest_image(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, num_classes=5, width=0.25).eval()
    px = MODELS[name].min_input_px
    with torch.no_grad():
        assert model(torch.randn(1, 3, px, px)).shape == (1, 5)


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
        (inception_v3, ("inception_v3", "inception_v3_torchvision")),
        (inception_v4, ("inception_v4", "inception_v4_tf_slim")),
        (inception_resnet, ("inception_resnet_v1", "inception_resnet_v2", "inception_resnet_v2_tf_slim")),
    ],
)
def test_the_table_repeats_the_builders_defaults(builder, names) -> None:
    # The numbers are written twice, because this package may not import layers.py, which imports torch.
    common = {
        name: p.default for name, p in inspect.signature(build_model).parameters.items() if p.default not in (p.empty, None)
    }
    assert (common["batch_norm_momentum"], common["batch_norm_eps"]) == (BATCH_NORM_MOMENTUM, BATCH_NORM_EPS)
    own = {name: p.default for name, p in inspect.signature(builder).parameters.items()}
    for name in names:
        spec = MODELS[name]
        assert common == {key: own[key] for key in common}
        if spec.aux_head is not None:
            assert (own["aux_head"], own["input_px"]) == (spec.aux_head, spec.default_input_px)
            assert spec.aux_head_min_input_px == aux_head.MIN_INPUT_PX
        for key in ("residual_scale", "residual_unit"):
            assert own.get(key) == getattr(spec, key)
        assert spec.min_input_px == inspect.getmodule(builder).MIN_INPUT_PX


def test_an_unknown_model_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="unknown model 'inception-v4'") as caught:
        build_model("inception-v4", num_classes=5)
    assert caught.value.hint is not None and "inception_v4" in caught.value.hint


def test_an_unknown_model_unlike_any_lists_all() -> None:
    with pytest.raises(RecipeError) as caught:
        build_model("zzz", num_classes=5)
    assert caught.value.hint is not None and all(name in caught.value.hint for name in MODELS)
