"""Scaling that others have published for similar networks, with every input that the model takes."""

from __future__ import annotations

from dataclasses import dataclass

from inceptionctl.scaling.collectives import Cluster, Link
from inceptionctl.scaling.interconnects import LAUNCH, NETWORKS, NODES
from inceptionctl.scaling.prediction import Compute, Supply, Traffic, predict
from inceptionctl.train.batch import BatchPlan

# What a 100 Gbit/s card with RDMA reaches of its line rate, and TCP at most (scaling/interconnects.py), for cards that are not listed there.
RDMA_SHARE = NETWORKS["ib-edr"].link.bandwidth / (100e9 / 8)
TCP_SHARE = NETWORKS["ethernet-10"].link.bandwidth / (10e9 / 8)
RDMA, TCP = NETWORKS["ib-edr"].link.latency, NETWORKS["ethernet-10"].link.latency

GOYAL = "Goyal et al. 2017, arXiv 1706.02677"
HOROVOD = "Horovod, docs/benchmarks.rst"


@dataclass(frozen=True)
class Published:
    """A training on `gpus` GPUs with `images` each; `rate` is of one GPU, images/s, `efficiency` relative to `base` GPUs."""

    network: str
    parameters: int
    rate: float
    images: int
    gpus: int
    base: int
    gpus_per_node: int
    inside: Link
    between: Link
    efficiency: float
    source: str

    def predicted(self, hidden: float) -> float:
        """The model's efficiency when `hidden` of the communication goes on beside the backward pass."""
        return self._efficiency(self.gpus, hidden) / self._efficiency(self.base, hidden)

    def _efficiency(self, gpus: int, hidden: float) -> float:
        cluster = Cluster(gpus, self.gpus_per_node, self.inside, self.between, LAUNCH)
        traffic = Traffic(gradients=self.parameters * 4, statistics=0, bucket=64e6, hidden=hidden)
        compute = Compute(1 / self.rate, 0.0, self.images)
        return predict(BatchPlan(gpus, self.images, 1), compute, traffic, cluster, Supply()).efficiency


# Horovod's benchmark: 128 servers of four Pascal GPUs, 25 Gbit/s with RDMA; its example takes 64 images a GPU. Rates of one P100 at 64
# images: TensorFlow's table of benchmarks (May 2017). For ResNet-101, which that lacks, Horovod's own 1,656.82 images/s of 16 GPUs.
_UBER = {"images": 64, "gpus": 512, "base": 1, "gpus_per_node": 4, "inside": NODES["pcie3"].link, "source": HOROVOD}
_UBER_NETWORK = Link(25e9 / 8 * RDMA_SHARE, RDMA)

PUBLISHED = (
    Published(
        network="ResNet-50",
        parameters=25_557_032,
        # One server of eight P100 took 29 hours for 90 epochs: https://developer.nvidia.com/facebook-trains-imagenet-1-hour
        rate=90 * 1_281_167 / (29 * 3600) / 8,
        images=32,
        gpus=256,
        base=8,
        gpus_per_node=8,
        inside=NODES["nvlink1"].link,
        between=Link(50e9 / 8 * TCP_SHARE, TCP),
        efficiency=0.90,
        source=GOYAL,
    ),
    Published(network="Inception-v3", parameters=23_834_568, rate=142, between=_UBER_NETWORK, efficiency=0.90, **_UBER),
    Published(network="ResNet-101", parameters=44_549_160, rate=1656.82 / 16, between=_UBER_NETWORK, efficiency=0.90, **_UBER),
    Published(network="VGG-16", parameters=138_357_544, rate=154, between=_UBER_NETWORK, efficiency=0.68, **_UBER),
)
