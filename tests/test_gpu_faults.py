"""What torch, CUDA and NCCL say of a broken or crowded GPU, told from bugs. The texts are theirs; the last tests ask a real GPU."""

from collections.abc import Iterator

import pytest
import torch
import typer
from typer.testing import CliRunner

from inceptionctl.cli.group import ErrorGroup
from inceptionctl.distributed.heartbeat import Heartbeat
from inceptionctl.distributed.process_group import collective_errors
from inceptionctl.distributed.world import World
from inceptionctl.errors import EnvironmentFault, LostRankError
from inceptionctl.gpu_faults import gpu_fault

MEMORY = (
    "CUDA out of memory. Tried to allocate 2.34 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.56 GiB is free. Process 71"
    " has 77.5 GiB memory in use. See documentation for Memory Management"
)
BROKEN = (
    "CUDA error: uncorrectable ECC error encountered\nCUDA kernel errors might be asynchronously reported at some other API call, so the"
    " stacktrace below might be incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
NCCL = "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, {} (run with NCCL_DEBUG=WARN for details), version 2.28.9\n{}"
DUPLICATE = NCCL.format(
    "invalid usage",
    "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\nDuplicate GPU detected : rank 1 and rank 0"
    " both on CUDA device 4a000",
)
SHARED = NCCL.format(
    "unhandled system error",
    "ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error. \nLast error:\nError while"
    " creating shared memory segment /dev/shm/nccl-Ab1 (size 9637888), error: No space left on device (28)",
)
GONE = NCCL.format(
    "remote process exited or there was a network error",
    "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely.\nLast error:\nsocketProgress:"
    " Connection closed by remote peer node2<41234>",
)
ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported at some other API call"


@pytest.mark.parametrize(
    ("text", "meaning", "said", "hint"),
    [
        (MEMORY, "memory is used up", "Tried to allocate 2.34 GiB", "train.micro_batch_size"),
        (BROKEN, "has failed", "uncorrectable ECC", "xid"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "has failed", "EXECUTION_FAILED", "another machine"),
        ("CUDA error: no kernel image is available for execution on the device\nmore", "does not fit", "no kernel", "build"),
        (DUPLICATE, "the same GPU", "Duplicate GPU detected : rank 1", "one rank a GPU"),
        (SHARED, "shared memory", "/dev/shm/nccl-Ab1", "--shm-size"),
        (NCCL.format("internal error", "ncclInternalError"), "NCCL has failed", "internal error", "NCCL_DEBUG"),
    ],
)
def test_a_fault_of_the_machine_is_worded(text: str, meaning: str, said: str, hint: str) -> None:
    fault = gpu_fault(RuntimeError(text), "rank 3 (node2)")
    assert fault is not None and fault.exit_code == EnvironmentFault.exit_code
    assert fault.message.startswith("rank 3 (node2): ") and meaning in fault.message and said in fault.message
    assert "\n" not in fault.message and "CUDA_LAUNCH_BLOCKING" not in fault.message
    assert hint in str(fault.hint)


@pytest.mark.parametrize("error", [RuntimeError(ASSERT), RuntimeError("shapes do not fit"), ValueError(MEMORY), KeyError("x")])
def test_a_bug_stays_a_bug(error: Exception) -> None:
    assert gpu_fault(error) is None


@pytest.fixture
def heartbeat() -> Iterator[Heartbeat]:
    heartbeat = Heartbeat(World(2, 4, 2, 4, "127.0.0.1", 29500), 600.0)
    yield heartbeat
    heartbeat.end()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (torch.OutOfMemoryError(MEMORY), EnvironmentFault, r"rank 2 \("),
        (RuntimeError(DUPLICATE), EnvironmentFault, "the same GPU"),
        (RuntimeError(GONE), LostRankError, "lost another rank"),
        (RuntimeError("NCCL communicator was aborted on rank 2."), LostRankError, "lost another rank"),
        (RuntimeError(ASSERT), RuntimeError, "device-side"),
    ],
)
def test_a_rank_tells_its_own_fault_from_a_lost_rank(
    heartbeat: Heartbeat, error: RuntimeError, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught, collective_errors(World(2, 4, 2, 4, "127.0.0.1", 29500), heartbeat):
        raise error
    assert type(caught.value) is kind


def test_every_command_words_it() -> None:
    app = typer.Typer(cls=ErrorGroup)

    @app.command()
    def crowded() -> None:
        raise torch.OutOfMemoryError(MEMORY)

    @app.command()
    def other() -> None:
        """A second command makes it a group."""

    result = CliRunner().invoke(app, ["crowded"])
    assert result.exit_code == EnvironmentFault.exit_code
    assert "error: the GPU's memory is used up" in result.stderr and "bug" not in result.stderr


@pytest.mark.gpu
def test_what_a_real_gpu_says_is_understood() -> None:
    with pytest.raises(RuntimeError) as memory:
        torch.empty(1 << 45, device="cuda")
    with pytest.raises(RuntimeError) as number:
        torch.cuda.set_device(99)
    for caught, meaning in ((memory, "memory is used up"), (number, "has failed")):
        fault = gpu_fault(caught.value)
        assert fault is not None and meaning in fault.message, caught.value
