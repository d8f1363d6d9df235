import math

import pytest
import torch
from torch import nn

from inceptionctl.models import build_model
from inceptionctl.recipe.schema import HealthSection
from inceptionctl.train.step import Health, HealthWatch, largest_value, remedy, watched_blocks


def watched(**settings: object) -> tuple[nn.Module, HealthWatch]:
    torch.manual_seed(0)
    model = build_model("inception_v4", num_classes=3, width=0.125).train()
    return model, HealthWatch(model, HealthSection(**settings))


def seen(model: nn.Module, watch: HealthWatch) -> Health:
    watch.listening = True
    model(torch.randn(4, 3, 75, 75))
    watch.listening = False
    return watch.health(torch.stack([number.float() for number in watch.numbers()]).tolist() if watch.numbers() else [])


def test_every_block_before_the_pool_is_watched() -> None:
    model, watch = watched()
    names = [name for name, _ in watched_blocks(model)]
    assert (
        names[0] == "stem.conv_1"
        and names[-1] == "blocks_c.2"
        and "blocks_b.6" in names
        and len(names) == 6 + 4 + 1 + 7 + 1 + 3
    )
    assert list(seen(model, watch).activation_rms) == names


def test_numbers_are_those_of_the_activations() -> None:
    model, watch = watched()
    outputs: dict[str, torch.Tensor] = {}
    model.blocks_a[1].register_forward_hook(lambda module, inputs, output: outputs.update(block=output.clone()))
    model.pool.register_forward_hook(lambda module, inputs, output: outputs.update(last=inputs[0].clone()))
    health = seen(model, watch)
    assert health.activation_rms["blocks_a.1"] == pytest.approx(outputs["block"].square().mean().sqrt().item(), rel=1e-5)
    assert health.zero_share == pytest.approx((outputs["last"] == 0).double().mean().item(), rel=1e-5)
    assert 0.2 < health.zero_share < 0.8  # normalised and cut at zero: about half


def test_it_measures_only_when_it_listens() -> None:
    model, watch = watched()
    model(torch.randn(2, 3, 75, 75))
    assert watch.numbers() == []


def test_switched_off_it_leaves_no_hook() -> None:
    model, _ = watched(watch=False)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_death_needs_so_many_bad_windows_in_succession() -> None:
    _, watch = watched(max_zero_share=0.9, patience_windows=3)
    bad, good = Health(0.95), Health(0.9)
    assert [watch.judge(one) for one in (bad, bad, good)] == [False] * 3 and not watch.suspects
    assert [watch.judge(bad) for _ in range(3)] == [False, False, True] and watch.suspects


def test_it_may_only_look_on() -> None:
    _, watch = watched(patience_windows=1, stop_when_dead=False)
    assert not watch.judge(Health(1.0)) and not watch.suspects


def test_blocks_to_blame() -> None:
    health = Health(0.5, {"stem": 1.0, "a": 30.0, "b": math.inf, "c": math.nan})
    assert health.first_not_finite == "b"
    assert Health(0.5, {"stem": 1.0, "a": 30.0, "b": 2.0}).largest == "a"
    assert Health(1.0, {"stem": 1.0, "a": 0.0, "b": 0.0}).first_silent == "a"
    assert Health().first_not_finite is None and Health().first_silent is None and Health().largest is None


def test_a_dead_network_shows_nothing_but_zeros() -> None:
    model, watch = watched()
    for block in model.blocks_c[-1].modules():
        if isinstance(block, nn.BatchNorm2d):
            nn.init.zeros_(block.weight)
    health = seen(model, watch)
    assert health.zero_share == 1.0 and health.first_silent == "blocks_c.2"


def test_an_extra_batch_norm_does_not_hide_a_dead_layer() -> None:
    model = build_model("inception_resnet_v1", num_classes=3, width=0.125, extra_batch_norm=True).train()
    nn.init.ones_(model.extra_batch_norm.bias)  # type: ignore[arg-type]  # as after some training; at first it is zero
    model.blocks_c[-1].register_forward_hook(lambda module, inputs, output: torch.zeros_like(output))
    assert seen(model, HealthWatch(model, HealthSection())).zero_share == 1.0


@pytest.mark.parametrize("place", [("0.weight", math.nan), ("1.running_var", math.inf), ("1.weight", -math.inf)])
def test_one_value_that_is_not_finite_is_noticed_wherever_it_is(place: tuple[str, float]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    with torch.no_grad():
        model[0].weight[0] = -3e38  # the largest of all, though its square is too large for fp32
    assert float(largest_value(model)) == pytest.approx(3e38)
    name, value = place
    model.state_dict()[name].view(-1)[-1] = value
    assert not math.isfinite(float(largest_value(model)))


@pytest.mark.parametrize(
    ("name", "scale", "words"),
    [
        ("inception_resnet_v2", 1.0, "scale the residuals down"),
        ("inception_resnet_v2", None, "lower schedule.base_lr"),
        ("inception_resnet_v2_tf_slim", None, "lower schedule.base_lr"),
        ("inception_v4", None, "lower schedule.base_lr"),
    ],
)
def test_the_remedy_fits_the_network(name: str, scale: float | None, words: str) -> None:
    with torch.device("meta"):
        model = build_model(name, num_classes=3, width=0.125, residual_scale=scale)
    assert remedy(model).startswith(words)
