"""Running statistics of 1, 2 and 4 real ranks that see the same micro batches: what is left of the history, and what took its place."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from inceptionctl.train.fine_tuning import freeze
from inceptionctl.train.step import SharedStatistics, momentum_over_ranks
from tests.commands import TINY, environment, inceptionctl, sets
from tests.forked import run_ranks

RANKS = (1, 2, 4)
MOMENTUM, STEPS, MICRO_BATCHES = 0.05, 5, 4  # micro batches of a step, over all ranks
LEFT = (1 - MOMENTUM) ** (STEPS * MICRO_BATCHES)


def network(momentum: float = MOMENTUM) -> nn.Sequential:
    torch.manual_seed(0)
    frozen = nn.Sequential(nn.Conv2d(6, 3, 1), nn.BatchNorm2d(3, momentum=momentum))
    return nn.Sequential(
        nn.BatchNorm2d(3, momentum=momentum),
        nn.Conv2d(3, 6, 3, bias=False),
        nn.BatchNorm2d(6, momentum=momentum),
        nn.ReLU(),
        frozen,
    )


def images() -> torch.Tensor:
    """[steps, micro batches, 2, 3, 8, 8], no two micro batches alike. The first channel is 0: only the history is in its statistics."""
    draws = torch.Generator().manual_seed(1)
    shape = (STEPS, MICRO_BATCHES, 2, 3, 1, 1)
    means, deviations = torch.randn(shape, generator=draws), torch.rand(shape, generator=draws)
    made = means + deviations * torch.randn(*shape[:4], 8, 8, generator=draws)
    made[:, :, :, 0] = 0
    return made


def trained(rank: int, ranks: int) -> dict[str, torch.Tensor]:
    """Buffers after all steps as the loop makes them, and the momentum that each norm has."""
    model = network()
    model[0].running_mean.fill_(1)  # type: ignore[union-attr,operator]
    frozen = freeze(model, ["4"])
    statistics = SharedStatistics(model, ranks, frozen)
    model.train()
    frozen[0].eval()
    for step in images():
        for micro in step.chunk(ranks)[rank]:
            model(micro)
        statistics.average()
    momenta = {f"{name}.momentum": module.momentum for name, module in model.named_modules() if hasattr(module, "momentum")}
    return dict(model.named_buffers()) | {name: torch.tensor(value, dtype=torch.float64) for name, value in momenta.items()}


def as_rank(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
    save_file({name: value.clone() for name, value in trained(rank, ranks).items()}, folder / f"{ranks}-{rank}")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, torch.Tensor]]:
    """What all ranks have at the end, by number of ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    found = {1: trained(0, 1)}
    for ranks in RANKS[1:]:
        code = (
            "import sys; from pathlib import Path; from tests.train.test_batch_norm import as_rank; as_rank(Path(sys.argv[1]))"
        )
        ended = run_ranks(code, ranks, folder, environment=environment())
        assert [rank.returncode for rank in ended] == [0] * ranks, ended
        each = [load_file(folder / f"{ranks}-{rank}") for rank in range(ranks)]
        for name, value in each[0].items():
            if "num_batches" not in name:
                assert all(torch.equal(other[name], value) for other in each), name
        found[ranks] = each[0]
    return found


@pytest.mark.parametrize("ranks", RANKS)
def test_what_is_left_of_the_history_follows_the_micro_batches(ranks: int, after: dict[int, dict[str, torch.Tensor]]) -> None:
    end = after[ranks]
    assert end["0.running_mean"][0].item() == pytest.approx(LEFT, rel=2e-6)  # 20 products in fp32
    assert end["0.running_var"][0].item() == pytest.approx(LEFT, rel=2e-6)


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_statistics_are_those_of_one_rank(ranks: int, after: dict[int, dict[str, torch.Tensor]]) -> None:
    """On ranks of their own the micro batches of a step count alike, on one rank for m(1-m)^k, the later the more. While m x micro
    batches is below 1, statistics differ for that by less than a third of it x how far one micro batch lies from its step's mean."""
    for name, farthest in spreads().items():
        difference = (after[ranks][name] - after[1][name]).abs()
        assert (difference <= MOMENTUM * MICRO_BATCHES / 3 * farthest + 1e-6).all(), name
        assert difference.max() > 1e-4 * farthest.max(), name  # they are not copies


def spreads() -> dict[str, torch.Tensor]:
    """Of each statistic, how far a micro batch's own lies from the mean of its step, at most."""
    model = network(momentum=1.0).train()
    kept = [[own_statistics(model, micro) for micro in step] for step in images()]
    stacked = {name: torch.stack([torch.stack([each[name] for each in step]) for step in kept]) for name in kept[0][0]}
    return {name: (values - values.mean(1, keepdim=True)).abs().amax((0, 1)) for name, values in stacked.items()}


def own_statistics(model: nn.Module, micro: torch.Tensor) -> dict[str, torch.Tensor]:
    model(micro)
    return {name: value.clone() for name, value in model.named_buffers() if name[:2] in ("0.", "2.") and "running" in name}


@pytest.mark.parametrize("ranks", RANKS)
def test_frozen_norms_keep_statistics_and_momentum(ranks: int, after: dict[int, dict[str, torch.Tensor]]) -> None:
    end = after[ranks]
    assert not end["4.1.running_mean"].any() and (end["4.1.running_var"] == 1).all()
    assert end["4.1.momentum"] == MOMENTUM
    assert end["0.momentum"] == end["2.momentum"] == momentum_over_ranks(MOMENTUM, ranks)


def test_momentum_over_ranks() -> None:
    assert momentum_over_ranks(3e-4, 1) == 3e-4
    assert momentum_over_ranks(3e-4, 20) == pytest.approx(0.00598293, rel=1e-6)
    assert momentum_over_ranks(1.0, 4) == 1.0


@pytest.fixture(scope="module")
def gray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of gray squares, all the same: no channel of the first convolution varies, so its variance is what is left of 1."""
    root = tmp_path_factory.mktemp("gray")
    for split in ("train", "val"):
        for label in range(2):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (96, 96), (128, 128, 128)).save(folder / f"{number}.jpg")
    return root


@pytest.mark.slow
@pytest.mark.parametrize("ranks", RANKS)
def test_a_real_training_forgets_the_initial_statistics_alike(ranks: int, gray: Path, tmp_path: Path) -> None:
    settings = sets(
        *TINY,
        f"data.root={gray}",
        "data.augment.brightness=0",
        "data.augment.saturation=0",
        "model.num_classes=2",
        "model.batch_norm_eps=1",  # each norm would multiply a gradient by 32, where nothing varies
        f"model.batch_norm_momentum={MOMENTUM}",
        f"train.max_steps={STEPS}",
        "checkpoint.every_epochs=null",
        "evaluate.every_epochs=null",
        "health.watch=false",  # nothing but zeros comes out of it
    )
    result = inceptionctl("train", "inception_v4", *settings, "--cpu-ranks", str(ranks), "--output", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    checkpoint = tmp_path / "run" / "checkpoints" / f"step-{STEPS:08d}"
    model, average = (load_file(checkpoint / name) for name in ("model.safetensors", "ema.safetensors"))
    name = "stem.conv_1.norm.running_var"
    assert model[name].tolist() == pytest.approx([LEFT] * len(model[name]), rel=2e-6)
    left, decays = 1.0, [min(0.9999, (1 + n) / (10 + n)) for n in range(1, STEPS + 1)]
    for step, decay in enumerate(decays, start=1):
        left = decay * left + (1 - decay) * (1 - MOMENTUM) ** (step * MICRO_BATCHES)
    assert average[name].tolist() == pytest.approx([left] * len(average[name]), rel=2e-6)
