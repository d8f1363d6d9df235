import pytest

from inceptionctl.errors import RecipeError
from inceptionctl.train.batch import plan_batch, total_steps


@pytest.mark.parametrize(
    ("global_batch", "ranks", "most", "micro", "accumulation"),
    [
        (640, 20, 32, 32, 1),
        (640, 10, 32, 32, 2),
        (640, 16, 32, 20, 2),
        (640, 1, 32, 32, 20),
        (8, 2, 32, 4, 1),
        (24, 2, 8, 6, 2),
    ],
)
def test_global_batch_stays_the_same(global_batch: int, ranks: int, most: int, micro: int, accumulation: int) -> None:
    plan = plan_batch(global_batch, ranks, most)
    assert (plan.micro_batch_size, plan.accumulation, plan.global_batch_size) == (micro, accumulation, global_batch)
    assert (
        plan.in_words()
        == f"{ranks} rank{'s' * (ranks > 1)} x {micro} micro batch x {accumulation} accumulation = {global_batch} global batch"
    )


def test_ranks_that_do_not_divide_name_the_nearest_values() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_batch(640, 18, 32)
    problem = caught.value.problems[0]
    assert "640" in problem.message and "18" in problem.message
    assert "16 or 20 ranks" in str(problem.hint) and "630 or 648" in str(problem.hint)


def test_tiny_micro_batches_are_refused() -> None:
    with pytest.raises(RecipeError) as caught:
        plan_batch(2 * 37, 2, 32)  # 37 is prime: only micro batches of 1
    assert "train.micro_batch_size to 37" in str(caught.value.problems[0].hint)


@pytest.mark.parametrize(
    ("epochs", "images", "batch", "most", "steps"),
    [
        (1, 100, 10, None, 10),
        (1, 101, 10, None, 11),
        (2.5, 100, 10, None, 25),
        (160, 1_281_167, 640, None, 320_292),
        (9, 100, 10, 7, 7),
    ],
)
def test_steps_cover_every_image_of_the_last_epoch(
    epochs: float, images: int, batch: int, most: int | None, steps: int
) -> None:
    assert total_steps(epochs, images, batch, most) == steps
