"""What a fine-tuning takes over from the weights that it starts from beside their tensors. No torch: `train` asks before it starts ranks.

Weights were trained on images that were prepared in some way, by a network with numbers that no tensor tells of. A recipe that does not
say how it wants these inherits them (`inherit`); one that says otherwise is warned, or refused where the network would be another one.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inceptionctl.console import JsonObject
from inceptionctl.errors import CheckpointError, RecipeError
from inceptionctl.models import MODELS
from inceptionctl.nearby import did_you_mean
from inceptionctl.published import path_of
from inceptionctl.recipe.data_section import expanded
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.recipe.schema import Recipe, flatten
from inceptionctl.run import Run, is_run
from inceptionctl.train import checkpoint_files as files
from inceptionctl.train.checkpoint_choice import choose_checkpoint

INPUT_PX = "model.input_px"
OF_IMAGES = (
    "data.mean",
    "data.std",
    "data.exif_orientation",
    "evaluate.central_fraction",
    "evaluate.keep_aspect",
    "evaluate.interpolation",
    "evaluate.antialias",
)
OF_THE_NETWORK = ("model.batch_norm_eps", "model.residual_scale", "model.shortcut", "model.extra_batch_norm")
INHERITED = (INPUT_PX, *OF_THE_NETWORK, *OF_IMAGES)


@dataclass(frozen=True)
class WeightsSource:
    """Weights of another training: their `file`, the `network` of MODELS with `num_classes` logits that they are of, and what they expect."""

    file: Path
    network: str
    num_classes: int
    expects: Mapping[str, Any]
    """Values by the recipe's dotted keys; those that nothing is known of are left out."""


_NAMED = "name a run, a checkpoint folder or a safetensors export; `inceptionctl weights import` makes one of other weights"


def first_weights(recipe: Recipe) -> Path | None:
    """The path that `model.init_from` names; of published weights the folder that they are fetched into."""
    named = recipe.model.init_from
    return (path_of(named, recipe.model.name) or expanded(named)) if named else None


def find_weights(path: Path, *, verified: bool = True) -> WeightsSource:
    """The averaged weights of a run's best or newest checkpoint, of a checkpoint folder, or those of an export: its folder, or its
    model.safetensors.

    Raises CheckpointError when there are none, they are damaged (of a checkpoint only if `verified`), or their network is not told.
    """
    export = path if path.suffix == ".safetensors" else path / "model.safetensors"
    if export.is_file() and export.with_name("config.json").is_file():
        config = _config(export.with_name("config.json"))
        expects = {key: config[name] for key in INHERITED if (name := key.partition(".")[2]) in config}
        return WeightsSource(export, str(config["architecture"]), int(config["num_classes"]), expects)
    if path.suffix == ".safetensors":
        what = "has no config.json beside it" if path.is_file() else "does not exist"
        raise CheckpointError(f"model.init_from: {path} {what}", f"{did_you_mean(path)}{_NAMED}")
    if not path.exists():
        raise CheckpointError(f"model.init_from: there is no {path}", f"{did_you_mean(path)}{_NAMED}")
    chosen = choose_checkpoint(path).checkpoint
    checkpoint = files.open_checkpoint(chosen) if verified else files.find_checkpoint(chosen)
    kept = files.read_progress(checkpoint).get("recipe")
    flat = flatten(kept) if isinstance(kept, dict) else {}
    name, number = str(flat.get("model.name")), flat.get("model.num_classes", 0)
    return WeightsSource(
        checkpoint / "ema.safetensors", name, int(number), {key: flat[key] for key in INHERITED if key in flat}
    )


def _config(path: Path) -> JsonObject:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not {"architecture", "num_classes"} <= config.keys():
            raise ValueError("architecture or num_classes is missing")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"model.init_from: cannot read {path}: {error}", "name an export of inceptionctl") from None
    return dict(config)


def inherit(recipe: Recipe, begun: Path | None = None) -> Recipe:
    """The recipe with what the weights of `model.init_from` expect, in the keys that it does not name itself.

    `begun` is the run directory to resume, if there is one: what it has inherited stays, whatever has become of the weights.
    Weights that are not there are left to the training, which refuses to start without them. Raises RecipeError where the recipe names
    another value for what makes the network.
    """
    path = first_weights(recipe)
    if path is None:
        return recipe
    if begun is not None and is_run(begun):
        kept = flatten(Run(begun).recipe().resolved())
        if kept["model.init_from"] == recipe.model.init_from:
            return _with(recipe, {key: kept[key] for key in INHERITED}, str(begun))
    with contextlib.suppress(CheckpointError):
        source = find_weights(path, verified=False)
        if source.network == recipe.model.name:
            inherited = _with(recipe, source.expects, str(source.file))
            refuse_another_function(inherited, source.expects, source.file)
            return inherited
    return recipe


def _with(recipe: Recipe, expects: Mapping[str, Any], where: str) -> Recipe:
    tree = recipe.resolved()
    for key, value in expects.items():
        section, _, name = key.partition(".")
        if name not in getattr(recipe, section).model_fields_set:
            tree[section][name] = value
    return recipe_from_dict(tree, f"with what {where} expects")


def refuse_another_function(recipe: Recipe, expects: Mapping[str, Any], file: Path) -> None:
    """Raise RecipeError where the weights would be put into a network that computes something else than theirs."""
    own = flatten(recipe.resolved())
    for key in OF_THE_NETWORK:
        ours, theirs = (_number(values.get(key), recipe.model.name) for values in (own, expects))
        if key in expects and ours != theirs:
            raise RecipeError(
                f"{key} is {_shown(own[key])}, but the weights of {file} were trained with {_shown(expects[key] or theirs)}",
                f"leave {key} out: it is taken from the weights",
            )


def _number(value: Any, network: str) -> Any:
    """A residual scale of None is the network's own; one number is that of all three grids."""
    if value is None and network in MODELS:
        value = MODELS[network].residual_scale
    return list(value) if isinstance(value, list | tuple) else value


def as_expected(recipe: Recipe, expects: Mapping[str, Any]) -> list[str]:
    """What of the recipe is as the weights expect, and a warning for what is not, as lines for people."""
    own = flatten(recipe.resolved())
    same = [f"{key} {_shown(own[key])}" for key in INHERITED if key in expects and own[key] == expects[key]]
    other = [
        f"{key} is {_shown(own[key])}, the weights expect {_shown(expects[key])}"
        for key in OF_IMAGES
        if key in expects and own[key] != expects[key]
    ]
    told = [f"as these weights expect: {', '.join(same)}"] if same else []
    return told + ([f"warning: images are not prepared as these weights expect: {'; '.join(other)}"] if other else [])


def _shown(value: Any) -> str:
    return json.dumps(value)
