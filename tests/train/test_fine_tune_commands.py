"""Fine-tuning as a user types it."""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from inceptionctl.recipe import load_recipe
from tests.commands import TINY, inceptionctl, refused, sets
from tests.data.conftest import fill

SETTINGS = sets(
    *TINY, "model.num_classes=2", "train.max_steps=4", "train.epochs=20", "evaluate.every_epochs=null", "data.num_threads=1"
)

THEIRS = ("data.mean=[0.4, 0.5, 0.6]",)  # the recipe names batch norm's epsilon, so another one of the weights would be refused


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of two classes, of three, and a run over the two."""
    folder = tmp_path_factory.mktemp("fine-tune")
    for name, counts in (("two", (12, 10)), ("three", (9, 8, 7))):
        for label, count in enumerate(counts):
            for split, share in (("train", count), ("val", 3)):
                fill(folder / name / split / f"class_{label}", share, seed=100 * label + (10 if split == "val" else 0))
    trained = inceptionctl(
        "train", "inception_v4", *SETTINGS, *sets("data.root=two", *THEIRS), "--cpu-ranks", "1", "--output", "old", cwd=folder
    )
    assert trained.returncode == 0, trained.stderr
    return folder


def tensors(run: Path, step: int, name: str = "model") -> dict:
    return load_file(run / "checkpoints" / f"step-{step:08d}" / f"{name}.safetensors")


def test_a_run_starts_from_another_with_a_new_head_and_a_frozen_stem(places: Path) -> None:
    settings = sets("data.root=three", "model.num_classes=3", "model.init_from=old", "model.freeze=[stem, blocks_a]")
    command = ("train", "inception_v4", *SETTINGS, *settings, "--cpu-ranks", "2", "--output", "new")
    result = inceptionctl(*command, cwd=places)
    assert result.returncode == 0, result.stderr
    assert "starts from the weights of old/checkpoints/step-00000004/ema.safetensors" in result.stderr
    assert "new: classifier.bias, classifier.weight (2 classes there, 3 here)" in result.stderr
    assert "as these weights expect: model.input_px 75, model.batch_norm_eps 0.001" in result.stderr
    assert "data.mean [0.4, 0.5, 0.6]" in (places / "new" / "log.txt").read_text()
    inherited = load_recipe(str(places / "new" / "recipe.yaml"))
    assert (inherited.data.mean, inherited.model.batch_norm_eps) == ((0.4, 0.5, 0.6), 0.001)
    old, new = tensors(places / "old", 4, "ema"), tensors(places / "new", 4)
    for name, value in new.items():
        if name.startswith(("stem.", "blocks_a.")):  # statistics too, bit for bit
            assert value.equal(old[name]), name
    assert not new["blocks_c.0.branch_1x1.conv.weight"].equal(old["blocks_c.0.branch_1x1.conv.weight"])
    assert new["classifier.weight"].shape[0] == 3
    kept = tensors(places / "new", 4, "optimizer")
    assert kept and not any(name.startswith(("stem.", "blocks_a.")) for name in kept)
    # Typed again it goes on from its own checkpoint, whatever has become of the other run.
    (places / "old").rename(places / "gone")
    try:
        again = inceptionctl(*command, *sets("train.max_steps=6"), cwd=places)
    finally:
        (places / "gone").rename(places / "old")
    assert again.returncode == 0, again.stderr
    assert "resuming from new/checkpoints/step-00000004: step 4 of 6" in again.stderr
    assert "starts from the weights" not in again.stderr


def test_what_cannot_be_started_from_is_said_once_before_anything_starts(places: Path) -> None:
    def train(*settings: str) -> object:
        command = ("train", "inception_v4", *SETTINGS, *sets("data.root=two", *settings), "--cpu-ranks", "2", "--output", "bad")
        return inceptionctl(*command, cwd=places)

    missing = train("model.init_from=nowhere")
    refused(missing, 5, "nowhere")
    assert missing.stderr.count("error: ") == 1
    refused(train("model.init_from=old", "model.name=inception_v4_tf_slim"), 5, "is of inception_v4", "inception_v4_tf_slim")
    refused(
        train("model.init_from=old", "model.width=0.25"), 5, "does not fit the network", "stem.conv_3.conv.weight: (8, 8, 3, 3)"
    )
    refused(train("model.init_from=old", "model.batch_norm_eps=0.002"), 2, "batch_norm_eps is 0.002", "trained with 0.001")
    damaged = places / "damaged"
    shutil.copytree(places / "old", damaged)
    file = damaged / "checkpoints" / "step-00000004" / "ema.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:-1])
    refused(train("model.init_from=damaged"), 5, f"cannot read {file.relative_to(places)}")
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # which only the manifest tells
    changed = train("model.init_from=damaged")
    refused(changed, 5, "ema.safetensors was changed: its sha256 differs from the manifest's")
    assert changed.stderr.count("error: ") == 1
    refused(train("model.freeze=[stemm]"), 2, "no block 'stemm'", "stem, ")
    assert not (places / "bad").exists()  # so that the corrected command can take its place
