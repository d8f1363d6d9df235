"""How much memory a training has taken of its device."""

from __future__ import annotations

import resource

import torch


class PeakMemory:
    """The most memory so far, in bytes, as rows of metrics have it.

    On a GPU `peak_memory_bytes` is the most that was taken of the device whenever `numbers` was asked for: torch's, DALI's and nvJPEG's
    pools, NCCL, the CUDA context, and what other processes hold of it. The pools keep what they have once taken, so that little is
    missed between two questions. `torch_peak_memory_bytes` is the most at any time of what torch has given out to tensors, of this
    process alone. On a CPU there is the most that the process has ever had of the host's memory, and nothing else.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._most = 0

    def numbers(self) -> dict[str, int]:
        """Look, and give what a row says. No wait for the device, but the driver is asked: not for every step."""
        if self._device.type != "cuda":
            return {"peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}
        free, total = torch.cuda.mem_get_info(self._device)
        self._most = max(self._most, total - free)
        return {"peak_memory_bytes": self._most, "torch_peak_memory_bytes": torch.cuda.max_memory_allocated(self._device)}
