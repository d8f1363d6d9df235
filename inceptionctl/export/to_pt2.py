"""model.pt2: a graph of torch.export, for programs that have torch but not inceptionctl."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor

from inceptionctl.errors import CheckpointError
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.description import Description, parse_description
from inceptionctl.export.formats import Exporter, Opened
from inceptionctl.stderr_capture import quiet

CONFIG = "config.json"


def trace(trained: Trained) -> torch.export.ExportedProgram:
    """The graph with a free batch size: images float32 [batch, 3, px, px] -> logits [batch, number of classes]."""
    px = trained.recipe.model.input_px
    # A batch of two: torch specialises on a size of one.
    example = torch.zeros(2, 3, px, px, device=next(trained.model.parameters()).device)
    program = torch.export.export(trained.model, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
    for node in program.graph.nodes:
        # Each operator would carry the lines of code that it came from, with the paths of this machine.
        node.meta.pop("stack_trace", None)
    return program


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """The one file, with the description as its extra file config.json."""
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(trace(trained), buffer, extra_files={CONFIG: description.to_json()})
    return {"model.pt2": buffer.getvalue()}


def open_export(path: Path, device: torch.device) -> Opened:
    """Load the graph; it runs on the CPU, where it was made. Raises CheckpointError.

    torch may unpickle parts of such a file: open only those whose source you trust.
    """
    extra = {CONFIG: ""}
    with quiet():
        try:
            module = torch.export.load(path, extra_files=extra).module()
        except Exception as error:  # torch raises whatever its archive reader, its schema or zipfile raised
            lines = str(error).splitlines() or [type(error).__name__]
            raise CheckpointError(
                f"cannot read {path}: {lines[0]}", "export it again: `inceptionctl export RUN --format pt2`"
            ) from None
    description = parse_description(extra[CONFIG], f"{CONFIG} in {path}")

    @torch.inference_mode()
    def logits(images: Tensor) -> Tensor:
        result: Tensor = module(images.contiguous())
        return result

    return Opened(description, logits)


PT2 = Exporter("model.pt2", write, open_export)
