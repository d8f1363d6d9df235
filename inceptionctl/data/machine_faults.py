"""Whether a failing pipeline is the machine's fault and no image's: its GPU, or its memory. Texts of DALI 2.4 and nvImageCodec 0.9.

DALI raises one RuntimeError for everything, with the account of the operator first and what it met after `encountered:`. Decoders of
nvImageCodec print more on stderr, and one that fails leaves the image to the next, the CPU's at last. So of nvJPEG's own errors only those
count that say nothing of the image.
"""

from __future__ import annotations

import re

from inceptionctl.data.reasons import essence
from inceptionctl.errors import EnvironmentFault

# Nothing has been fed to a pipeline that does not build; threads cannot be started where stacks or the number of processes are limited.
_NOT_BUILT = r"\ACritical error when building pipeline"
_NO_THREADS = (r"\A\s*Resource temporarily unavailable",)

# What pybind makes of the exceptions of C++ that a pipeline may end with: std::length_error comes as ValueError, std::out_of_range as
# IndexError, and so on. Damaged headers have led to those in decoders.
FROM_DALI = (RuntimeError, MemoryError, ValueError, IndexError, OverflowError)

_DEVICE_MEMORY = (
    r"CUDA allocation failed",
    r"Can't allocate \d+ bytes on device \d+",
    r"cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY",
    r"CUDA out of memory",  # torch's
    r"CUDA error #2 when",  # cudaErrorMemoryAllocation, as nvImageCodec prints it
    r"Nvml insufficient memory",
    r"nvJPEG failure: '#5'|nvjpeg error #5 ",
    r"nvImageCodec failure: '#(?:5|15)'",
)
# `std::bad_alloc` only as DALI raises it: what nvImageCodec prints may be a parser's, who believed a damaged length.
_HOST_MEMORY = (r"\A\s*std::bad_alloc", r"Can't allocate \d+ bytes on host", r"\(-4:Insufficient memory\)")
_DEVICE = (
    r"CUDA (?:runtime|driver|Driver) API error",
    r"CUDA error[ :#]",  # nvImageCodec's with a number, torch's with words
    r"Unhandled CUDA error",
    r"nvjpeg error #(?:1|7) ",  # not initialised; another architecture
    r"nvImageCodec failure: '#(?:1|7|10|11|16|21)'",
    r"requires a CUDA-capable GPU",
    r"Failed to load CUDA driver|Cannot initialize CUDA driver|Could not set CUDA device",
    r"NPP_CUDA_KERNEL_EXECUTION_ERROR",
)
# Of the image: bad or unsupported bytes (3, 4, of extensions 13, 14, 17, 19). Headers are read before, on the CPU, by the same parsers; so
# whatever else the GPU's decoder says to a whole batch is about itself. Parts of JPEGs fail so (8) on A100 (nvImageCodec issue 55).
_BY_THE_GPUS_DECODER = r"Error in MIXED operator[\s\S]*encountered:[\s\S]*nvImageCodec failure: '#(?!(?:3|4|13|14|17|19)')\d+'"

_ON_THE_CPU = "data.decode=cpu decodes without the GPU"


def machine_fault(raised: Exception, printed: str = "") -> EnvironmentFault | None:
    """The error to raise when the machine has failed, from what was raised and what decoders printed; None when an image may be bad."""
    text = str(raised)
    # The account of the operator quotes source lines, which say anything.
    said = f"{text.partition('encountered:')[2] or text}\n{printed}"
    what = essence(text) or type(raised).__name__
    if _says(said, _DEVICE_MEMORY):
        return EnvironmentFault(
            f"the GPU's memory has run out in the image pipeline: {what}",
            f"lower train.micro_batch_size; {_ON_THE_CPU}; `nvidia-smi` shows who else has memory of it",
        )
    if _says(said, _DEVICE):
        return EnvironmentFault(
            f"the GPU failed in the image pipeline: {what}",
            f"`nvidia-smi` and `dmesg | grep Xid` say whether it is broken; `inceptionctl doctor` tries its decoders; {_ON_THE_CPU}",
        )
    if re.search(_BY_THE_GPUS_DECODER, text):
        return EnvironmentFault(
            f"the GPU's image decoder failed: {what}", f"`inceptionctl doctor` tries its decoders; {_ON_THE_CPU}"
        )
    if isinstance(raised, MemoryError) or _says(said, _HOST_MEMORY):
        return EnvironmentFault(
            f"the host's memory has run out in the image pipeline: {what}",
            "lower data.num_threads or train.micro_batch_size; `inceptionctl data check` names images of very many pixels",
        )
    if re.search(_NOT_BUILT, text) or _says(said, _NO_THREADS):
        return EnvironmentFault(
            f"the image pipeline could not be started: {what}",
            "lower data.num_threads, or raise the limits on memory and processes (`ulimit -v`, `ulimit -u`, Slurm's --mem)",
        )
    return None


def _says(said: str, patterns: tuple[str, ...]) -> bool:
    return re.search("|".join(patterns), said) is not None
