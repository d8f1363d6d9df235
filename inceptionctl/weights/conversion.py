"""`inceptionctl weights import`: a file of another program becomes a checkpoint folder, or an error lists every tensor that does not fit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, NoReturn

import torch

from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.models import build_model, find_spec
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.recipe.schema import Recipe
from inceptionctl.storage import disk_errors, temporary_folder, write_atomically
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint import Progress, save_tensors
from inceptionctl.weights.counterparts import (
    COUNTERPARTS,
    EVALUATIONS,
    Counterpart,
    Form,
    Triple,
    default_class_names,
    find_counterpart,
)
from inceptionctl.weights.match import (
    AUX_HEAD,
    WITH_BACKGROUND,
    Match,
    choose_averages,
    count_classes,
    match,
)
from inceptionctl.weights.names import Kind, their_tensor
from inceptionctl.weights.weight_files import Which, read

REPORT = "import.json"


@dataclass(frozen=True)
class Import:
    """A converted file, not yet written. `match` has no problems."""

    source: Path
    form: Form
    counterpart: Counterpart
    recipe: Recipe
    classes: tuple[str, ...]
    background_dropped: bool
    match: Match

    def to_json(self) -> dict[str, object]:
        """The report as plain values."""
        section = self.recipe.model
        return {
            "source": str(self.source),
            "form": self.form,
            "their_network": self.counterpart.name,
            "same_function": self.counterpart.same_function,
            "model": section.name,
            "num_classes": section.num_classes,
            "background_dropped": self.background_dropped,
            "aux_head": bool(section.aux_head),
            "mean": list(self.recipe.data.mean),
            "std": list(self.recipe.data.std),
            **self.match.to_json(),
        }


def prepare(
    source: Path,
    model: str,
    *,
    form: Form | Literal["auto"] = "auto",
    which: Which = "ema",
    class_names: Sequence[str] | None = None,
    num_classes: int | None = None,
    aux_head: bool | None = None,
    mean: Triple | None = None,
    std: Triple | None = None,
    expects: Mapping[str, object] | None = None,
) -> Import:
    """Read a file and match each of its tensors to our network `model`; nothing is written.

    `form` auto goes by the kind of file. `which` chooses between EMA and last weights if the file has both. Without `class_names` and
    `num_classes` a file of 1,001 classes gives 1,000: the first is TF-slim's background. `aux_head` None builds the auxiliary head if
    the file has one. `mean` and `std` default to those of the form, and so do the other keys of a recipe, of which `expects` gives some
    by their dotted names. Raises CheckpointError that lists every tensor that is missing,
    wrong or left over; RecipeError for names that do not fit each other.
    """
    find_spec(model)
    content = read(source, which)
    used = _form_of(content.kind, form, source)
    counterpart = find_counterpart(used, model)
    names = counterpart.names()
    tensors, set_aside = (
        choose_averages(content.tensors, which) if content.kind == "tensorflow" else (content.tensors, dict[str, str]())
    )
    in_file = count_classes(names, tensors, content.kind)
    if in_file is None:
        _refuse_network(source, model, used, counterpart, tensors, content.kind)
    classes, background = _classes(in_file, class_names, num_classes)
    if aux_head is None:
        aux_head = any(
            their_tensor(names, f"{module}.{leaf}", content.kind) in tensors
            for module in names
            if module.startswith(AUX_HEAD)
            for leaf in ("weight", "bias")
        )
    normalisation = (mean or counterpart.mean, std or counterpart.std)
    recipe = _recipe(model, used, counterpart, len(classes), aux_head, normalisation, expects or {})
    found = match(_shapes(recipe), names, tensors, content.kind, drop_background=background)
    found.dropped = {**content.set_aside, **set_aside, **found.dropped}
    if found.problems:
        _refuse(source, model, used, found)
    return Import(source, used, counterpart, recipe, classes, background, found)


def _form_of(kind: Kind, wanted: Form | Literal["auto"], source: Path) -> Form:
    if wanted == "auto":
        return "tf-slim" if kind == "tensorflow" else "timm"
    if (wanted == "tf-slim") != (kind == "tensorflow"):
        what = "a TensorFlow checkpoint" if kind == "tensorflow" else "a state dict of torch"
        raise RecipeError(f"--form {wanted}: {source} is {what}", "leave --form out")
    return wanted


def _classes(in_file: int, names: Sequence[str] | None, number: int | None) -> tuple[tuple[str, ...], bool]:
    """(names of the classes, whether the background class is dropped)."""
    if names is not None and number is not None and len(names) != number:
        raise RecipeError(f"--class-names gives {len(names)} names, --num-classes {number}", "give one of them")
    default = in_file - 1 if in_file == WITH_BACKGROUND else in_file
    wanted = len(names) if names is not None else number or default
    background = in_file == WITH_BACKGROUND and wanted == WITH_BACKGROUND - 1
    if wanted != in_file and not background:
        option = "--class-names" if names is not None else "--num-classes"
        raise RecipeError(f"the file has {in_file} classes, {option} {wanted}", "an import keeps the classes of the file")
    return tuple(names if names is not None else default_class_names(wanted)), background


def _recipe(
    model: str,
    form: Form,
    counterpart: Counterpart,
    num_classes: int,
    aux_head: bool,
    normalisation: tuple[Triple, Triple],
    expects: Mapping[str, object],
) -> Recipe:
    spec = find_spec(model)
    section = {
        "name": model,
        "num_classes": num_classes,
        "input_px": spec.default_input_px,
        "batch_norm_eps": counterpart.batch_norm_eps,
        "aux_head": aux_head if spec.aux_head is not None else aux_head or None,  # True is the recipe's to refuse
    }
    data: dict[str, object] = dict(zip(("mean", "std"), map(list, normalisation), strict=True))
    evaluate = {**EVALUATIONS[form], "central_fraction": counterpart.central_fraction}
    tree: dict[str, dict[str, object]] = {"model": section, "data": data, "evaluate": evaluate}
    for key, value in expects.items():
        name, _, own = key.partition(".")
        tree[name][own] = value
    return recipe_from_dict(tree, f"the import of {model}")


def _shapes(recipe: Recipe) -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return build_model(**recipe.model.network()).state_dict()


def _refuse_network(
    source: Path, model: str, form: Form, counterpart: Counterpart, tensors: Mapping[str, torch.Tensor], kind: Kind
) -> NoReturn:
    fitting = [name for name, other in COUNTERPARTS[form].items() if count_classes(other.names(), tensors, kind) is not None]
    raise CheckpointError(
        f"{source} is not of {model}: it holds {len(tensors)} tensors ({', '.join(list(tensors)[:3])}, ...) and no classifier"
        f" of {form}'s {counterpart.name}",
        f"its names are those of {' or '.join(fitting)}" if fitting else f"--model takes {', '.join(COUNTERPARTS[form])} here",
    )


def _refuse(source: Path, model: str, form: Form, found: Match) -> NoReturn:
    counts = (
        f"{len(found.missing)} missing, {len(found.wrong)} wrong, {len(found.left_over)} left over, {len(found.mapped)} fit"
    )
    others = [name for name in COUNTERPARTS[form] if name != model]
    raise CheckpointError(
        f"{source} is not of {model}: {counts}; nothing was written\n  " + "\n  ".join(found.problems),
        f"is it of another network? {form} has those of {', '.join(others)}",
    )


def write(done: Import, folder: Path) -> None:
    """Write the checkpoint folder atomically: the weights twice (EMA and last are the same), recipe, report.

    Raises CheckpointError when something is there already, EnvironmentFault when the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CheckpointError(f"output directory {folder} is occupied", "choose another --output, or remove it")
    progress = Progress(classes=list(done.classes), recipe=done.recipe.resolved())
    with disk_errors(folder), temporary_folder(folder) as temporary:
        save_tensors(temporary / "model.safetensors", done.match.tensors)
        save_tensors(temporary / "ema.safetensors", done.match.tensors)
        save_tensors(temporary / "optimizer.safetensors", {})
        write_atomically(temporary / "progress.json", json.dumps(asdict(progress), indent=2) + "\n")
        write_atomically(temporary / REPORT, json.dumps(done.to_json(), indent=2, ensure_ascii=False) + "\n")
        files.seal(temporary)
