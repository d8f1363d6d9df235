"""README.md beside the exports: a model card in the form of the Hugging Face Hub, made only of what the run holds.

Front matter: https://github.com/huggingface/hub-docs/blob/main/modelcard.md. A user's own README.md is left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypedDict

import yaml

from inceptionctl import __version__
from inceptionctl.console import JsonObject, size
from inceptionctl.data.elpv import license_of
from inceptionctl.data.sources.class_lists import imagenet_ids
from inceptionctl.evaluate.results import Result
from inceptionctl.evaluate.trained import Trained
from inceptionctl.export.exporters import ExportedFile
from inceptionctl.models import MODELS
from inceptionctl.models.summary import count_parameters
from inceptionctl.recipe.schema import Recipe
from inceptionctl.run import Run, visible
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.train.inputs import preparation_of
from inceptionctl.train.optim import schedule_in_words
from inceptionctl.words import counted, counted_epochs, has_top5

CARD = "README.md"
# The key of the front matter that marks a card as ours and keeps the facts of earlier exports.
OURS = "inceptionctl"
# Keys with paths of the training machine.
PATHS = frozenset({"root", "class_names", "val_labels", "train_csv", "val_csv", "exclusions", "init_from"})
HUB_IMAGENET = "ILSVRC/imagenet-1k"
MAX_CLASSES = 20
# Required keys; files of other versions that lack one are skipped.
ENTRY = ("format", "file", "bytes", "largest_difference", "compared_on")
START = ("started", "ranks", "gpus", "cores", "precision", "from_step", "python", "versions")
EVALUATION = ("step", "weights", "checkpoint", "protocol", "preparation", "subset", "num_images", "precision", "classes")
ERRORS = ("top1_error", "top1_error_interval", "top5_error", "top5_error_interval")


class FileEntry(TypedDict):
    """An export in a card."""

    format: str
    file: str
    bytes: int
    beside: dict[str, int]
    """Bytes of other files that belong to it."""
    largest_difference: float
    compared_on: str


class CardResult(Result):
    """A result with its subject, the checkpoint or an export, and the data set's name if it is not the recipe's."""

    of: str
    file: str
    elsewhere: str | None


def write_card(
    trained: Trained,
    folder: Path,
    done: Sequence[ExportedFile],
    compared_on: str,
    license: str | None,
    data_license: str | None,
) -> Path | None:
    """Write the card of a folder of exports, earlier ones of the same checkpoint included.

    None if the README.md there is not ours. Raises EnvironmentFault when the disk refuses.
    """
    file = folder / CARD
    ours = _front_matter(file).get(OURS)
    if file.exists() and not isinstance(ours, dict):
        return None
    files = _kept_files(ours or {}, trained.weights_sha256)
    for item in done:
        name = str(item.path.relative_to(folder))
        files[name] = {
            "format": item.format,
            "file": name,
            "bytes": item.num_bytes - sum(item.beside.values()),
            "beside": dict(sorted(item.beside.items())),
            "largest_difference": float(f"{item.max_difference:.2g}"),
            "compared_on": _compared_on(item, compared_on),
        }
    listed = [entry for _, entry in sorted(files.items()) if (folder / entry["file"]).is_file()]
    for entry in listed:
        kept = entry.get("beside")  # earlier cards lack it
        beside = kept.items() if isinstance(kept, dict) else ()
        entry["beside"] = {other: number for other, number in beside if (folder / other).is_file()}
    evaluations = evaluations_of(trained)
    data_license = data_license_of(trained, data_license)
    facts = {
        "front_matter": _dumped(_metadata(trained, listed, evaluations, license)),
        "name": name_of(trained),
        "network": _network(trained),
        "recipe": trained.recipe,
        "preparation": preparation_of(trained.recipe),
        "pillow": _pillow(trained.recipe),
        "schedule": schedule_in_words(trained.recipe.schedule, trained.recipe.train.epochs),
        "whole_recipe": _dumped(_public(trained.recipe.resolved())),
        "trained": trained,
        "imported": _json(trained.checkpoint / "import.json"),
        "starts": _starts(trained.run),
        "files": listed,
        "pixel_files": [entry["file"] for entry in listed if entry["file"].startswith("model_pixels")],
        "evaluations": evaluations,
        "validation": None if evaluations else _validation(trained),
        "data": dataset_name(trained),
        "license": license or trained.recipe.export.license,
        "data_license": data_license,
        "classes": trained.classes,
        "most_classes": MAX_CLASSES,
        "top5": has_top5(len(trained.classes)),
        "version": __version__,
    }
    with disk_errors(file):
        write_atomically(file, _render(facts))
    return file


def _compared_on(item: ExportedFile, compared_on: str) -> str:
    accuracy = item.accuracy
    if accuracy is None:
        images = _without_folders(compared_on)
    else:
        images = f"{counted(accuracy.num_images, 'validation image')}, {accuracy.loss:.2f} points of top-1 accuracy lost"
        if accuracy.loss_interval:
            low, high = accuracy.loss_interval
            images += f" (95%: {low:.2f} to {high:.2f})"
        images += f", on a processor with {accuracy.instruction_set}" if accuracy.instruction_set else ""
    return images if item.of == "logit" else f"{images} (of a probability)"


def _kept_files(ours: JsonObject, sha256: str) -> dict[str, FileEntry]:
    """Exports of the same checkpoint in an earlier card, by file."""
    entries = ours.get("files") if ours.get("checkpoint_sha256") == sha256 else None
    known: list[FileEntry] = [entry for entry in entries if _has(entry, ENTRY)] if isinstance(entries, list) else []
    return {str(entry["file"]): entry for entry in known}


def _has(values: object, keys: Collection[str]) -> bool:
    return isinstance(values, dict) and values.keys() >= set(keys)


def _render(facts: JsonObject) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Markdown, not HTML: nothing is escaped.
    templates = Environment(
        loader=PackageLoader("inceptionctl", "export"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    templates.filters |= {"size": size, "counted": counted, "counted_epochs": counted_epochs}
    return templates.get_template("card.md.j2").render(facts) + "\n"


def name_of(trained: Trained) -> str:
    """Name of the model: its run, or the checkpoint's folder."""
    return (trained.run.path if trained.run else trained.checkpoint).absolute().name


def data_license_of(trained: Trained, given: str | None) -> str | None:
    """Licence of the training data: as given, from the recipe, or from the data itself; None if unknown."""
    return given or trained.recipe.export.data_license or license_of(trained.recipe.data.root_path, trained.classes)


def dataset_name(trained: Trained) -> str:
    """ImageNet if the classes are its synsets, else the data folder's name."""
    return "ImageNet-1k (ILSVRC 2012)" if _is_imagenet(trained) else trained.recipe.data.root_path.name


def _is_imagenet(trained: Trained) -> bool:
    return list(trained.classes) == list(imagenet_ids())


def evaluations_of(trained: Trained) -> list[CardResult]:
    """Results of `evaluate` in the run for these weights or exports of them; sorted by file name."""
    if trained.run is None:
        return []
    found: list[CardResult] = []
    for file in sorted(path for path in visible(trained.run.evaluations) if path.suffix == ".json"):
        result = _json(file)
        if _has(result, (*EVALUATION, *ERRORS)) and (result["step"], result["weights"]) == (trained.step, trained.weights):
            place = Path(str(result["checkpoint"]))
            data = Path(str(result.get("data_root", trained.recipe.data.root))).name
            elsewhere = data if data != trained.recipe.data.root_path.name else None
            of = place.name if place.suffix else "checkpoint"
            known: Result = result
            found.append({**known, "of": of, "file": file.name, "elsewhere": elsewhere})
    return found


def _validation(trained: Trained) -> JsonObject | None:
    """The validation of this step during training, which is of the EMA weights."""
    if trained.run is None or trained.weights != "ema":
        return None
    rows = [row for row in trained.run.metrics() if row.get("kind") == "evaluate" and row["step"] == trained.step]
    return rows[-1] if rows else None


def _metadata(
    trained: Trained,
    files: Sequence[FileEntry],
    evaluations: Sequence[CardResult],
    license: str | None,
) -> JsonObject:
    section = trained.recipe.model
    papers = re.findall(r"arXiv (\d{4}\.\d{5})", MODELS[section.name].source) if section.name in MODELS else []
    license = license or trained.recipe.export.license
    formats = dict.fromkeys(entry["format"].split()[0] for entry in files)
    return {
        **({"license": license.lower() if re.fullmatch(r"[\w.-]+", license) else "other"} if license else {}),
        **({"license_name": license} if license and not re.fullmatch(r"[\w.-]+", license) else {}),
        "library_name": OURS,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", section.name, *formats, *(f"arxiv:{paper}" for paper in papers)],
        **({"datasets": [HUB_IMAGENET]} if _is_imagenet(trained) else {}),
        **(_results(trained, evaluations) if evaluations else {}),
        OURS: {"version": __version__, "step": trained.step, "weights": trained.weights}
        | {"checkpoint_sha256": trained.weights_sha256, "files": [*files]},
    }


def _results(trained: Trained, evaluations: Sequence[CardResult]) -> JsonObject:
    index = {"name": name_of(trained), "results": [_result(trained, one) for one in evaluations]}
    return {"metrics": ["accuracy"], "model-index": [index]}


def _result(trained: Trained, one: CardResult) -> JsonObject:
    name = one["elsewhere"] or dataset_name(trained)
    kind = HUB_IMAGENET if _is_imagenet(trained) and not one["elsewhere"] else name
    made = {"protocol": one["protocol"], "subset": one["subset"], "num_images": one["num_images"], "of": one["of"]}
    errors = {1: one["top1_error"]}
    if has_top5(len(one["classes"])) and one["top5_error"] is not None:
        errors[5] = one["top5_error"]
    metrics = [
        {"type": "accuracy", "name": f"top-{k} accuracy in percent", "value": round(100.0 - error, 4)}
        for k, error in errors.items()
    ]
    return {
        "task": {"type": "image-classification"},
        "dataset": {"type": kind, "name": name, "split": "validation", "args": made},
        "metrics": metrics,
    }


def _network(trained: Trained) -> JsonObject:
    section = trained.recipe.model
    spec = MODELS.get(section.name)
    return {
        "source": spec.source if spec else "a network of timm",
        "parameters": count_parameters(trained.model),
        "differs": _changed(section.width, spec.default_input_px if spec else section.input_px, section.input_px),
    }


def _changed(width: float, paper_px: int, input_px: int) -> list[str]:
    parts = [f"{width:g} of its width"] if width != 1.0 else []
    return parts + ([f"{input_px} px instead of {paper_px}"] if input_px != paper_px else [])


def _pillow(recipe: Recipe) -> dict[str, bool | str]:
    """How to preprocess an image with Pillow: its `resize` antialiases, its `transform` does not."""
    section = recipe.evaluate
    plain = not section.antialias and section.interpolation in ("bilinear", "nearest")
    # Nearest has no antialiasing.
    exact = plain or section.antialias or section.interpolation == "nearest"
    return {"transform": plain, "exact": exact, "filter": section.interpolation.upper()}


def _starts(run: Run | None) -> list[JsonObject]:
    """Environments of the starts of a run, without host name and command."""
    found = _json(run.environment_file) if run else None
    return [start for start in found if _has(start, START)] if isinstance(found, list) else []


def _public(values: JsonObject) -> JsonObject:
    """A recipe without paths of the training machine."""
    return {
        key: _public(value)
        if isinstance(value, dict)
        else Path(value).name
        if key in PATHS and isinstance(value, str)
        else value
        for key, value in values.items()
    }


def _without_folders(text: str) -> str:
    return re.sub(r"(?<!\S)\S*/([^/\s]+)", r"\1", text)


def _front_matter(file: Path) -> JsonObject:
    """The YAML between the first two lines of dashes; empty if it is none."""
    try:
        found = re.match(r"---\n(.*?)\n---\n", file.read_text(encoding="utf-8"), re.S)
        values = yaml.safe_load(found[1]) if found else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}
    return values if isinstance(values, dict) else {}


def _json(file: Path) -> Any:
    """The content of a JSON file; None if it cannot be read."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _dumped(values: JsonObject) -> str:
    text: str = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=1000)
    return text.rstrip()
