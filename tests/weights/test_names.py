"""The tables of names, both ways."""

from types import ModuleType

import pytest
import torch

from inceptionctl.errors import RecipeError
from inceptionctl.models import MODELS, build_model
from inceptionctl.weights.counterparts import COUNTERPARTS, TAKE_INSTEAD, find_counterpart
from inceptionctl.weights.match import AUX_HEAD
from inceptionctl.weights.names import their_tensor

EVERY = [(form, model) for form, table in COUNTERPARTS.items() for model in table]
OF_TIMM = list(COUNTERPARTS["timm"])


def shapes(model: str, aux_head: bool) -> dict[str, torch.Size]:
    has_head = MODELS[model].aux_head is not None
    with torch.device("meta"):
        network = build_model(model, num_classes=1000, **({"aux_head": aux_head} if has_head else {}))
    return {name: value.shape for name, value in network.state_dict().items()}


@pytest.mark.parametrize(("form", "model"), EVERY)
def test_every_module_has_one_name_and_no_two_the_same(form: str, model: str) -> None:
    names = COUNTERPARTS[form][model].names()
    with_head = form == "tf-slim" or model.startswith("inception_v3")  # timm has no head on the others
    assert set(names) == {tensor.rpartition(".")[0] for tensor in shapes(model, with_head)}
    assert len(set(names.values())) == len(names)
    assert COUNTERPARTS[form][model].first_conv in names


@pytest.mark.parametrize("model", OF_TIMM)
def test_timm_has_these_tensors_and_no_other(timm: ModuleType, model: str) -> None:
    counterpart = COUNTERPARTS["timm"][model]
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in timm.create_model(counterpart.name).state_dict().items()}
    names = counterpart.names()
    assert {their_tensor(names, name, "torch"): shape for name, shape in shapes(model, False).items()} == theirs


@pytest.mark.parametrize("model", list(COUNTERPARTS["torchvision"]))
def test_torchvision_has_these_tensors_with_the_auxiliary_head(timm: ModuleType, model: str) -> None:
    from torchvision import models

    counterpart = COUNTERPARTS["torchvision"][model]
    more = {"init_weights": False} if counterpart.name == "inception_v3" else {}
    with torch.device("meta"):
        theirs = {name: value.shape for name, value in getattr(models, counterpart.name)(**more).state_dict().items()}
    names = counterpart.names()
    assert {their_tensor(names, name, "torch"): shape for name, shape in shapes(model, True).items()} == theirs


@pytest.mark.parametrize(
    ("model", "tensor", "theirs"),
    [
        ("inception_v4_tf_slim", "stem.conv_1.conv.weight", "InceptionV4/Conv2d_1a_3x3/weights"),
        ("inception_v4_tf_slim", "classifier.bias", "InceptionV4/Logits/Logits/biases"),
        ("inception_v3", "stem.conv_1.norm.running_var", "InceptionV3/Conv2d_1a_3x3/BatchNorm/moving_variance"),
        ("inception_v3", "blocks_a.1.branch_5x5.1.norm.bias", "InceptionV3/Mixed_5c/Branch_1/Conv_1_0c_5x5/BatchNorm/beta"),
        ("inception_resnet_v2_tf_slim", "blocks_c.9.project.bias", "InceptionResnetV2/Block8/Conv2d_1x1/biases"),
        ("inception_v3", "stem.conv_1.norm.num_batches_tracked", None),
    ],
)
def test_variables_of_tf_slim(model: str, tensor: str, theirs: str | None) -> None:
    assert their_tensor(COUNTERPARTS["tf-slim"][model].names(), tensor, "tensorflow") == theirs


def test_another_network_of_the_same_name_is_refused_with_the_one_to_take() -> None:
    for model in ("inception_v4", "inception_resnet_v2", "resnet_50", "resnet_101", "resnet_152"):
        other, why = TAKE_INSTEAD[model]
        with pytest.raises(RecipeError) as caught:
            find_counterpart("timm", model)
        assert why in caught.value.message and other in str(caught.value.hint)
    with pytest.raises(RecipeError, match="torchvision has no network with the layers of inception_v4_tf_slim"):
        find_counterpart("torchvision", "inception_v4_tf_slim")
    with pytest.raises(RecipeError, match="unknown model 'inception_v5'"):
        find_counterpart("timm", "inception_v5")


def test_the_auxiliary_head_is_known_by_its_prefix() -> None:
    assert any(name.startswith(AUX_HEAD) for name in shapes("inception_v3", True))
