"""fp32 is TF32 where the recipe says so, in products and convolutions alike. The flags can be read without a GPU; they act on one alone."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inceptionctl.evaluate.subject import claim_machine, untrained_subject
from inceptionctl.recipe.load import load_recipe
from inceptionctl.train.step import allow_tf32
from tests.commands import TINY, environment, inceptionctl, sets
from tests.forked import run_ranks

CPU = torch.device("cpu")
SMALL = ("model.name=resnet_18", "model.num_classes=3", "model.input_px=32")


def flags() -> dict[str, object]:
    """What torch's eager kernels, inductor and dynamo read, by both of torch's interfaces: reading raises where the two disagree."""
    return {
        "products": torch.backends.cuda.matmul.fp32_precision,
        "products, old": torch.backends.cuda.matmul.allow_tf32,
        "products, oldest": torch.get_float32_matmul_precision(),
        "cuDNN": torch.backends.cudnn.fp32_precision,
        "cuDNN, old": torch.backends.cudnn.allow_tf32,
        "convolutions": torch.backends.cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "convolutions of a CPU": torch.backends.mkldnn.conv.fp32_precision,  # type: ignore[attr-defined]
    }


TF32 = dict(zip(flags(), ("tf32", True, "high", "tf32", True, "tf32", "none"), strict=True))
FP32 = dict(zip(flags(), ("ieee", False, "highest", "ieee", False, "ieee", "none"), strict=True))


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    allow_tf32(False)


def test_every_flag_follows_and_changes_back() -> None:
    for allowed in (True, False, True, True, False):
        allow_tf32(allowed)
        assert flags() == (TF32 if allowed else FP32)


def test_an_evaluation_goes_by_the_recipe_of_the_network_that_is_asked() -> None:
    images = torch.zeros(1, 3, 32, 32)
    fp32, tf32 = (
        untrained_subject(load_recipe("inception_v4", [*SMALL, *more]), "fp32", CPU) for more in ((), ("train.tf32=true",))
    )
    assert (fp32.tf32, tf32.tf32) == (False, True)
    for subject, expected in ((tf32, TF32), (fp32, FP32), (tf32, TF32)):
        subject.logits(images)
        assert flags() == expected


def test_an_export_is_fp32() -> None:
    allow_tf32(True)
    threads = torch.get_num_threads()
    claim_machine()
    torch.set_num_threads(threads)
    assert flags() == FP32


def engine_of(setting: str) -> None:
    from inceptionctl.distributed.local import free_port
    from inceptionctl.distributed.process_group import connect
    from inceptionctl.distributed.world import World
    from inceptionctl.train.batch import plan_batch
    from inceptionctl.train.build import build_engine
    from inceptionctl.train.unfreezing import TrainedBlocks

    connect(World(0, 1, 0, 1, "127.0.0.1", free_port()), CPU)
    recipe, model = load_recipe("inception_v4", [*SMALL, setting]), torch.nn.Linear(2, 2)
    build_engine(recipe, model, plan_batch(2, 1, 2), TrainedBlocks(model, recipe.model))
    print(json.dumps(flags()))


@pytest.mark.parametrize("allowed", [True, False])
def test_a_training_goes_by_its_recipe(allowed: bool) -> None:
    """`bench step` and its loops, timm's too, are built by the same function."""
    code = f"from tests.train.test_precision import engine_of; engine_of('train.tf32={str(allowed).lower()}')"
    (done,) = run_ranks(code, 1, environment=environment())
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == (TF32 if allowed else FP32)


def test_environment_tells_of_it_and_a_run_does_not_change_it(root: Path, tmp_path: Path) -> None:
    words = sets(*TINY, "model.name=resnet_18", "model.num_classes=3", f"data.root={root}", "evaluate.every_epochs=null")
    start = ("train", "inception_v4", "--output", "run", "--cpu-ranks", "1", *words, "--set", "train.max_steps=1")
    done = inceptionctl(*start, "--set", "train.tf32=true", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "TF32" not in done.stderr  # a CPU has none
    (entry,) = json.loads((tmp_path / "run" / "environment.json").read_text(encoding="utf-8"))
    assert entry["tf32"] is True
    again = inceptionctl(*start, cwd=tmp_path)
    assert again.returncode == 5 and "train.tf32: True -> False" in again.stderr, again.stderr


@pytest.mark.gpu
def test_fp32_is_fp32_on_a_gpu_and_tf32_is_not() -> None:
    device = torch.device("cuda", 0)
    if torch.cuda.get_device_capability(device) < (8, 0):
        pytest.skip("this GPU has no TF32")
    torch.manual_seed(0)
    factors = [torch.randn(512, 512, dtype=torch.float64, device=device) for _ in range(2)]
    images = torch.randn(4, 64, 32, 32, dtype=torch.float64, device=device)
    kernel = torch.randn(64, 64, 3, 3, dtype=torch.float64, device=device)
    for allowed, low, high in ((False, 0.0, 1e-5), (True, 1e-5, 1e-2)):
        allow_tf32(allowed)
        for of in (lambda *both: both[0] @ both[1], torch.nn.functional.conv2d):
            arguments = factors if of is not torch.nn.functional.conv2d else [images, kernel]
            exact, found = of(*arguments), of(*(one.float() for one in arguments)).double()
            assert low < float((found - exact).abs().max() / exact.abs().max()) < high
