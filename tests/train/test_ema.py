import numpy as np
import pytest
import torch
from torch import nn

from inceptionctl.train.optim import WeightAverage


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_average_follows_tensorflows_formula_over_weights_and_statistics() -> None:
    model = net()
    average = WeightAverage(model, decay=0.5)
    names = ("0.weight", "1.running_mean", "1.running_var")
    expected = {name: model.state_dict()[name].double().clone() for name in names}
    for update in range(1, 31):
        with torch.no_grad():
            for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
                tensor.add_(torch.randn_like(tensor))
            model[1].num_batches_tracked += 1
        average.update(model)
        decay = min(0.5, (1 + update) / (10 + update))
        for name in names:
            expected[name] = decay * expected[name] + (1 - decay) * model.state_dict()[name].double()
    for name in names:
        assert torch.allclose(average.model.state_dict()[name].double(), expected[name], atol=1e-5)
    assert average.num_updates == 30
    assert average.model.state_dict()["1.num_batches_tracked"] == 30


@pytest.mark.parametrize(("update", "decay"), [(1, 2 / 11), (10, 11 / 20), (10**9, 0.9999)])
def test_decay_warms_up(update: int, decay: float) -> None:
    assert WeightAverage(net(), 0.9999).decay_at(update) == pytest.approx(decay)


def test_counter_continues_where_it_is_set() -> None:
    model = net()
    one, two = WeightAverage(model, 0.99), WeightAverage(model, 0.99)
    two.num_updates = 500
    with torch.no_grad():
        model[0].weight.add_(1)
    one.update(model)
    two.update(model)
    moved = [np.abs((a.model[0].weight - model[0].weight).detach().numpy()).max() for a in (one, two)]
    assert moved[0] == pytest.approx(2 / 11, rel=1e-4) and moved[1] == pytest.approx(502 / 511, rel=1e-2)


def test_average_is_in_evaluation_mode_and_takes_no_gradient() -> None:
    average = WeightAverage(net(), 0.9)
    assert not average.model.training and not any(p.requires_grad for p in average.model.parameters())


def test_a_weight_of_two_modules_is_averaged_once_and_an_absent_one_not_at_all() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    model = nn.Sequential(first, second, nn.BatchNorm1d(3, affine=False))
    average = WeightAverage(model, 0.99)
    before = first.weight.detach().clone()
    with torch.no_grad():
        first.weight.add_(1)
    average.update(model)
    assert average.model[0].weight is average.model[1].weight
    assert torch.allclose(average.model[0].weight, before + 9 / 11)


def test_channels_last_weights_are_averaged_in_their_places() -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    average = WeightAverage(model, 0.0)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 3, 3, 3))
    average.update(model)
    assert torch.equal(average.model.weight, model.weight) and average.model.weight.stride() == model.weight.stride()
