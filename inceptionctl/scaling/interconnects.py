"""Known links between GPUs and between nodes: achieved bandwidths, not those of the data sheet."""

from __future__ import annotations

from dataclasses import dataclass

from inceptionctl.errors import RecipeError
from inceptionctl.scaling.collectives import Link

# Seconds; NCCL 2.30, src/graph/tuning.cc, protocol "Simple", that of large messages: a call, and a hop of a ring.
LAUNCH = 8.4e-6
_NVLINK_HOP, _PCI_HOP, _NETWORK_HOP = 3.4e-6, 5.7e-6, 14.0e-6
# nccl-tests issue 82: 8 bytes from one node to another over TCP sockets took 38 to 46 microseconds.
_TCP_HOP = 40e-6
# Payload of a full Ethernet frame with TCP's time stamps at an MTU of 1500: 1448 of 1538 bytes on the wire.
_TCP_PAYLOAD = 1448 / 1538


@dataclass(frozen=True)
class Known:
    """A link with its name and the source of its figures."""

    link: Link
    words: str
    source: str


# One network card of a node.
NETWORKS = {
    "ib-ndr": Known(
        Link(46e9, _NETWORK_HOP),
        "InfiniBand NDR, 400 Gbit/s",
        "https://github.com/NVIDIA/nccl-tests/issues/290: 46 to 48 GB/s a card are to be expected",
    ),
    "ib-hdr": Known(
        Link(24e9, _NETWORK_HOP),
        "InfiniBand HDR, 200 Gbit/s",
        "https://github.com/NVIDIA/nccl-tests/issues/119: up to 96 GB/s over four cards, 24 A100",
    ),
    "ib-edr": Known(
        Link(12.2e9, _NETWORK_HOP),
        "InfiniBand EDR, 100 Gbit/s",
        "https://github.com/NVIDIA/nccl-tests/issues/29: 12.2 GB/s for a 100 Gbit/s card is as good as it gets",
    ),
    "roce-100": Known(
        Link(9.4e9, _NETWORK_HOP),
        "Ethernet with RDMA (RoCE), 100 Gbit/s",
        "https://github.com/NVIDIA/nccl/issues/495: 600 Gbit/s over eight cards; its maintainers would expect somewhat more",
    ),
    "ethernet-100": Known(
        Link(5e9, _TCP_HOP),
        "Ethernet without RDMA (TCP), 100 Gbit/s",
        "https://github.com/NVIDIA/nccl/issues/450: 4 to 6 GB/s, 32 V100 on four nodes",
    ),
    "ethernet-25": Known(
        Link(25e9 / 8 * _TCP_PAYLOAD, _TCP_HOP),
        "Ethernet without RDMA (TCP), 25 Gbit/s",
        "the line rate less the headers: an upper bound, not a measurement",
    ),
    "ethernet-10": Known(
        Link(10e9 / 8 * _TCP_PAYLOAD, _TCP_HOP),
        "Ethernet without RDMA (TCP), 10 Gbit/s",
        "the line rate less the headers: an upper bound, not a measurement",
    ),
}

# Between the GPUs of a node.
NODES = {
    "nvlink4": Known(
        Link(370e9, _NVLINK_HOP),
        "NVLink 4 (H100, H200)",
        "https://github.com/NVIDIA/nccl-tests/issues/212: 370 GB/s around a ring",
    ),
    "nvlink3": Known(
        Link(235e9, _NVLINK_HOP),
        "NVLink 3 (A100)",
        "NCCL src/graph/tuning.cc (2.8): at most 235 GB/s on compute capability 8.0",
    ),
    "nvlink2": Known(
        Link(6 * 20e9, _NVLINK_HOP),
        "NVLink 2 (V100, 6 links)",
        "NCCL src/graph/topo.h (2.30): 20 GB/s a link on compute capability 7.0",
    ),
    "nvlink1": Known(
        Link(4 * 18e9, _NVLINK_HOP),
        "NVLink 1 (P100, 4 links)",
        "NCCL src/graph/topo.h (2.30): 18 GB/s a link on compute capability 6.0",
    ),
    "pcie3": Known(Link(12e9, _PCI_HOP), "PCI Express 3, 16 lanes", "NCCL src/graph/topo.h (2.30): 12 GB/s"),
}


def find_link(name: str, known: dict[str, Known], option: str) -> Known:
    """The entry of a table. Raises RecipeError with all names for an unknown one."""
    if name in known:
        return known[name]
    listed = ", ".join(f"{key} ({each.words})" for key, each in known.items())
    raise RecipeError(
        f"{option}: nothing is known of '{name}'", f"known are {listed}; --link-bandwidth takes what you have measured"
    )
