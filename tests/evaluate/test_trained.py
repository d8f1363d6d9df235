import json
import shutil
from pathlib import Path

import pytest
import torch

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.run import Run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import read_tensors
from tests.evaluate.making import BATCH_NORM_EPS, CLASSES, damage

CPU = torch.device("cpu")


def classifier_bias(path: Path, weights="ema") -> torch.Tensor:
    return load_trained(path, weights, CPU).model.get_submodule("classifier").bias


def test_a_run_gives_its_newest_averages(run: Run) -> None:
    trained = load_trained(run.path, "ema", CPU)
    assert (trained.step, trained.weights, trained.classes) == (10, "ema", CLASSES)
    assert trained.checkpoint == run.checkpoints / "step-00000010"
    assert trained.run == run
    assert not trained.model.training
    kept = read_tensors(trained.checkpoint / "ema.safetensors")
    own = trained.model.state_dict()
    assert own.keys() == kept.keys()
    assert all(torch.equal(own[name], kept[name]) for name in kept)
    assert not any(parameter.requires_grad for parameter in trained.model.parameters())


def test_the_recipe_shapes_the_network(run: Run) -> None:
    model = load_trained(run.path, "ema", CPU).model
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {BATCH_NORM_EPS}
    assert norms[0].num_features == 8  # an eighth of 32, rounded up to 8


def test_raw_weights_are_the_other_ones(run: Run) -> None:
    kept = read_tensors(run.checkpoints / "step-00000010" / "model.safetensors")
    assert torch.equal(classifier_bias(run.path, "raw"), kept["classifier.bias"])
    assert not torch.equal(classifier_bias(run.path, "raw"), classifier_bias(run.path, "ema"))


def test_a_checkpoint_folder_by_itself(run: Run, tmp_path: Path) -> None:
    inside = load_trained(run.checkpoints / "step-00000005", "ema", CPU)
    assert (inside.step, inside.run) == (5, run)
    copy = shutil.copytree(run.checkpoints / "step-00000005", tmp_path / "step-00000005")
    outside = load_trained(copy, "ema", CPU)
    assert (outside.step, outside.run) == (5, None)
    assert outside.weights_sha256 == inside.weights_sha256


def test_the_run_is_found_from_inside_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.checkpoints)
    found = load_trained(Path("step-00000005"), "ema", CPU).run
    assert found is not None and found.path.resolve() == run.path.resolve()


@pytest.mark.parametrize("name", ["ema.safetensors", "model.safetensors", "progress.json"])
def test_one_turned_bit_is_noticed(run: Run, tmp_path: Path, name: str) -> None:
    copy = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    damage(copy / name)
    with pytest.raises(CheckpointError, match=f"damaged: {name} was changed"):
        load_trained(copy, "ema", CPU)


def resealed(run: Run, tmp_path: Path, change) -> Path:
    """A copy of a checkpoint whose progress.json was changed, with checksums that fit."""
    copy = Path(shutil.copytree(run.checkpoints / "step-00000010", tmp_path / "step-00000010"))
    progress = json.loads((copy / "progress.json").read_text())
    change(progress)
    (copy / "progress.json").write_text(json.dumps(progress))
    files.seal(copy)
    return copy


def test_a_recipe_of_another_version(run: Run, tmp_path: Path) -> None:
    copy = resealed(run, tmp_path, lambda progress: progress["recipe"]["model"].update(name="inception_v9"))
    with pytest.raises(CheckpointError, match="this version cannot read") as caught:
        load_trained(copy, "ema", CPU)
    assert "inception_v9" in caught.value.message


def test_a_recipe_that_does_not_fit_the_weights(run: Run, tmp_path: Path) -> None:
    copy = resealed(run, tmp_path, lambda progress: progress["recipe"]["model"].update(width=0.25))
    with pytest.raises(CheckpointError, match="of another network"):
        load_trained(copy, "ema", CPU)


def test_as_many_names_as_logits(run: Run, tmp_path: Path) -> None:
    copy = resealed(run, tmp_path, lambda progress: progress["classes"].pop())
    with pytest.raises(CheckpointError, match="names 5 classes, the network has 6"):
        load_trained(copy, "ema", CPU)


def test_loading_draws_no_random_numbers(run: Run) -> None:
    before = torch.get_rng_state()
    load_trained(run.path, "ema", CPU)
    assert torch.equal(torch.get_rng_state(), before)
