from collections.abc import Callable

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingWarmRestarts, LRScheduler, OneCycleLR, PolynomialLR

from inceptionctl.recipe.variants import (
    ConstantSection,
    CosineSection,
    OneCycleSection,
    PolynomialSection,
    Schedule,
    StaircaseSection,
)
from inceptionctl.train.optim import learning_rate, schedule_in_words

STAIRS = StaircaseSection(base_lr=0.045, factor=0.94, every_epochs=2.0)
COSINE = CosineSection(name="cosine", base_lr=0.4, final_lr=0.1, warmup_epochs=1.0)


@pytest.mark.parametrize(("epoch", "stairs"), [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (100, 50)])
def test_staircase_is_the_papers(epoch: int, stairs: int) -> None:
    rate = learning_rate(STAIRS, step=epoch * 10, steps_per_epoch=10, epochs=200)
    assert rate == pytest.approx(0.045 * 0.94**stairs, rel=1e-12)


def test_staircase_steps_at_the_right_step_when_epochs_are_not_whole_steps() -> None:
    per_epoch = 1_281_167 / 640  # 2001.82...
    rates = [learning_rate(STAIRS, step=step, steps_per_epoch=per_epoch, epochs=160) for step in (4003, 4004)]
    assert rates == pytest.approx([0.045, 0.045 * 0.94])


def test_cosine_begins_after_the_warmup_and_ends_at_the_final_rate() -> None:
    rates = [learning_rate(COSINE, step=step, steps_per_epoch=10, epochs=5) for step in range(51)]
    assert rates[0] == pytest.approx(0.04) and rates[8] == pytest.approx(0.36)
    assert rates[10] == pytest.approx(0.4) and rates[30] == pytest.approx(0.25) and rates[50] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_constant() -> None:
    schedule = ConstantSection(name="constant", base_lr=0.3)
    assert {learning_rate(schedule, step=step, steps_per_epoch=3, epochs=9) for step in range(27)} == {0.3}


def test_a_constant_warm_up_is_torchs() -> None:
    schedule = ConstantSection(name="constant", base_lr=0.3, warmup_epochs=1.5, warmup_factor=0.1)
    expected = torchs(lambda optimizer: ConstantLR(optimizer, factor=0.1, total_iters=15), 0.3, 40)
    assert ours(schedule, 40, 10) == pytest.approx(expected, rel=1e-12)
    assert schedule_in_words(schedule, 4) == "0.3 throughout, after 0.1 times that for 1.5 epochs"


def test_words_name_the_numbers() -> None:
    assert schedule_in_words(STAIRS, 160) == f"0.045 x 0.94 every 2 epochs, down to {0.045 * 0.94**79:.3g} at epoch 160"
    assert "linear rise over 1 epoch" in schedule_in_words(COSINE, 5)


def torchs(make: Callable[[torch.optim.Optimizer], LRScheduler], rate: float, steps: int) -> list[float]:
    """What a scheduler of torch sets, step by step."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=rate)
    scheduler, rates = make(optimizer), []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def ours(schedule: Schedule, steps: int, steps_per_epoch: int) -> list[float]:
    epochs = steps / steps_per_epoch
    return [learning_rate(schedule, step=step, steps_per_epoch=steps_per_epoch, epochs=epochs) for step in range(steps)]


def test_cycles_of_cosines_are_torchs_warm_restarts() -> None:
    schedule = CosineSection(name="cosine", base_lr=0.4, final_lr=0.1, cycle_epochs=3.0)
    expected = torchs(lambda optimizer: CosineAnnealingWarmRestarts(optimizer, 30, eta_min=0.1), 0.4, 120)
    assert ours(schedule, 120, 10) == pytest.approx(expected, abs=1e-6)
    assert schedule_in_words(schedule, 12) == "half a cosine from 0.4 to 0.1 every 3 epochs"


def test_one_cycle_is_torchs_but_for_its_last_step() -> None:
    schedule = OneCycleSection(name="one_cycle", base_lr=1.0, initial_lr=0.04, final_lr=4e-6, rise=0.25)

    def make(optimizer: torch.optim.Optimizer) -> LRScheduler:
        # torch reaches the top and the end a step early, so that its last step has the last rate.
        return OneCycleLR(optimizer, max_lr=1.0, total_steps=401, pct_start=101 / 401, cycle_momentum=False)

    assert ours(schedule, 400, 10) == pytest.approx(torchs(make, 1.0, 400), abs=2e-3)
    assert schedule_in_words(schedule, 40) == "one cycle: from 0.04 up to 1 in 25% of 40 epochs, down to 4e-06"


def test_a_polynomial_is_torchs() -> None:
    schedule = PolynomialSection(name="polynomial", base_lr=0.4, power=2.0)
    expected = torchs(lambda optimizer: PolynomialLR(optimizer, 120, power=2.0), 0.4, 120)
    assert ours(schedule, 120, 10) == pytest.approx(expected, abs=1e-9)
    after = PolynomialSection(name="polynomial", base_lr=0.4, final_lr=0.2, warmup_epochs=2.0)
    assert ours(after, 120, 10)[19:21] == pytest.approx([0.4, 0.4])
    assert ours(after, 120, 10)[70] == pytest.approx(0.3)
    assert schedule_in_words(after, 12) == "from 0.4 to 0.2 over 12 epochs, power 1, after a linear rise over 2 epochs"
