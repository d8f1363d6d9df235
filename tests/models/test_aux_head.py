import pytest
import torch
from torch import nn

from inceptionctl.models import MODELS, build_model
from inceptionctl.models.layers import MIN_AUX_INPUT_PX, AuxHead, grid_px

OFFERED = [name for name, spec in MODELS.items() if spec.aux_head is not None]


def small(name: str, px: int, *, aux_head: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=5, width=0.125, input_px=px, aux_head=aux_head)


def test_who_has_one_and_who_has_it_on() -> None:
    assert {name: spec.aux_head for name, spec in MODELS.items() if spec.aux_head is not None} == {
        "inception_v3": True,
        "inception_v3_torchvision": True,
        "inception_v4": False,
        "inception_v4_tf_slim": False,
        "inception_resnet_v2": False,
        "inception_resnet_v2_tf_slim": False,
    }
    assert build_model("inception_v3", num_classes=5, width=0.125).aux_head is not None
    assert build_model("inception_v4", num_classes=5, width=0.125).aux_head is None


@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2_tf_slim"])
@pytest.mark.parametrize(("px", "grid", "kernel"), [(299, 17, 5), (139, 7, 1), (107, 5, 1), (203, 11, 3), (400, 23, 7)])
def test_grid_is_the_networks(name: str, px: int, grid: int, kernel: int) -> None:
    with torch.device("meta"):
        model = small(name, px)
        middle = model.forward_middle(torch.empty(1, 3, px, px))
    assert middle.shape[-2:] == (grid, grid)
    assert grid_px(px) == grid
    assert model.aux_head.kernel_px == kernel


@pytest.mark.parametrize("name", OFFERED)
def test_two_logits_in_training_and_one_else(name: str) -> None:
    model = small(name, 107)
    x = torch.randn(2, 3, 107, 107)
    logits, auxiliary = model(x)
    assert (logits.shape, auxiliary.shape) == ((2, 5), (2, 5))
    assert not torch.equal(logits, auxiliary)
    model.eval()
    assert model(x).shape == (2, 5)
    assert small(name, 107, aux_head=False)(x).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["inception_v3", "inception_v4", "inception_resnet_v2"])
def test_the_head_only_adds_to_the_network(name: str) -> None:
    with_head, without = small(name, 107), small(name, 107, aux_head=False)
    keys = [key for key in with_head.state_dict() if not key.startswith("aux_head.")]
    assert keys == list(without.state_dict())
    without.load_state_dict({key: with_head.state_dict()[key] for key in keys})
    x = torch.randn(2, 3, 107, 107)
    with torch.no_grad():
        for model in (with_head, without):
            model.dropout.eval()
        assert torch.equal(with_head(x)[0], without(x))


def test_gradient_flows_from_the_head_into_the_middle_but_no_further_on() -> None:
    model = small("inception_v4", 107)
    model(torch.randn(2, 3, 107, 107))[1].square().sum().backward()
    moved = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert moved == {"stem", "blocks_a", "reduction_a", "blocks_b", "aux_head"}


def test_head_by_hand() -> None:
    torch.manual_seed(0)
    model = small("inception_v4", 139)
    head: AuxHead = model.aux_head.eval()
    x = torch.randn(2, head.conv_1x1.conv.in_channels, 7, 7)
    pooled = x[:, :, :5, :5].mean(dim=(2, 3))  # one window of 5x5: stride 3 leaves no room for a second
    weight = head.conv_1x1.conv.weight.flatten(1)
    hidden = (pooled @ weight.T / (1 + 1e-3) ** 0.5).clamp(min=0)
    hidden = (hidden @ head.conv_grid.conv.weight.flatten(1).T / (1 + 1e-3) ** 0.5).clamp(min=0)
    torch.testing.assert_close(head(x), hidden @ head.classifier.weight.T + head.classifier.bias)


def test_a_grid_that_the_head_was_not_built_for() -> None:
    model = small("inception_v3", 139)
    with pytest.raises(
        ValueError, match="built for images of 139 x 139 px, which leave it a grid of 1 x 1; it got one of 5 x 5"
    ):
        model(torch.randn(2, 3, 299, 299))
    with pytest.raises(ValueError, match="it got one of 1 x 5"):
        model(torch.randn(2, 3, 139, 299))
    model.eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 299, 299)).shape == (1, 5)  # it is not asked


def test_images_too_small_for_the_pool() -> None:
    from inceptionctl.models.inception_v3 import InceptionV3

    assert MIN_AUX_INPUT_PX == 107
    with torch.device("meta"):
        InceptionV3(input_px=107)
        with pytest.raises(ValueError, match="needs images of at least 107 x 107 px, got a side of 106 px"):
            InceptionV3(input_px=106)
        assert grid_px(106) == 4  # the pool's window is 5
        assert InceptionV3(input_px=75, aux_head=False)(torch.empty(2, 3, 75, 75)).shape == (2, 1000)
