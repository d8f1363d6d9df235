"""DALI and DeepSpeed started once for `inceptionctl doctor`, each in a process of its own.

`python -m inceptionctl.trials dali` (or `deepspeed`) prints one line of JSON: what was `found`, or the `error` with its `hint`.
Started by hand it shows the whole traceback of a library that does not start.
"""

from __future__ import annotations

import base64
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from inceptionctl.errors import EnvironmentFault, InceptionctlError
from inceptionctl.launch.ending import leave
from inceptionctl.launch.local import free_port

# 32 x 16 px: left half RGB (200, 60, 30), right half (20, 80, 180).
JPEG = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAMCAgMCAgMDAwMEAwMEBQgFBQQEBQoHBwYIDAoMDAsKCwsNDhIQDQ4RDgsLEBYQERMUFRUVDA8XGBYU"
    "GBIUFRT/2wBDAQMEBAUEBQkFBQkUDQsNFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBT/wAARCAAQACAD"
    "AREAAhEBAxEB/8QAFQABAQAAAAAAAAAAAAAAAAAAAAf/xAAUEAEAAAAAAAAAAAAAAAAAAAAA/8QAFwEBAQEBAAAAAAAAAAAAAAAAAAkHCP/EABQR"
    "AQAAAAAAAAAAAAAAAAAAAAD/2gAMAwEAAhEDEQA/AJexd2AAnihCbQChp7qSgJ4oQm0A/9k="
)
COLOURS = ((200, 60, 30), (20, 80, 180))
ANEW = "install nvidia-dali-cuda130 and the nvidia-*-cu13 packages that it brings anew"


def dali_once() -> str:
    """Decode JPEG through the loader that an evaluation uses, and compare a pixel of each half.

    Raises EnvironmentFault when it does not decode, or to other colours.
    """
    import torch

    from inceptionctl.data.dataset import open_split
    from inceptionctl.data.loaders import EvalLoader

    places: list[tuple[Literal["cpu", "mixed"], int | None]] = [("cpu", None)]
    if torch.cuda.is_available():
        places.append(("mixed", 0))
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder, "val", "two-colours", "image.jpg")
        image.parent.mkdir(parents=True)
        image.write_bytes(JPEG)
        split = open_split(Path(folder), "val")
        for decode, device_id in places:
            options: dict[str, Any] = {"batch_size": 1, "rank": 0, "world_size": 1, "num_threads": 1}
            loader = EvalLoader(split, input_px=16, central_fraction=1.0, device_id=device_id, decode=decode, **options)
            try:
                pixels = ((next(loader).images[0] + 1.0) * 127.5).round().int().cpu()
            except InceptionctlError as error:
                raise EnvironmentFault(f"DALI ({decode}) does not decode a sound JPEG: {error.message}", ANEW) from error
            finally:
                loader.close()
            _compare(decode, tuple(tuple(pixels[:, 8, column].tolist()) for column in (2, 13)))
    where = "on the CPU and on the GPU" if len(places) > 1 else "on the CPU"
    return f"decoded a JPEG {where}, pixels as expected"


def _compare(decode: str, found: tuple[tuple[int, ...], ...]) -> None:
    # Decoders round differently: a few levels are theirs to choose, a swapped channel is not.
    if any(abs(a - b) > 4 for one, other in zip(found, COLOURS, strict=True) for a, b in zip(one, other, strict=True)):
        raise EnvironmentFault(
            f"DALI ({decode}) decoded the colours {found}, not {COLOURS}", "install nvidia-dali and its codec packages anew"
        )


def deepspeed_once() -> str:
    """One step of a tiny network through the training's own engine. Raises EnvironmentFault when the weights do not move."""
    import torch

    from inceptionctl.launch.world import World
    from inceptionctl.train import engine
    from inceptionctl.train.batch import BatchPlan
    from inceptionctl.train.clipping import Clipping
    from inceptionctl.train.loss import training_loss

    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    world = World(rank=0, size=1, local_rank=0, local_size=1, master_address="127.0.0.1", master_port=free_port())
    engine.connect(world, device)
    try:
        network = torch.nn.Linear(4, 2).to(device)
        before = network.weight.detach().clone()
        config = engine.deepspeed_config(BatchPlan(ranks=1, micro_batch_size=8, accumulation=1))
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        running = engine.Engine(network, optimizer, config, clipping=Clipping(1.0), channels_last=False)
        labels = torch.zeros(8, dtype=torch.long, device=device)
        output = running.forward(torch.ones(8, 4, device=device))
        running.backward(training_loss(output, labels, label_smoothing=0.0, aux_loss_weight=0.0)[0])
        running.step()
        if torch.equal(before, network.weight) or not torch.isfinite(network.weight).all():
            raise EnvironmentFault(
                "a step of DeepSpeed did not move the weights as it should", "install deepspeed and torch anew"
            )
    finally:
        engine.disconnect()
    return f"one rank on the {device.type.upper()} took a step over {'nccl' if on_gpu else 'gloo'}"


TRIALS: dict[str, Callable[[], str]] = {"dali": dali_once, "deepspeed": deepspeed_once}


def _main(name: str) -> None:
    answer: dict[str, str | None]
    try:
        answer = {"found": TRIALS[name]()}
    except InceptionctlError as error:
        answer = {"error": error.message, "hint": error.hint}
    # After whatever the library printed, on a line of its own.
    print(f"\n{json.dumps(answer)}", flush=True)
    leave(0)


if __name__ == "__main__":
    _main(sys.argv[1])
