import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.models import build_model
from inceptionctl.recipe.model_section import ModelSection
from inceptionctl.train.fine_tuning import InitialWeights, freeze, read_initial_weights, start_from
from inceptionctl.train.inheritance import find_weights

WIDTH = 0.125


def net(num_classes: int, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build_model("inception_v4", num_classes=num_classes, width=WIDTH)


def weights_of(model: nn.Module, **changes: Tensor | None) -> InitialWeights:
    tensors = {name: value.clone() for name, value in model.state_dict().items()} | changes
    kept = {name: value for name, value in tensors.items() if value is not None}
    return InitialWeights(Path("old/ema.safetensors"), "inception_v4", model.num_classes, kept)


def section(num_classes: int, name: str = "inception_v4") -> ModelSection:
    return ModelSection(name=name, num_classes=num_classes, width=WIDTH)


def test_all_but_the_classifier_is_taken_where_the_classes_differ() -> None:
    old, new = net(3), net(5, seed=1)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    words = start_from(weights_of(old), new, section(5))
    for name, value in new.state_dict().items():
        kept = before if name.startswith("classifier.") else old.state_dict()
        assert torch.equal(value, kept[name]), name
    assert f"{len(before) - 2} tensors taken" in words
    assert "new: classifier.bias, classifier.weight (3 classes there, 5 here)" in words


def test_the_classifier_too_where_they_do_not() -> None:
    old, new = net(3), net(3, seed=1)
    words = start_from(weights_of(old), new, section(3))
    assert all(torch.equal(value, old.state_dict()[name]) for name, value in new.state_dict().items())
    assert "new:" not in words and "not used" not in words


def test_an_auxiliary_head_of_one_side_alone_is_left_and_said() -> None:
    words = start_from(weights_of(net(3), **{"aux_head.conv.weight": torch.ones(2)}), net(3), section(3))
    assert "not used: aux_head.conv.weight" in words


def test_what_does_not_fit_is_listed() -> None:
    wrong = weights_of(
        net(3), **{"stem.conv_1.conv.weight": torch.ones(1, 2), "stem.conv_2.conv.weight": None, "extra": torch.ones(1)}
    )
    with pytest.raises(CheckpointError) as caught:
        start_from(wrong, net(3), section(3))
    for words in (
        "stem.conv_2.conv.weight: missing",
        "extra: not in this network",
        "stem.conv_1.conv.weight: (1, 2) in the file",
    ):
        assert words in caught.value.message


def test_another_network_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"is of inception_v4, the recipe is of inception_v4_tf_slim"):
        start_from(weights_of(net(3)), net(3), section(3, "inception_v4_tf_slim"))


def test_an_export_is_read_by_folder_and_by_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, str(tmp_path / "model.safetensors"))
    with pytest.raises(CheckpointError, match=r"has no config\.json beside it"):
        find_weights(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "inception_v4", "num_classes": 7}))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        found = read_initial_weights(find_weights(path))
        assert (found.network, found.num_classes, list(found.tensors)) == ("inception_v4", 7, ["a"])
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="cannot read"):
        find_weights(tmp_path)


def test_a_header_alone_tells_what_does_not_fit_and_of_a_file_that_is_cut(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "inception_v4", "num_classes": 3}))
    file = tmp_path / "model.safetensors"
    tensors = {name: value.clone() for name, value in net(3).state_dict().items()}
    save_file(tensors, str(file))

    def started_from(num_classes: int) -> str:
        with torch.device("meta"):
            model = build_model("inception_v4", num_classes=num_classes, width=WIDTH)
        initial = read_initial_weights(find_weights(tmp_path), values=False)
        assert all(value.is_meta for value in initial.tensors.values())
        return start_from(initial, model, section(num_classes))

    assert started_from(5) == start_from(read_initial_weights(find_weights(tmp_path)), net(5), section(5))
    with pytest.raises(NotImplementedError):  # shapes are never taken for weights
        start_from(read_initial_weights(find_weights(tmp_path), values=False), net(3), section(3))
    save_file(tensors | {"stem.conv_1.conv.weight": torch.ones(1, 2)}, str(file))
    with pytest.raises(CheckpointError, match=r"stem.conv_1.conv.weight: \(1, 2\) in the file"):
        started_from(3)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cannot read"):
        started_from(3)


def test_frozen_blocks_take_no_gradient() -> None:
    model = net(3)
    blocks = freeze(model, ["stem", "blocks_a.0"])
    still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert still == {name for name, _ in model.named_parameters() if name.startswith(("stem.", "blocks_a.0."))}
    assert blocks == [model.stem, model.blocks_a[0]]


def test_a_block_that_is_none_is_named_with_those_that_are() -> None:
    with pytest.raises(RecipeError) as caught:
        freeze(net(3), ["stem", "block_a"])
    assert "'block_a'" in caught.value.message and "blocks_a" in (caught.value.hint or "")
