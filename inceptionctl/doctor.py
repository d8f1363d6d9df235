"""Checks of this machine before a training, each a function in CHECKS.

DALI and DeepSpeed are started once, each in a process of its own (smoke_tests.py): a library that crashes or hangs becomes a
diagnosis, not the end.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import resource
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

import inceptionctl
from inceptionctl.console import size
from inceptionctl.cores import cgroup_cores
from inceptionctl.distributed.local import free_port
from inceptionctl.errors import InceptionctlError
from inceptionctl.smoke_tests import tried

FREE_DISK_BYTES = 5e9
SHARED_MEMORY_BYTES = 1e9
OPEN_FILES = 4096

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Diagnosis:
    """Result of a check: `fail` prevents a training, `warn` makes it slow or fail later."""

    name: str
    state: State
    found: str
    hint: str | None = None


Check = Callable[[], Iterable[Diagnosis]]


def examine(checks: Sequence[Check] | None = None) -> list[Diagnosis]:
    """Results of all `checks` (CHECKS by default), in order. A check that crashes fails."""
    return [finding for check in (CHECKS if checks is None else checks) for finding in _guarded(check)]


def _guarded(check: Check) -> Iterator[Diagnosis]:
    name = check.__name__.strip("_").replace("_", " ")
    try:
        yield from check()
    except InceptionctlError as error:
        yield Diagnosis(name, "fail", error.message, error.hint)
    except Exception as error:
        text = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        yield Diagnosis(name, "fail", text, "the check itself broke: a package that does not load, or a bug of inceptionctl")


# ---- Python and its packages


def python() -> list[Diagnosis]:
    """The interpreter against requires-python."""
    wanted = str(importlib.metadata.metadata("inceptionctl")["Requires-Python"]) if _own_requirements() else ">=3.11"
    fits = _meets(platform.python_version(), wanted)
    hint = None if fits else f"make an environment with Python {wanted}"
    return [Diagnosis("python", "ok" if fits else "fail", f"{platform.python_version()} ({sys.executable})", hint)]


def packages() -> Iterator[Diagnosis]:
    """Each package that inceptionctl needs against the versions it asks for."""
    needed, version = _own_requirements(), inceptionctl.__version__
    if not needed:
        text = f"{version}, not installed: no package versions to compare"
        yield Diagnosis("inceptionctl", "warn", text, "in the clone: pip install -e .")
        return
    yield Diagnosis("inceptionctl", "ok", f"{version} ({Path(inceptionctl.__path__[0])})")
    for name, wanted in needed.items():
        yield _package(name, wanted)
    dali = sorted(
        {found.name for found in importlib.metadata.distributions() if (found.name or "").startswith("nvidia-dali-cuda")}
    )
    if len(dali) > 1:
        text = f"{' and '.join(dali)} are both installed and overwrite each other's files"
        yield Diagnosis("nvidia-dali", "warn", text, f"pip uninstall {' '.join(dali)}, then install one of them")


def _own_requirements() -> dict[str, str]:
    """Package -> versions that pyproject.toml asks for, without the extras; empty when inceptionctl itself is not installed."""
    try:
        lines = importlib.metadata.requires("inceptionctl") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = [Requirement(line) for line in lines if "extra ==" not in line]
    return {requirement.name: str(requirement.specifier) for requirement in found}


def _package(name: str, wanted: str) -> Diagnosis:
    hint = f"pip install '{name}{wanted}'"
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return Diagnosis(name, "fail", f"not installed; needed: {wanted}", hint)
    if not _meets(version, wanted):
        return Diagnosis(name, "fail", f"{version}; needed: {wanted}", hint)
    return Diagnosis(name, "ok", version)


def _meets(version: str, wanted: str) -> bool:
    """Whether the release of a version satisfies '>=2.11,<3': '2.13.0+cpu' is 2.13.0, and so is '2.11.0a0+git' of a container 2.11.0."""
    return SpecifierSet(wanted).contains(Version(version).base_version)


def own_pipelines() -> Iterator[Diagnosis]:
    """`pipelines` is a generic name: the package that Python finds must be inceptionctl's own."""
    spec = importlib.util.find_spec("pipelines")
    ours = Path(inceptionctl.__path__[0]).resolve().parent
    if spec is None:
        text = f"no package `pipelines` beside inceptionctl in {ours}"
        yield Diagnosis("pipelines", "fail", text, "in the clone: pip install --force-reinstall --no-deps .")
        return
    places = list(spec.submodule_search_locations or [spec.origin or "?"])
    found = Path(places[0]).resolve()
    if found == ours / "pipelines":
        yield Diagnosis("pipelines", "ok", f"inceptionctl's own ({found})")
    else:
        hint = f"start from another directory than {found.parent}, or take that off PYTHONPATH"
        yield Diagnosis("pipelines", "fail", f"another package named `pipelines` hides inceptionctl's own: {found}", hint)


# ---- processors


def gpus() -> list[Diagnosis]:
    """Each GPU that torch can use, and NCCL; or why there is none."""
    import torch

    driver = _driver()
    if not torch.cuda.is_available():
        return [_no_gpu(driver, str(torch.__version__), torch.version.cuda)]
    findings = []
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        text = f"{about.name}, {size(free)} of {size(total)} free, capability {about.major}.{about.minor}, driver {driver}"
        crowded = free < total / 2
        hint = "another process holds most of its memory: `nvidia-smi` shows which" if crowded else None
        findings.append(Diagnosis(f"gpu {index}", "warn" if crowded else "ok", text, hint))
    if not torch.distributed.is_nccl_available():
        return [*findings, Diagnosis("nccl", "fail", f"torch {torch.__version__} has no NCCL", "install a CUDA build of torch")]
    version = ".".join(str(number) for number in torch.cuda.nccl.version())  # type: ignore[no-untyped-call]
    return [*findings, Diagnosis("nccl", "ok", version)]


def _driver() -> str | None:
    """Version of NVIDIA's driver, 'unknown' when only its device is seen, None when there is none."""
    described = Path("/proc/driver/nvidia/version")
    if described.exists():
        match = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", described.read_text(encoding="utf-8"))
        return match[0] if match else "unknown"
    return "unknown" if any(Path(node).exists() for node in ("/dev/nvidiactl", "/dev/dxg")) else None


def _no_gpu(driver: str | None, torch_version: str, built_for: str | None) -> Diagnosis:
    if driver is None:
        return Diagnosis("gpu", "ok", "no GPU: training runs on the CPU")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1", "NoDevFiles"):
        return Diagnosis(
            "gpu",
            "warn",
            f"CUDA_VISIBLE_DEVICES={hidden!r} hides the GPUs: training runs on the CPU",
            "unset CUDA_VISIBLE_DEVICES",
        )
    if built_for is None:
        found = f"driver {driver} is here, but torch {torch_version} is built without CUDA"
        return Diagnosis("gpu", "fail", found, "install a CUDA build of torch: https://pytorch.org/get-started/locally")
    found = f"driver {driver} is here, but torch {torch_version} (CUDA {built_for}) cannot use it"
    return Diagnosis("gpu", "fail", found, "`nvidia-smi` shows whether the driver works; a container needs --gpus all")


def cpu() -> list[Diagnosis]:
    """Cores of this machine, those of this process's affinity, and its cgroup's CPU limit."""
    usable, present, granted = (
        len(os.sched_getaffinity(0)),
        os.cpu_count() or 1,
        cgroup_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")),
    )
    text = f"{usable} of {present} cores usable"
    if granted is None:
        return [Diagnosis("cpu", "ok", text)]
    text += f", the cgroup's CPU limit is {granted:g}"
    if granted >= usable:
        return [Diagnosis("cpu", "ok", text)]
    # Threads are counted by affinity, which a CPU quota does not change: too many threads are slower than fewer.
    hint = f"start with `taskset -c 0-{max(1, int(granted)) - 1}`, or give the container cores (--cpuset-cpus), not --cpus"
    return [Diagnosis("cpu", "warn", text, hint)]


def precision() -> list[Diagnosis]:
    """What `train.precision: auto` becomes here, why `train.channels_last` is on, and whether `train.compile` could compile."""
    import torch

    from inceptionctl.train.step import resolve_precision
    from inceptionctl.train.torch_compile import lacks

    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        what = "this GPU (compute capability {}.{})".format(*torch.cuda.get_device_capability(device))
    else:
        device = torch.device("cpu")
        known = {"AVX512-BF16": torch.cpu._is_avx512_bf16_supported(), "AMX": torch.cpu._is_amx_tile_supported()}
        what = "this CPU" + "".join(f" ({name})" for name, has in known.items() if has)
    taken = resolve_precision("auto", device)
    why = (
        f"{what} computes bfloat16 natively" if taken == "bf16" else f"{what} has no native bfloat16, and emulated it is slower"
    )
    lacking = lacks(device)
    can = f"without {lacking} it must stay none, as it is by default" if lacking else "it can be used"
    layout = (
        f"on by default: images come so from the loader, and {'cuDNN' if device.type == 'cuda' else 'oneDNN'} takes them so"
    )
    return [
        Diagnosis(
            "precision", "ok", f"auto takes {taken}: {why}{'; TF32 by train.tf32 alone' if device.type == 'cuda' else ''}"
        ),
        Diagnosis("train.channels_last", "ok", layout),
        Diagnosis("train.compile", "ok", can),
    ]


# ---- libraries, started once


def dali() -> list[Diagnosis]:
    """DALI decodes a JPEG on the CPU."""
    return [_trial("dali")]


def deepspeed() -> list[Diagnosis]:
    """DeepSpeed joins a process group of one rank and takes one training step."""
    return [_trial("deepspeed")]


def gpu_decoding(decode: str = "mixed") -> list[Diagnosis]:
    """Whether JPEGs can be decoded on the GPU, whole and only in part: on some cards nvImageCodec 0.9 crashes in the second."""
    import torch

    if decode == "mixed" and not torch.cuda.is_available():
        return [Diagnosis("gpu decoding", "ok", "no GPU: images are decoded on the CPU")]
    whole, crop = (tried("decoding", decode, way) for way in ("whole", "roi"))
    found = f"whole images (data.decode: mixed): {whole.said}; crops alone (mixed_roi): {crop.said}"
    if whole.works:
        return [Diagnosis("gpu decoding", "ok", found)]
    return [Diagnosis("gpu decoding", "fail", found, f"set data.decode to {'mixed_roi or cpu' if crop.works else 'cpu'}")]


def _trial(name: str) -> Diagnosis:
    outcome = tried(name)
    return Diagnosis(f"{name} runs", "ok" if outcome.works else "fail", outcome.said, outcome.hint)


# ---- what the operating system grants


def disk() -> Iterator[Diagnosis]:
    """Free space where runs are written."""
    place = Path("runs") if Path("runs").is_dir() else Path.cwd()
    free = shutil.disk_usage(place).free
    text = f"{size(free)} free at {place.resolve()}"
    if not os.access(place, os.W_OK):
        yield Diagnosis(
            "disk", "warn", f"{place.resolve()} cannot be written", "start elsewhere, or name a place with --output"
        )
    elif free < FREE_DISK_BYTES:
        hint = "a checkpoint of inception_v4 takes 0.7 GB: free some space, or name another place with --output"
        yield Diagnosis("disk", "warn", text, hint)
    else:
        yield Diagnosis("disk", "ok", text)


def shared_memory() -> Iterator[Diagnosis]:
    """Size of /dev/shm, through which NCCL's ranks of one machine talk."""
    if not Path("/dev/shm").is_dir():
        hint = "mount a tmpfs there; NCCL needs it between the GPUs of a machine"
        yield Diagnosis("shared memory", "warn", "no /dev/shm", hint)
        return
    total = shutil.disk_usage("/dev/shm").total
    small = total < SHARED_MEMORY_BYTES
    hint = "NCCL needs more between the GPUs of a machine; a container gets it with --shm-size=8g or --ipc=host"
    yield Diagnosis("shared memory", "warn" if small else "ok", f"/dev/shm has {size(total)}", hint if small else None)


def open_files() -> list[Diagnosis]:
    """How many files and sockets a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return [Diagnosis("open files", "ok", "no limit" if soft == resource.RLIM_INFINITY else f"up to {soft}")]
    enough = hard == resource.RLIM_INFINITY or hard >= OPEN_FILES
    hint = (
        f"`ulimit -n {65536 if hard == resource.RLIM_INFINITY else hard}` before the training"
        if enough
        else "ask for a higher hard limit"
    )
    return [Diagnosis("open files", "warn", f"up to {soft}", hint)]


def loopback() -> Iterator[Diagnosis]:
    """Whether the ranks of this machine can find each other: a TCP port on 127.0.0.1."""
    try:
        yield Diagnosis("loopback", "ok", f"port {free_port()} on 127.0.0.1 can be bound")
    except OSError as error:
        text = f"no port on 127.0.0.1 can be bound: {error}"
        yield Diagnosis("loopback", "fail", text, "bring the interface up: `ip link set lo up`")


CHECKS: tuple[Check, ...] = (
    python,
    packages,
    own_pipelines,
    gpus,
    cpu,
    precision,
    dali,
    gpu_decoding,
    deepspeed,
    disk,
    shared_memory,
    open_files,
    loopback,
)
