"""What a recipe's ranks exchange, and that DeepSpeed does what the model of it says."""

import pytest

from inceptionctl.recipe import load_recipe
from inceptionctl.scaling.network import count_network
from inceptionctl.train.batch import BatchPlan
from inceptionctl.train.engine import BUCKET_BYTES, REDUCE_BUCKET, deepspeed_config


def test_every_gradient_goes_around_in_fp32() -> None:
    network = count_network(load_recipe("inception_v4"))
    assert network.trained == 42_679_816  # tests/models: counted from the paper's figures
    assert network.multiply_adds == pytest.approx(12.25e9, rel=0.001)
    assert network.traffic.gradients == 4 * 42_679_816
    assert network.traffic.bucket == BUCKET_BYTES and not network.traffic.gathers
    assert network.traffic.hidden == 0.5


def test_statistics_are_two_a_channel_of_batch_norm() -> None:
    network = count_network(load_recipe("inception_v4", ["model.width=0.25"]))
    assert 0 < network.traffic.statistics < network.traffic.gradients / 50
    assert network.traffic.statistics % 8 == 4  # pairs of fp32, and the vote on stopping


def test_frozen_weights_are_not_exchanged() -> None:
    whole = count_network(load_recipe("elpv_fine_tune", ["model.freeze=[]"]))
    recipe = load_recipe("elpv_fine_tune", ['model.freeze=["stem"]'])
    part = count_network(recipe)
    assert part.trained < whole.trained
    assert part.traffic.gradients == 4 * part.trained and part.traffic.statistics < whole.traffic.statistics


def test_zero_stage_1_goes_in_buckets_and_gathers() -> None:
    network = count_network(load_recipe("inception_v4", ["train.zero_stage=1"]))
    assert network.traffic.bucket == 4 * REDUCE_BUCKET and network.traffic.gathers and not network.traffic.hidden


def test_deepspeed_under_zero_does_not_average_beside_the_backward_pass() -> None:
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    section = deepspeed_config(BatchPlan(2, 8, 1), 1)["zero_optimization"]
    assert DeepSpeedZeroConfig(**section).overlap_comm is False
