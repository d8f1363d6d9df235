"""Faults of GPUs and of NCCL, told from bugs by what torch, CUDA and NCCL say of them."""

from __future__ import annotations

from inceptionctl.errors import EnvironmentFault

_GO_ON = "rerun the same command to resume from the last checkpoint"
# Signs in a message, what they mean, what helps. The first row with a sign that is there counts.
_FAULTS = (
    (
        ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED", "Cuda failure 2 "),
        "the GPU's memory is used up",
        "lower train.micro_batch_size (the global batch stays: more passes a step), or --batch-size of an evaluation;"
        " `nvidia-smi` shows who else uses the GPU",
    ),
    (
        ("Duplicate GPU detected",),
        "two ranks were given the same GPU",
        "start one rank a GPU; under srun let --ntasks-per-node equal --gpus-per-node",
    ),
    (
        ("no kernel image is available", "CUDA driver version is insufficient"),
        "this build of torch does not fit the GPU or its driver",
        "install a build that does: https://pytorch.org/get-started/locally; `inceptionctl doctor` shows both",
    ),
    (
        ("shared memory segment",),
        "NCCL lacks shared memory between the GPUs of this machine",
        "enlarge /dev/shm: a container gets it with --shm-size=8g or --ipc=host",
    ),
    (
        ("CUDA error", "CUDA driver error", "cuDNN error", "CUDNN_STATUS_", "CUBLAS_STATUS_", "Cuda failure"),
        "the GPU or its driver has failed",
        f"`dmesg | grep -i xid` and `nvidia-smi -q` tell of broken hardware; {_GO_ON}, on another machine if need be",
    ),
    (
        ("NCCL",),
        "NCCL has failed",
        f"NCCL_DEBUG=WARN says more; NCCL_SOCKET_IFNAME names the network between hosts; {_GO_ON}",
    ),
)
# A kernel was given what it must not be: the program's fault.
_BUG = "device-side assert"


def gpu_fault(error: Exception, who: str = "") -> EnvironmentFault | None:
    """The fault of the machine that an error tells of; None for any other error. `who` met it: `rank 3 (node2)`."""
    text = str(error)
    if not isinstance(error, RuntimeError) or _BUG in text:
        return None
    for signs, meaning, hint in _FAULTS:
        if any(sign in text for sign in signs):
            return EnvironmentFault(f"{who}: {meaning}: {_essence(text)}" if who else f"{meaning}: {_essence(text)}", hint)
    return None


def _essence(text: str) -> str:
    """The line that says what is wrong: NCCL's last error, else the first one; torch goes on with advice for its developers."""
    _, found, last = text.partition("Last error:")
    lines = [line.strip() for line in (last if found else text).splitlines() if line.strip()]
    return lines[0][:200] if lines else "without a word"
