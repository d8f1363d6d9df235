"""A machine that fails is not taken for bad images: the texts of DALI 2.4 and nvImageCodec 0.9, and a real lack of memory."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nvidia.dali import Pipeline
from PIL import Image

from inceptionctl.data import bad_images
from inceptionctl.data.audit.probe import FileProbe
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.base_loader import BaseLoader
from inceptionctl.data.imageset import Span
from inceptionctl.data.machine_faults import machine_fault
from inceptionctl.errors import EnvironmentFault
from tests.data.conftest import fill
from tests.data.test_train_loader import damaged, loader


def raised(what: str, operator: str = "MIXED") -> RuntimeError:
    """As DALI words it: the account of the operator quotes the line that made it, whatever that says."""
    return RuntimeError(
        f"Critical error in pipeline:\nError in {operator} operator `nvidia.dali.fn.decoders.image`,\n"
        "which was used in the pipeline definition with the following traceback:\n\n"
        '  File "graphs.py", line 10, in graph\n    # CUDA out of memory: CUDA allocation failed, std::bad_alloc\n\n'
        f"encountered:\n\n{what}\nCurrent pipeline object is no longer valid."
    )


# include/dali/core/cuda_error.h, dali/operators/imgcodec/util/nvimagecodec_types.h
@pytest.mark.parametrize(
    ("what", "words", "remedy"),
    [
        ("CUDA allocation failed", "the GPU's memory has run out", "train.micro_batch_size"),
        ("Can't allocate 18874368 bytes on device 0.", "the GPU's memory has run out", "train.micro_batch_size"),
        (
            "CUDA runtime API error cudaErrorMemoryAllocation (2):\nout of memory",
            "the GPU's memory has run out",
            "data.decode=cpu",
        ),
        (
            "CUDA runtime API error cudaErrorIllegalAddress (700):\nan illegal memory access was encountered",
            "the GPU failed",
            "Xid",
        ),
        (
            "CUDA driver API error CUDA_ERROR_ECC_UNCORRECTABLE (214):\nuncorrectable ECC error encountered",
            "the GPU failed",
            "Xid",
        ),
        ("The pipeline requires a CUDA-capable GPU but CUDA runtime initialization failed.", "the GPU failed", "doctor"),
        ("nvImageCodec failure: '#15'", "the GPU's memory has run out", "data.decode=cpu"),
        ("nvImageCodec failure: '#21'", "the GPU failed", "data.decode=cpu"),
        ("nvImageCodec failure: '#8'", "the GPU's image decoder failed", "inceptionctl doctor"),
        ("nvImageCodec failure: '#20'", "the GPU's image decoder failed", "data.decode=cpu"),
        ("std::bad_alloc", "the host's memory has run out", "data.num_threads"),
        ("Can't allocate 600000000 bytes on host.", "the host's memory has run out", "data.num_threads"),
        ("Resource temporarily unavailable", "the image pipeline could not be started", "ulimit -u"),
    ],
)
def test_what_means_the_machine(what: str, words: str, remedy: str) -> None:
    fault = machine_fault(raised(what))
    assert isinstance(fault, EnvironmentFault)
    where = "" if "image" in words else " in the image pipeline"
    assert fault.message == f"{words}{where}: {' '.join(what.splitlines())}"
    assert remedy in str(fault.hint)


# extensions/nvjpeg/exception.cpp: an image that nvJPEG leaves goes to libjpeg-turbo; DALI says only that nobody took it.
@pytest.mark.parametrize(
    ("printed", "words"),
    [
        (
            "Could not decode jpeg code stream - nvjpeg error #5 (allocator failure) when running nvjpegDecodeJpegHost(h) at c.cpp:9",
            "memory",
        ),
        ("Could not decode jpeg batch - CUDA error #2 when running cudaEventSynchronize(event_) at hw_decoder.cpp:7", "memory"),
        (
            "Could not decode jpeg batch - CUDA error #719 when running cudaEventSynchronize(event_) at hw_decoder.cpp:7",
            "GPU failed",
        ),
        ("Exception during decode: Unhandled CUDA error: cudaErrorIllegalAddress", "GPU failed"),
    ],
)
def test_what_decoders_print_of_the_machine(printed: str, words: str) -> None:
    line = f"\x1b[0;31m[ERROR] \x1b[0m[nvjpeg_cuda_decoder] {printed}\n"
    fault = machine_fault(raised("Failed to decode sample #0 : "), line)
    assert fault is not None and words in fault.message


@pytest.mark.parametrize(
    ("what", "operator", "printed"),
    [
        ("nvImageCodec failure: '#3'", "CPU", "[jpeg_parser] Invalid marker"),
        ("nvImageCodec failure: '#3'", "MIXED", "[jpeg_parser] Invalid marker"),
        ("nvImageCodec failure: '#4'", "MIXED", ""),
        ("nvImageCodec failure: '#8'", "CPU", "std::bad_alloc"),
        (
            "nvImageCodec failure: '#17'",
            "CPU",
            "[png_parser] Could not retrieve image info from png stream - Unexpected end of stream",
        ),
        ("nvImageCodec failure: '#17'", "MIXED", ""),
        (
            "Failed to decode sample #0 : ",
            "MIXED",
            "[nvjpeg_cuda_decoder] Could not decode jpeg code stream - nvjpeg error #3 (Bad jpeg)",
        ),
        (
            "Failed to decode sample #0 : ",
            "MIXED",
            "nvjpeg error #6 (execution failed)\nPremature end of JPEG data. Stopped at line 3/9",
        ),
        ("Failed to decode sample #0 : ", "MIXED", "nvjpeg error #10 (incomplete bitstream)"),
        ("The requested_volume 701 is not 700", "CPU", ""),
    ],
)
def test_what_means_the_image(what: str, operator: str, printed: str) -> None:
    assert machine_fault(raised(what, operator), printed) is None


def test_a_pipeline_that_does_not_build_blames_no_image() -> None:
    fault = machine_fault(RuntimeError("Critical error when building pipeline:\nencountered:\n\nnvImageCodec failure: '#3'"))
    assert fault is not None and "could not be started" in fault.message


def test_errors_of_torch_and_python() -> None:
    assert "memory" in str(
        machine_fault(RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity"))
    )
    assert "GPU failed" in str(machine_fault(RuntimeError("CUDA error: unspecified launch failure")))
    assert "the host's memory" in str(machine_fault(MemoryError()))


class Noise:
    """Stands in for what is capture_stderr on a GPU that is out of memory."""

    def __enter__(self) -> Callable[[], str]:
        return lambda: (
            "[ERROR] [nvjpeg_cuda_decoder] Could not decode jpeg code stream - nvjpeg error #5 (allocator failure) when running x"
        )

    def __exit__(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("when", ["in the batch", "in a trial"])
def test_no_image_is_blamed_or_tried_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """The pipeline is real, and two bad images make it raise; only the texts are others."""
    recover, fault, failed = BaseLoader._recover, bad_images.machine_fault, []
    monkeypatch.setattr(bad_images, "machine_fault", lambda *said: failed.append(said) or fault(*said))
    if when == "in the batch":
        monkeypatch.setattr(BaseLoader, "_recover", lambda self, _: recover(self, raised("CUDA allocation failed")))
    else:
        monkeypatch.setattr(bad_images, "capture_stderr", Noise)
    batches = loader(damaged(tmp_path, count=2), bad=(bad := BadImages(100)))
    with pytest.raises(EnvironmentFault, match="the GPU's memory has run out"):
        list(batches)
    assert len(bad) == 0 and bad.take_fresh() == [] and len(failed) == (when == "in a trial")
    assert list(batches) == []


@pytest.mark.parametrize("kind", [ValueError, IndexError])
def test_other_exceptions_of_cpp_find_the_bad_image_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    """std::length_error and std::out_of_range come as these. The pipeline is real, and two bad images make it raise; the kind is another."""
    run = Pipeline.run

    def raises_another(self: Pipeline, *arguments: Any) -> Any:
        try:
            return run(self, *arguments)
        except RuntimeError as fault:
            raise kind("vector::_M_default_append") from fault

    monkeypatch.setattr(Pipeline, "run", raises_another)
    batches = loader(damaged(tmp_path, count=2), bad=(bad := BadImages(100)))
    assert len(list(batches)) > 0 and len(bad) == 2


LARGE = 9000  # px a side: 243 MB of RGB

OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
from inceptionctl.data.bad_images import BadImages
from inceptionctl.data.dataset import open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.data.loaders import EvalLoader, in_batches
from inceptionctl.errors import InceptionctlError
from tests.defaults import preparation

bad = BadImages(5)
images, settings = open_split(Path(sys.argv[1]), "val"), LoaderSettings(num_threads=1, seconds_to_read=60.0, prefetch=1)
loader = EvalLoader(images, in_batches(range(len(images)), 1), preparation(32), settings, bad=bad)
next(loader)
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
try:
    list(loader)
except InceptionctlError as error:
    print(type(error).__name__, len(bad), error.message)
"""


@pytest.mark.parametrize("room", [100_000_000, 260_000_000, 280_000_000])
def test_a_host_without_memory(tmp_path: Path, room: int) -> None:
    """There is no room for the output, for the threads that would try the image alone, or for the decoders beside the output."""
    fill(tmp_path / "val/a", 2, seed=0)
    Image.fromarray(np.zeros((LARGE, LARGE, 3), np.uint8)).save(tmp_path / "val/a/9.jpg", quality=30)
    command = [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path), str(room)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300)
    # How much is taken before differs between machines: 260 MB reach one of the two.
    assert re.match("EnvironmentFault 0 the (host's memory has run out|image pipeline could not be started)", said.stdout), said


def test_a_check_blames_no_image_for_it(tmp_path: Path) -> None:
    fill(tmp_path / "a", 1, seed=0)
    Image.fromarray(np.zeros((LARGE, LARGE, 3), np.uint8)).save(tmp_path / "large.jpg", quality=30)
    with closing(FileProbe(num_threads=1)) as probe:
        assert probe.look_into([Span(bytes(tmp_path / "a/000.jpg"))])[0].reason is None
        assert probe._child is not None
        used = int(Path(f"/proc/{probe._child.pid}/statm").read_text().split()[0]) * resource.getpagesize()
        resource.prlimit(probe._child.pid, resource.RLIMIT_AS, (used + 100_000_000,) * 2)
        with pytest.raises(EnvironmentFault, match="the host's memory has run out"):
            probe.look_into([Span(bytes(tmp_path / "large.jpg"))])
