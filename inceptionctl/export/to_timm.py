"""timm/model.safetensors and timm/config.json: a folder that `timm.create_model("local-dir:...", pretrained=True)` loads strictly.

The same two files are what timm's hub loader reads. Only for the networks that timm has exactly.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from inceptionctl.console import JsonObject
from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.evaluate.trained import Trained, empty_network
from inceptionctl.export.description import Description, parse_description
from inceptionctl.export.formats import Exporter, Logits, Opened, logits_of
from inceptionctl.models import find_spec, is_timm
from inceptionctl.models.timm_network import import_timm
from inceptionctl.stderr_capture import quiet
from inceptionctl.weights.counterparts import COUNTERPARTS, TAKE_INSTEAD, Counterpart
from inceptionctl.weights.match import AUX_HEAD, match
from inceptionctl.weights.names import their_tensor

CPU = torch.device("cpu")
FOLDER = "timm"
CONFIG = "config.json"
# Our own description, under a key of config.json that timm does not read.
OURS = "inceptionctl"
AGAIN = "export it again: `inceptionctl export RUN --format timm`"
OTHER_FORMATS = "--format safetensors, onnx or pt2"
WITHOUT_HEAD = "the auxiliary head is left out of the timm file: timm builds the network without it"


def write(trained: Trained, description: Description) -> dict[str, bytes]:
    """The two files. Raises CheckpointError for a network that timm does not have exactly, naming the one to train instead."""
    counterpart = _counterpart(trained)
    names = counterpart.names()
    tensors = {
        _timm_name(names, name): value.detach().cpu().contiguous()
        for name, value in trained.model.state_dict().items()
        if not name.startswith(AUX_HEAD)
    }
    config = json.dumps(_config(trained, description, counterpart), indent=2, ensure_ascii=False) + "\n"
    return {f"{FOLDER}/model.safetensors": save(tensors, {"format": "pt"}), f"{FOLDER}/{CONFIG}": config.encode()}


def remarks(trained: Trained) -> list[str]:
    """The parts of the network that the files leave out."""
    return [WITHOUT_HEAD] if any(name.startswith(AUX_HEAD) for name in trained.model.state_dict()) else []


def _timm_name(names: dict[str, str], tensor: str) -> str:
    theirs = their_tensor(names, tensor, "torch")
    assert theirs is not None, tensor  # the tables are complete; tests hold them against timm
    return theirs


def _counterpart(trained: Trained) -> Counterpart:
    section = trained.recipe.model
    if is_timm(section.name):
        raise CheckpointError(
            f"{section.name} is a network of timm, whose tensors have timm's names already",
            "use --format safetensors and load model.safetensors into timm.create_model",
        )
    found = COUNTERPARTS["timm"].get(section.name)
    if found is None or not found.same_function:
        other, why = TAKE_INSTEAD.get(section.name, ("", "it has none under another name either"))
        hint = f"train {other}, which is timm's" if other else f"use {OTHER_FORMATS}"
        raise CheckpointError(f"timm has no network that computes what {section.name} computes: {why}", hint)
    spec = find_spec(section.name)
    fixed = {  # what timm builds regardless of options
        "width": (section.width, 1.0),
        "residual_scale": (section.residual_scale or spec.residual_scale, spec.residual_scale),
        "shortcut": (section.shortcut, True),
        "extra_batch_norm": (section.extra_batch_norm, False),
        "residual_unit": (section.residual_unit or spec.residual_unit, spec.residual_unit),
        **({} if found.takes_batch_norm_eps else {"batch_norm_eps": (section.batch_norm_eps, found.batch_norm_eps)}),
    }
    for key, (ours, theirs) in fixed.items():
        if ours != theirs:
            raise CheckpointError(
                f"timm builds {found.name} with model.{key} {theirs} alone; this one was trained with {ours}",
                f"train with model.{key}={theirs}, or use {OTHER_FORMATS}",
            )
    return found


def _config(trained: Trained, description: Description, counterpart: Counterpart) -> JsonObject:
    names, section = counterpart.names(), trained.recipe.model
    # timm's own networks have this argument; left out where it is theirs, since older versions do not know the key.
    own_eps = section.batch_norm_eps != counterpart.batch_norm_eps
    return {
        "architecture": counterpart.name,
        "num_classes": section.num_classes,
        "num_features": trained.model.get_submodule("classifier").in_features,
        "global_pool": "avg",
        "label_names": list(trained.classes),
        **({"model_args": {"norm_eps": section.batch_norm_eps}} if own_eps else {}),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, section.input_px, section.input_px],
            "fixed_input_size": False,
            "interpolation": description.interpolation,
            "crop_pct": description.central_fraction,
            "crop_mode": "center" if description.keep_aspect else "squash",
            "mean": description.mean,
            "std": description.std,
            "num_classes": section.num_classes,
            "pool_size": None,
            "first_conv": names[counterpart.first_conv],
            "classifier": names["classifier"],
        },
        OURS: description.model_dump(),
    }


def open_export(path: Path, device: torch.device) -> Opened:
    """Our network with timm's names mapped back: timm is not needed. Raises CheckpointError."""
    config = path.with_name(CONFIG)
    content = read_config(config)
    if content is None:
        raise CheckpointError(f"{path} has no {CONFIG} of timm beside it", "keep both files of an export together")
    if OURS not in content:
        raise CheckpointError(
            f"{config} is timm's and was not written by inceptionctl",
            "take the weights in first: `inceptionctl weights import`",
        )
    description = parse_description(json.dumps(content[OURS]), f"{OURS} in {config}")
    model = empty_network({**description.model_arguments(), "aux_head": False if description.aux_head is not None else None})
    counterpart = COUNTERPARTS["timm"].get(description.architecture)
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"cannot read {path}: {error}", AGAIN) from None
    if counterpart is None:
        raise CheckpointError(f"{config}: timm has nothing like {description.architecture}", AGAIN)
    found = match(model.state_dict(), counterpart.names(), tensors, "torch", drop_background=False)
    if found.problems:
        raise CheckpointError(f"{path} does not fit {config}:\n  " + "\n  ".join(found.problems), AGAIN)
    model.load_state_dict(found.tensors)
    return Opened(description, logits_of(model.to(device), device))


def read_config(config: Path) -> JsonObject | None:
    """A config.json in timm's form, else None."""
    try:
        content = json.loads(config.read_text(encoding="utf-8", errors="replace"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) and "pretrained_cfg" in content else None


def ask_timm(path: Path) -> tuple[str, Logits]:
    """What computes the logits of the file, and the logits: timm itself if it is installed and runs, else our network."""
    with quiet():
        try:
            timm = import_timm("--format timm")
        except EnvironmentFault as error:
            return f"inceptionctl's own network, names mapped back ({error.message})", open_export(path, CPU).logits
        try:
            model = timm.create_model(f"local-dir:{path.parent}", pretrained=True).eval()
        except Exception as error:  # what timm and load_state_dict raise for a file that does not fit
            raise CheckpointError(
                f"timm {timm.__version__} does not load the export: {str(error).splitlines()[0]}; it was not written",
                "report this: it is a bug of inceptionctl, or a timm that has changed",
            ) from None
    return f"timm {timm.__version__}", logits_of(model, CPU)


TIMM = Exporter(f"{FOLDER}/model.safetensors", write, open_export, ask_timm, remarks)
