"""MACs, parameters and communication of a recipe's network, counted on torch's meta device. The only module here that needs torch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from inceptionctl.models import build_model
from inceptionctl.models.summary import multiply_adds
from inceptionctl.recipe.schema import Recipe
from inceptionctl.scaling.prediction import Traffic
from inceptionctl.train.engine import BUCKET_BYTES, REDUCE_BUCKET
from inceptionctl.train.step import SharedStatistics
from inceptionctl.train.unfreezing import NEVER, TrainedBlocks

HIDDEN = 0.5
"""Of an averaging that begins beside the backward pass: four published trainings lie 0 to 3 points below it (docs/scaling.md)."""
FP32 = 4  # bytes; weights and gradients stay fp32 under autocast


@dataclass(frozen=True)
class Network:
    """`trained` counts parameters with a gradient, `multiply_adds` the MACs of a forward pass over one image."""

    trained: int
    multiply_adds: int
    traffic: Traffic


def count_network(recipe: Recipe) -> Network:
    """The recipe's network, with what its ranks exchange in a step. Raises what building the network raises."""
    with torch.device("meta"):
        model: nn.Module = build_model(**recipe.model.network())
        blocks = TrainedBlocks(model, recipe.model)
        blocks.enter(blocks.last_stage)
        statistics = SharedStatistics(model, 1, blocks.first_trained_in(NEVER)).flat.numel()
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    partitioned = recipe.train.zero_stage > 0
    bucket = REDUCE_BUCKET * FP32 if partitioned else BUCKET_BYTES
    hidden = 0.0 if partitioned else HIDDEN
    traffic = Traffic(trained * FP32, statistics * FP32, bucket, gathers=partitioned, hidden=hidden)
    return Network(trained, multiply_adds(model, recipe.model.input_px), traffic)
