import pytest

from inceptionctl.recipe.variants import ConstantSection, CosineSection, StaircaseSection
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


def test_words_name_the_numbers() -> None:
    assert schedule_in_words(STAIRS, 160) == f"0.045 x 0.94 every 2 epochs, down to {0.045 * 0.94**79:.3g} at epoch 160"
    assert "linear rise over 1 epoch" in schedule_in_words(COSINE, 5)
