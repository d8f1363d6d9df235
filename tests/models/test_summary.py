import pytest
import torch
from torch import nn

from inceptionctl.models import build_model
from inceptionctl.models.inception_v4 import InceptionV4
from inceptionctl.models.summary import Stage, count_parameters, endpoints, multiply_adds


class Tiny(nn.Module):
    STAGES = (Stage("conv", "Fig. 1"), Stage("conv_b", "Fig. 2"), Stage("head", "Fig. 3"))

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8))
        self.conv_b = nn.Conv2d(8, 6, (1, 3), stride=2, groups=2)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.conv_b(self.conv(x)).mean(dim=(2, 3)))


def test_tiny_network_by_hand() -> None:
    model = Tiny()
    found = [(e.name, e.source, e.shape, e.parameters, e.multiply_adds) for e in endpoints(model, 5)]
    assert found == [
        ("conv", "Fig. 1", (5, 5, 8), 8 * 27 + 16, 25 * 8 * 27),
        ("conv_b", "Fig. 2", (3, 2, 6), 6 * 4 * 3 + 6, 6 * 6 * 4 * 3),  # each of two groups sees 4 of 8 channels
        ("head", "Fig. 3", (1, 1, 4), 6 * 4 + 4, 6 * 4),
    ]
    assert multiply_adds(model, 5) == 5400 + 432 + 24
    assert count_parameters(model) == 232 + 78 + 28


def test_a_layer_called_twice_costs_twice() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(self.conv(x))

    assert multiply_adds(Twice(), 2) == 2 * 4 * 9


def test_outputs_that_are_no_single_tensor() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor):
            return {"no": "tensor"}, [x[:, :2], x]

    class Nothing(nn.Module):
        def forward(self, x: torch.Tensor) -> None:
            return None

    class Odd(nn.Module):
        STAGES = (Stage("pair", ""), Stage("nothing", ""), Stage("never", ""), Stage("tokens", ""))

        def __init__(self) -> None:
            super().__init__()
            self.pair, self.nothing, self.never, self.tokens = Pair(), Nothing(), nn.Linear(3, 5), nn.Linear(3, 4)

        def forward(self, x: torch.Tensor):
            self.nothing(x)
            return self.tokens(self.pair(x)[1][1].flatten(2).transpose(1, 2)), x

    found = [(e.name, e.shape, e.multiply_adds) for e in endpoints(Odd(), 5)]
    # Of several the first tensor counts; the stage that is not called is left out.
    assert found == [("pair", (5, 5, 2), 0), ("tokens", (1, 25, 4), 25 * 4 * 3)]


def test_an_auxiliary_head_costs_parameters_but_no_evaluation() -> None:
    with torch.device("meta"):
        models = [build_model("inception_v3", num_classes=10, width=0.25, aux_head=head) for head in (True, False)]
    with_head, without = models
    assert multiply_adds(with_head, 299) == multiply_adds(without, 299)
    assert count_parameters(with_head) == count_parameters(without) + count_parameters(with_head.aux_head)
    assert with_head.training


def test_a_network_without_stages() -> None:
    with pytest.raises(TypeError, match="Conv2d names no stages"):
        endpoints(nn.Conv2d(3, 3, 1), 5)


def test_the_model_is_left_as_it_was() -> None:
    model = InceptionV4(num_classes=10, width=0.25).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    # 75 px leave a grid of 1 x 1, where batch norm refuses to train on one image: so the copy must be in eval mode.
    multiply_adds(model, 75)
    endpoints(model, 75)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    after = model.state_dict()
    assert all(after[name].device.type == "cpu" and torch.equal(after[name], before[name]) for name in before)


def test_a_model_on_the_meta_device() -> None:
    expected = multiply_adds(InceptionV4(num_classes=10, width=0.25), 107)
    with torch.device("meta"):
        assert multiply_adds(InceptionV4(num_classes=10, width=0.25), 107) == expected


def test_the_image_has_the_models_dtype() -> None:
    class Strict(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if x.dtype != self.weight.dtype:
                raise TypeError(f"{x.dtype} into {self.weight.dtype}")
            return super().forward(x)

    assert multiply_adds(Strict(3, 8, 1).bfloat16(), 2) == 4 * 3 * 8
