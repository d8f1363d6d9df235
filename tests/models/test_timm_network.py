import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.evaluate.trained import empty_network
from inceptionctl.models import build_model, timm_network
from inceptionctl.models.summary import count_parameters, endpoints, multiply_adds
from inceptionctl.recipe.load import recipe_from_dict
from tests.commands import inceptionctl

WITH_TIMM = Path(__file__).resolve().parents[1] / "with_timm"


@pytest.fixture(scope="module")
def timm():
    import tests.with_timm.sitecustomize  # noqa: F401

    return pytest.importorskip("timm", reason="timm is not installed: scripts/environment does it")


def test_is_timms_own_network(timm) -> None:
    torch.manual_seed(0)
    ours = build_model("timm/resnet18", num_classes=7, dropout=0.3, batch_norm_momentum=0.25, batch_norm_eps=0.5, input_px=64)
    torch.manual_seed(0)
    theirs = timm.create_model("resnet18", num_classes=7)
    assert type(ours) is type(theirs)
    assert all(torch.equal(value, theirs.state_dict()[key]) for key, value in ours.state_dict().items())
    assert ours.drop_rate == 0.3
    assert (ours.num_classes, ours.num_features, ours.get_classifier().out_features) == (7, 512, 7)
    norms = [layer for layer in ours.modules() if isinstance(layer, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.25, 0.5)}
    assert ours(torch.randn(2, 3, 64, 64)).shape == (2, 7)


def test_has_what_ours_have(timm) -> None:
    model = build_model("timm/resnet18", num_classes=1000)
    found = {endpoint.name: endpoint for endpoint in endpoints(model, 224)}
    assert (found["layer4"].shape, found["fc"].shape) == ((7, 7, 512), (1, 1, 1000))
    assert sum(endpoint.parameters for endpoint in found.values()) == count_parameters(model) == 11_689_512
    assert multiply_adds(model, 224) == 1_814_073_344
    assert model.pool is model.global_pool
    assert not any(name.startswith("pool") for name, _ in model.named_modules(remove_duplicate=False))


@pytest.mark.parametrize(("name", "depth"), [("resnet50", "resnet_50_v1_5"), ("resnet34", "resnet_34")])
def test_our_resnets_cost_what_timms_do(timm, name: str, depth: str) -> None:
    with torch.device("meta"):
        ours = build_model(depth, num_classes=1000)
    theirs = build_model(f"timm/{name}", num_classes=1000)
    assert count_parameters(ours) == count_parameters(theirs)
    assert multiply_adds(ours, 224) == multiply_adds(theirs, 224)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_network_of_one_input_size_is_built_for_it(timm, name: str) -> None:
    model = build_model(f"timm/{name}", num_classes=3, input_px=112).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 112, 112)).shape == (1, 3)
    assert endpoints(model, 112)[-1].shape == (1, 1, 3)


def test_an_empty_network_takes_weights_and_keeps_the_tables_that_no_checkpoint_holds(timm) -> None:
    # Swin's index of relative positions is a buffer outside the state dict: a network made on "meta" would hold garbage there.
    arguments = {"name": "timm/swin_tiny_patch4_window7_224", "num_classes": 3, "input_px": 64}
    model = build_model(**arguments).eval()
    empty = empty_network(arguments)
    empty.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(empty(x), model(x))
    assert not any(parameter.requires_grad for parameter in empty.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"width": 0.5}, "width: timm/resnet18 has the one width that timm gives it, got 0.5"),
        ({"residual_scale": 0.1}, "residual_scale: timm/resnet18 has no residuals to scale"),
        ({"residual_unit": "original"}, "residual_unit: timm/resnet18 has no residual units"),
        ({"aux_head": True}, "aux_head: timm/resnet18 has no auxiliary head"),
    ],
)
def test_options_that_timms_networks_do_not_have(options, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        build_model("timm/resnet18", num_classes=3, **options)


def test_an_unknown_network_names_the_nearest(timm) -> None:
    with pytest.raises(RecipeError, match="has no network 'resnet5'") as caught:
        build_model("timm/resnet5", num_classes=3)
    assert caught.value.hint is not None and "timm/resnet50" in caught.value.hint


@pytest.mark.parametrize("name", ["timm/hf-hub:timm/resnet18.a1_in1k", "timm/local-dir:/tmp", "timm/resnet18/.."])
def test_only_names_are_looked_up_never_places(timm, name: str) -> None:
    with pytest.raises(RecipeError, match="has no network"):
        build_model(name, num_classes=3)


def test_a_tag_that_timm_does_not_know(timm) -> None:
    assert build_model("timm/resnet18.a1_in1k", num_classes=3).num_classes == 3
    with pytest.raises(RecipeError, match=r"timm has no 'resnet18\.no_such_tag': Invalid pretrained tag") as caught:
        build_model("timm/resnet18.no_such_tag", num_classes=3)
    assert caught.value.hint == "leave the tag out: timm/resnet18"


def test_what_timm_cannot_build_is_worded(timm) -> None:
    with pytest.raises(RecipeError, match="timm cannot build timm/mvitv2_tiny: RuntimeError: "):
        build_model("timm/mvitv2_tiny", num_classes=3, input_px=3)


def test_images_that_the_network_cannot_take_are_worded(timm) -> None:
    with pytest.raises(
        RecipeError, match="input_px: timm/inception_v4 does not take images of 40 x 40 px: RuntimeError"
    ) as caught:
        build_model("timm/inception_v4", num_classes=3, input_px=40)
    assert "get_pretrained_cfg" in (caught.value.hint or "")


def test_a_recipe_names_it_without_timm() -> None:
    code = (
        "import sys; from inceptionctl.recipe.load import recipe_from_dict\n"
        "recipe = recipe_from_dict({'model': {'name': 'timm/resnet50', 'input_px': 224}}, 'x')\n"
        "assert recipe.model.name == 'timm/resnet50' and 'timm' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(RecipeError) as caught:
        recipe_from_dict({"model": {"name": "timm/resnet50", "width": 0.5}}, "x")
    assert "width: timm/resnet50 has the one width" in caught.value.problems[0].message


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_network.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault, match="timm/resnet50 needs timm, which is not installed") as caught:
        build_model("timm/resnet50", num_classes=3)
    assert caught.value.hint == "pip install 'inceptionctl[timm]'"


def test_a_timm_that_cannot_be_imported_is_worded(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    shown = inceptionctl("models", "show", "timm/resnet18", PYTHONPATH=str(tmp_path))
    assert (shown.returncode, shown.stdout) == (4, "")
    assert "cannot be imported: RuntimeError: operator torchvision::nms does not exist" in shown.stderr
    assert "hint: torchvision must be the release" in shown.stderr


def test_models_show(timm) -> None:
    shown = inceptionctl("models", "show", "timm/resnet18", "--num-classes", "10", "--json", PYTHONPATH=str(WITH_TIMM))
    assert shown.returncode == 0, shown.stderr
    about = json.loads(shown.stdout)
    assert (about["name"], about["input_px"], about["min_input_px"]) == ("timm/resnet18", 224, None)
    assert about["parameters"] == 11_689_512 - 990 * 513
    assert about["endpoints"][-1] == {
        "name": "fc",
        "source": "timm",
        "shape": [1, 1, 10],
        "parameters": 5130,
        "multiply_adds": 5120,
    }


# timm's batch norm of its ResNets has another epsilon; `build_model` sets the same on both.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("inception_v3_torchvision", "inception_v3"),
        ("inception_v4_tf_slim", "inception_v4"),
        ("inception_resnet_v2_tf_slim", "inception_resnet_v2"),
        ("resnet_34", "resnet34"),
        ("resnet_50_v1_5", "resnet50"),
    ],
)
def test_the_same_weights_give_the_same_logits_as_in_timm(timm, ours: str, theirs: str) -> None:
    torch.manual_seed(0)
    reference = build_model(f"timm/{theirs}", num_classes=10, dropout=0.0, batch_norm_momentum=1.0)
    with torch.no_grad():
        for layer in reference.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.bias.fill_(1.0)  # at 0 a random network of this depth is chaotic
        x = torch.randn(6, 3, 107, 107) * torch.linspace(0.5, 2.0, 6).view(6, 1, 1, 1)
        reference(x)  # statistics that fit: without them the features of a random network vanish
        model = build_model(ours, num_classes=10, **({} if "resnet_" in ours else {"aux_head": False}))
        # Both name their layers in the order of the forward pass, branches in TF-slim's order.
        own, given = model.state_dict(), list(reference.state_dict().values())
        assert [value.shape for value in own.values()] == [value.shape for value in given]
        model.load_state_dict(dict(zip(own, given, strict=True)))
        expected, found = reference.eval()(x), model.eval()(x)
    assert expected.std(dim=0).min() > 0.01  # images are told apart
    print(f"{ours}: largest difference {(found - expected).abs().max():.1e} of logits that spread by {expected.std():.2f}")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.std()))
