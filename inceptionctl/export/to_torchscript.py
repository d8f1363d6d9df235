"""model.pt: TorchScript, traced and frozen, for C++ programs with libtorch and for Triton's PyTorch backend.

TorchScript is deprecated since torch 2.9, which still writes and reads it. Loading a model.pt runs the program in it, so inceptionctl
opens only the one that it has just written.
"""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description
from inceptionctl.export.formats import Exporter, Logits, Opened
from inceptionctl.stderr_capture import quiet

CONFIG = "config.json"


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """The one file, with the description as its extra file config.json: images float32 [batch, 3, px, px] -> logits, any batch.

    Frozen: weights are constants, batch norm is folded into convolutions.
    """
    px = trained.recipe.model.input_px
    written = io.BytesIO()
    # The warnings say that TorchScript is deprecated, and that the network's checks of its input's size are not traced.
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(  # type: ignore[no-untyped-call]
            trained.model, torch.zeros(2, 3, px, px), check_trace=False
        )
        torch.jit.save(torch.jit.freeze(traced), written, _extra_files={CONFIG: description.to_json()})
    return {"model.pt": _without_places(written.getvalue())}


def _without_places(content: bytes) -> bytes:
    """The archive without its debug records, which hold paths of this machine."""
    reader = torch._C.PyTorchFileReader(io.BytesIO(content))
    kept = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(kept)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in WRITTEN_BY_ITSELF:
            record = reader.get_record(name)
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return kept.getvalue()


# torch's writer adds these itself.
WRITTEN_BY_ITSELF = frozenset({"version", ".data/serialization_id", "byteorder", ".format_version", ".storage_alignment"})


def open_export(path: Path, device: torch.device) -> Opened:
    """Raises CheckpointError: such a file is a program, possibly from an untrusted source."""
    raise CheckpointError(
        f"{path} is TorchScript, a program of its own: inceptionctl opens none",
        "name the run, or another export of it, as model.onnx or model.safetensors",
    )


def ask_torchscript(path: Path) -> tuple[str, Logits]:
    """TorchScript's interpreter, on a file that this process has just written."""
    with quiet():
        module = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        with quiet():
            result: Tensor = module(images.contiguous())
        return result

    return f"TorchScript of torch {torch.__version__.partition('+')[0]}", logits


TORCHSCRIPT = Exporter("model.pt", write, open_export, ask_torchscript)
