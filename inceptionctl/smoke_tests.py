"""DALI and DeepSpeed started once for `inceptionctl doctor`, each in a process of its own: what crashes or hangs is an answer too.

`python -m inceptionctl.smoke_tests dali` (`deepspeed`, or `decoding mixed whole`) prints one line of JSON: what was `found`, or the `error`
with its `hint`. Started by hand it shows the whole traceback of a library that does not start.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inceptionctl.distributed.exit import leave
from inceptionctl.distributed.local import free_port
from inceptionctl.errors import EnvironmentFault, InceptionctlError

# 32 x 16 px: left half RGB (200, 60, 30), right half (20, 80, 180).
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYU"
    "GBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wAARCAAQACAD"
    "AREAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAf/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFwEBAQEBAAAAAAAAAAAAAAAAAAkHCP/EABQR"
    "AQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AJexd2AAnihCbQChp7qSgJ4oQm0A/9k="
)
COLOURS = ((200, 60, 30), (20, 80, 180))
# Imports from a cold network disk take half a minute; what has not answered after two does not answer.
SECONDS = 120.0
BATCH, STEPS = 16, 6
PRODUCTS = 20  # of 4096 x 4096: 50 ms of an H100
MEAN_LEVELS = 2.0  # decoders round differently, by half a level in the mean
ANEW = "install nvidia-dali-cuda130 and the nvidia-*-cu13 packages that it brings anew"


@dataclass(frozen=True)
class Outcome:
    """What became of a trial."""

    works: bool
    said: str
    """What was found, or what went wrong."""
    hint: str | None = None


def tried(name: str, *arguments: str) -> Outcome:
    """Run a trial in a process of its own. Its end by a signal, an exception or SECONDS without an answer is an outcome that does not work."""
    # -P as the launcher of the ranks has it: the working directory is not searched for packages.
    command = [sys.executable, "-P", "-m", "inceptionctl.smoke_tests", name, *arguments]
    hint = f"the whole traceback: {' '.join(command)}"
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            printed, complaints = process.communicate(timeout=SECONDS)
        except BaseException as reason:
            # The whole session goes: a grandchild that keeps the pipe open would keep the doctor waiting.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            if isinstance(reason, subprocess.TimeoutExpired):
                return Outcome(
                    False, f"no answer after {SECONDS:g} s", f"Ctrl-C in it shows where it waits: {' '.join(command)}"
                )
            raise
    if process.returncode < 0:
        return Outcome(False, f"ended by {signal.Signals(-process.returncode).name}", hint)
    if process.returncode > 0:
        return Outcome(False, _last_error(complaints) or f"exit code {process.returncode} without a word", hint)
    # Libraries may print before it, and while they are unloaded.
    answer: dict[str, Any] = json.loads([line for line in printed.splitlines() if line.startswith('{"')][-1])
    return Outcome("error" not in answer, answer.get("error") or answer["found"], answer.get("hint"))


def _last_error(complaints: str) -> str:
    """The line that names the last exception; messages of C++ go on below theirs with addresses of frames."""
    lines = [line.strip() for line in complaints.splitlines() if line.strip()]
    named = [line for line in lines if re.match(r"[A-Za-z_][\w.]*(Error|Exception|Fault|Exit)\b", line)]
    return (named or lines or [""])[-1]


def dali_once() -> str:
    """Decode a JPEG on the CPU through the loader that an evaluation uses, and compare a pixel of each half.

    Raises EnvironmentFault when it does not decode, or to other colours.
    """
    from inceptionctl.data.dataset import open_split
    from inceptionctl.data.loader_settings import LoaderSettings
    from inceptionctl.data.loaders import EvalLoader
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.train.inputs import preparation_of

    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "val", "two-colours", "image.jpg")
        image.parent.mkdir(parents=True)
        image.write_bytes(JPEG)
        whole = replace(preparation_of(Recipe()), input_px=16, central_fraction=1.0)
        settings = LoaderSettings(num_threads=1, seconds_to_read=SECONDS)
        loader = EvalLoader(open_split(Path(folder), "val"), [range(1)], whole, settings)
        try:
            pixels = ((next(loader).images[0] + 1.0) * 127.5).round().int()
        except InceptionctlError as error:
            raise EnvironmentFault(f"DALI does not decode a sound JPEG: {error.message}", ANEW) from error
        finally:
            loader.close()
    _compare(tuple(tuple(pixels[:, 8, column].tolist()) for column in (2, 13)))
    return "decoded a JPEG on the CPU, pixels as expected"


def _compare(found: tuple[tuple[int, ...], ...]) -> None:
    # Decoders round differently: a few levels are theirs to choose, a swapped channel is not.
    if any(abs(a - b) > 4 for one, other in zip(found, COLOURS, strict=True) for a, b in zip(one, other, strict=True)):
        raise EnvironmentFault(
            f"DALI decoded the colours {found}, not {COLOURS}", "install nvidia-dali and its codec packages anew"
        )


def decoding_once(decode: str, way: str) -> str:
    """Batches of crops as a training makes them, by `decode` 'cpu' or 'mixed' and `way` 'whole' or 'roi', beside the CPU's.

    A GPU has other work meanwhile, as in a training. Raises EnvironmentFault when decoding fails, or gives other pixels.
    """
    import torch

    from inceptionctl.data.dataset import open_split
    from inceptionctl.data.loader_settings import LoaderSettings
    from inceptionctl.data.loaders import TrainLoader
    from inceptionctl.data.sampler import BatchSampler
    from inceptionctl.recipe.schema import Recipe
    from inceptionctl.train.inputs import train_transforms

    usual = train_transforms(Recipe())
    plain = replace(usual, input_px=96, horizontal_flip=0.0, brightness=0.0, saturation=0.0)
    batches = BatchSampler(seed=1, global_batch_size=BATCH, micro_batch_size=BATCH, num_steps=STEPS)
    on_cpu = LoaderSettings(num_threads=2, seconds_to_read=SECONDS, decode_roi=way == "roi")
    on_gpu = decode == "mixed"
    work = torch.ones(4096, 4096, device="cuda") if on_gpu else None
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        _write_photographs(Path(folder, "train", "a"))
        split = open_split(Path(folder), "train")
        asked = replace(on_cpu, device_id=0, decode="mixed") if on_gpu else on_cpu
        loaders = [TrainLoader(split, batches, plain, settings) for settings in (on_cpu, asked)]
        for loader in loaders:
            stack.callback(loader.close)
        here, there = (_under_load(loader, work) for loader in loaders)
    apart = 127.5 * (there - here).abs()
    mean, most = float(apart.mean(dim=(1, 2, 3)).max()), float(apart.max())
    if mean > MEAN_LEVELS:
        raise EnvironmentFault(
            f"other pixels than the CPU's: {mean:.1f} of 255 levels in the mean of an image", "set data.decode to cpu"
        )
    return f"as on the CPU, at most {most:.0f} of 255 levels apart"


def _under_load(loader: Iterator[Any], work: Any) -> Any:
    """All images of a loader, on the CPU; between batches the GPU is given products to compute, and not waited for."""
    import torch

    batches = []
    for batch in loader:
        batches.append(batch.images)
        for _ in range(PRODUCTS if work is not None else 0):
            torch.mm(work, work)
    return torch.cat(batches).cpu()


def _write_photographs(folder: Path) -> None:
    """JPEGs as they come: with chroma of each kind, baseline and progressive, gray, upright and turned by EXIF."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    for i in range(BATCH):
        y, x = np.mgrid[0 : 240 + 20 * i, 0 : 500 - 15 * i] / 60.0
        pixels = 128 + 70 * np.stack([np.sin(x + i), np.cos(y - i), np.sin(x + 2 * y)], axis=-1)
        exif = Image.Exif()
        exif[0x0112] = 1 + i % 8
        image = Image.fromarray(pixels.astype(np.uint8)).convert("L" if i == 5 else "RGB")
        image.save(folder / f"{i:02d}.jpg", quality=90, subsampling=(2, 2, 1, 0)[i % 4], progressive=i % 8 == 7, exif=exif)


def deepspeed_once() -> str:
    """One step of a tiny network through the training's own engine. Raises EnvironmentFault when the weights do not move."""
    import torch

    from inceptionctl.distributed.session import session
    from inceptionctl.distributed.world import World
    from inceptionctl.train.batch import BatchPlan
    from inceptionctl.train.engine import Clipping, Engine, deepspeed_config
    from inceptionctl.train.step import training_loss

    world = World(rank=0, size=1, local_rank=0, local_size=1, master_address="127.0.0.1", master_port=free_port())
    with session(world) as joined:
        device = joined.device
        network = torch.nn.Linear(4, 2).to(device)
        before = network.weight.detach().clone()
        config = deepspeed_config(BatchPlan(ranks=1, micro_batch_size=8, accumulation=1))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        running = Engine(network, optimizer, config, clipping=Clipping(1.0), channels_last=False)
        labels = torch.zeros(8, dtype=torch.long, device=device)
        output = running.forward(torch.ones(8, 4, device=device))
        running.backward(training_loss(output, labels, label_smoothing=0.0, aux_loss_weight=0.0)[0])
        running.step()
        if torch.equal(before, network.weight) or not torch.isfinite(network.weight).all():
            raise EnvironmentFault(
                "a step of DeepSpeed did not move the weights as it should", "install deepspeed and torch anew"
            )
    return f"one rank on the {device.type.upper()} took a step over {'nccl' if device.type == 'cuda' else 'gloo'}"


TRIALS: dict[str, Callable[..., str]] = {"dali": dali_once, "decoding": decoding_once, "deepspeed": deepspeed_once}


def _main(name: str, *arguments: str) -> None:
    answer: dict[str, str | None]
    try:
        answer = {"found": TRIALS[name](*arguments)}
    except InceptionctlError as error:
        answer = {"error": error.message, "hint": error.hint}
    # After whatever the library printed, on a line of its own.
    print(f"\n{json.dumps(answer)}", flush=True)
    leave(0)


if __name__ == "__main__":
    _main(*sys.argv[1:])
