"""Seconds of collective calls, by the alpha-beta model: a latency for each hop, and bytes over a bandwidth (docs/scaling.md)."""

from __future__ import annotations

import math
from dataclasses import dataclass

# A tree's inner nodes send to two others, which costs it some bandwidth: NCCL's own model, src/graph/tuning.cc (2.30).
TREE_SHARE = 0.92


@dataclass(frozen=True)
class Link:
    """A link between two neighbours."""

    bandwidth: float
    """Achieved bytes a second in one direction, not the data sheet's."""
    latency: float
    """Seconds of one hop."""


@dataclass(frozen=True)
class Cluster:
    """`gpus` ranks on as few nodes as hold them; only the last node may hold fewer than `gpus_per_node`."""

    gpus: int
    gpus_per_node: int
    inside: Link
    """Between the GPUs of a node."""
    between: Link
    """Between nodes: all network cards of a node together."""
    launch: float = 0.0
    """Fixed seconds of a call."""

    @property
    def nodes(self) -> int:
        """Nodes in use."""
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def bandwidth(self) -> float:
        """Bytes a second of the slowest link of a call over all ranks."""
        links = [self.inside] * (self.gpus > self.nodes) + [self.between] * (self.nodes > 1)
        return min(link.bandwidth for link in links)


def ring_seconds(num_bytes: float, cluster: Cluster) -> float:
    """All-reduce around a ring: 2 (n-1) / n of the bytes pass each link, in 2 (n-1) hops, 2 (N-1) of them between the N nodes.

    Source: Patarasuk and Yuan, Bandwidth optimal all-reduce algorithms (2009); the share of hops between nodes as NCCL counts it.
    """
    if cluster.gpus == 1:
        return 0.0
    hops, outside = 2 * (cluster.gpus - 1), 2 * (cluster.nodes - 1)
    latency = (hops - outside) * cluster.inside.latency + outside * cluster.between.latency
    return cluster.launch + latency + 2 * (cluster.gpus - 1) / cluster.gpus * num_bytes / cluster.bandwidth


def tree_seconds(num_bytes: float, cluster: Cluster) -> float:
    """All-reduce up and down a tree of nodes, with a chain inside each: 2 log2(N) hops between nodes, and twice the bytes.

    Source: Sanders, Speck and Traeff, Two-tree algorithms for full bandwidth broadcast, reduction and scan (2009), as NCCL uses them.
    """
    if cluster.gpus == 1:
        return 0.0
    inside = min(cluster.gpus, cluster.gpus_per_node) - 1
    latency = inside * cluster.inside.latency + math.ceil(math.log2(cluster.nodes)) * cluster.between.latency
    return cluster.launch + 2 * latency + 2 * num_bytes / (TREE_SHARE * cluster.bandwidth)


def all_reduce_seconds(num_bytes: float, cluster: Cluster) -> float:
    """The faster of ring and tree, as NCCL chooses."""
    return min(ring_seconds(num_bytes, cluster), tree_seconds(num_bytes, cluster))


def all_gather_seconds(num_bytes: float, cluster: Cluster) -> float:
    """All-gather of `num_bytes` in total: the second half of a ring all-reduce."""
    if cluster.gpus == 1:
        return 0.0
    return cluster.launch + (ring_seconds(num_bytes, cluster) - cluster.launch) / 2
