"""What holds for every network of the table."""

import math

import pytest
import torch
from torch import nn

from inceptionctl.models import MODELS, build_model
from inceptionctl.models.layers import AuxHead
from inceptionctl.models.summary import endpoints, multiply_adds

# One of each family, where a test takes its time.
FAMILIES = ["bn_inception", "inception_v3", "inception_v4", "inception_resnet_v1", "inception_resnet_v2_tf_slim", "resnet_50"]
TINY = 0.125


def build(name: str, **arguments) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, num_classes=5, **{"width": TINY, **arguments})


def logits_of(output):
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", MODELS)
def test_takes_its_smallest_image_and_none_below(name: str) -> None:
    px = MODELS[name].min_input_px
    with torch.device("meta"):
        model = build(name, aux_head=False).eval()
        assert model(torch.empty(1, 3, px, px)).shape == (1, 5)
        assert model.forward_features(torch.empty(1, 3, px, px)).shape[-2:] == (1, 1)
        words = f"at least {px} x {px} px, got a side of {px - 1} px"
        for sides in ((px - 1, px), (px, px - 1)):
            with pytest.raises(ValueError, match=words):
                model(torch.empty(1, 3, *sides))


@pytest.mark.parametrize("name", [name for name, spec in MODELS.items() if spec.min_input_px == 75])
def test_75_px_is_the_true_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.device("meta"):
        model = build(name, aux_head=False)
    monkeypatch.setattr(f"{type(model).__module__}.check_input_px", lambda *arguments: None)
    with pytest.raises(RuntimeError):
        multiply_adds(model, 74)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_what_the_rest_of_the_program_relies_on(name: str) -> None:
    spec = MODELS[name]
    with torch.device("meta"):
        model = build(name, width=1.0)
        features = model.forward_features(torch.empty(2, 3, spec.default_input_px, spec.default_input_px))
    assert (model.num_classes, model.num_features) == (5, model.classifier.in_features)
    assert features.shape[:2] == (2, model.num_features)
    stages = [endpoint.name for endpoint in endpoints(model, spec.default_input_px)]
    assert stages[-2:] == ["pool", "classifier"]
    # Every trained value lies in a stage or in the auxiliary head, so a stage's name can stand for its weights.
    homes = (*(f"{stage}." for stage in stages), "aux_head.")
    assert all(parameter.startswith(homes) for parameter, _ in model.named_parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pool_is_fed_the_last_grid(name: str) -> None:
    model = build(name).eval()
    seen = []
    model.pool.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    x = torch.randn(2, 3, 107, 107)
    with torch.no_grad():
        logits = model(x)
        [(grid, pooled)] = seen
        assert torch.equal(grid, model.forward_features(x))
        torch.testing.assert_close(logits, model.classifier(grid.mean(dim=(2, 3))))
        assert pooled.shape == (2, model.num_features, 1, 1)


@pytest.mark.parametrize("name", [*FAMILIES, "inception_resnet_v2", "resnet_18"])
@pytest.mark.parametrize("width", [0.1, 0.3, 1.4])
def test_odd_widths_fit_together(name: str, width: float) -> None:
    px = MODELS[name].default_input_px
    with torch.device("meta"):
        model = build(name, width=width)
        assert logits_of(model(torch.empty(2, 3, px, px))).shape == (2, 5)
    assert all(layer.out_channels % 8 == 0 for layer in model.modules() if isinstance(layer, nn.Conv2d))


@pytest.mark.parametrize("name", FAMILIES)
def test_gradient_reaches_every_parameter(name: str) -> None:
    model = build(name, input_px=139, aux_head=True if MODELS[name].aux_head is not None else None).train()
    outputs = model(torch.randn(2, 3, 139, 139))
    sum(output.square().sum() for output in (outputs if isinstance(outputs, tuple) else (outputs,))).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", FAMILIES)
def test_eval_treats_each_image_alone(name: str) -> None:
    model = build(name, aux_head=False)
    x = torch.randn(3, 3, 107, 107)
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 0.5
        model(x)  # running statistics that leave the features of an untrained network alive
        x[1] *= 3
        model.eval()
        together = model(x)
        alone = torch.cat([model(image[None]) for image in x])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert (together[0] - together[1]).abs().max() > 1e-2


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "bn_inception"])
def test_first_weights_are_tf_slims(name: str) -> None:
    """Those of BN-Inception, which vary from layer to layer, are in test_bn_inception.py."""
    model = build(name, width=0.25, aux_head=False)
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            sigma = math.sqrt(1.3 * 2 / fan_in)
            assert layer.weight.abs().max() <= 2 * sigma * (1 + 1e-6), path
            # 0.8796 is what a cut at two sigma leaves; five standard errors of a sample of this size.
            assert layer.weight.std().item() == pytest.approx(0.8796 * sigma, rel=5 / math.sqrt(2 * layer.weight.numel())), path
            assert layer.bias is None or not layer.bias.any()
    assert not model.classifier.bias.any()
    # A dense layer of TF-slim's is Glorot uniform; the classifier of its Inception-v3 and ResNets is a 1x1 convolution.
    weight, dense = model.classifier.weight, name in ("inception_v4", "inception_resnet_v1", "inception_resnet_v2_tf_slim")
    inputs = model.num_features
    assert weight.abs().max() <= (math.sqrt(6 / (inputs + 5)) if dense else 2 * math.sqrt(2.6 / inputs)) * (1 + 1e-6)
    std = math.sqrt(2 / (inputs + 5)) if dense else math.sqrt(2 / inputs)
    assert weight.std().item() == pytest.approx(std, rel=5 / math.sqrt(2 * weight.numel()))
    assert (weight.abs() < std).float().mean().item() == pytest.approx(0.577 if dense else 0.65, abs=0.03)


@pytest.mark.parametrize("name", FAMILIES)
def test_same_seed_same_weights(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model(name, num_classes=5, width=TINY).state_dict())
    first, same, other = states
    assert all(torch.equal(first[key], same[key]) for key in first)
    drawn = [key for key, value in first.items() if value.dim() > 1]
    assert drawn and not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", FAMILIES)
def test_settings_reach_every_layer(name: str) -> None:
    options = {"aux_head": True} if MODELS[name].aux_head is not None else {}
    with torch.device("meta"):
        model = build(name, dropout=0.3, batch_norm_momentum=0.25, batch_norm_eps=0.5, **options)
    norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.25, 0.5)}
    assert model.dropout.p == 0.3
    assert not options or any(isinstance(layer, AuxHead) for layer in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_is_before_the_classifier_and_in_training_alone(name: str) -> None:
    model = build(name, dropout=0.5, aux_head=False).eval()
    x = torch.randn(1, 3, 107, 107)
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        seen = []
        model.classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
        model.pool = nn.Identity()  # the untrained features are near zero: ones in their place show what is dropped
        model.forward_features = lambda x: torch.ones(1, model.num_features)
        model.forward_last = model.forward_features
        model.dropout.train()
        model(x)
    kept = seen[-1].flatten()
    assert set(kept.tolist()) == {0.0, 2.0}


@pytest.mark.parametrize("name", FAMILIES)
def test_refuses_no_classes(name: str) -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        build_model(name, num_classes=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_autocast_makes_the_same_of_bfloat16_images(name: str) -> None:
    # The first layer rounds its input. So on a CPU training takes images in half the memory.
    px = MODELS[name].min_input_px
    images = torch.rand(2, 3, px, px).mul(2).sub(1).to(memory_format=torch.channels_last)
    outputs = []
    for taken in (images, images.bfloat16()):
        model = build(name, aux_head=False).to(memory_format=torch.channels_last).train()
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(taken)
        logits.float().square().sum().backward()
        outputs.append([logits, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))
    assert outputs[0][0].std() > 0
