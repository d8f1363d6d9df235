"""Networks of timm, torchvision and TF-slim with the layers of ours: their preprocessing and classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Literal

from inceptionctl.errors import RecipeError
from inceptionctl.models import TIMM_PREFIX, find_spec, is_timm
from inceptionctl.weights import tf_slim_names, timm_names
from inceptionctl.weights.names import Names

Form = Literal["timm", "torchvision", "tf-slim"]
FORMS: tuple[Form, ...] = ("timm", "torchvision", "tf-slim")


Triple = tuple[float, float, float]
HALF: Triple = (0.5, 0.5, 0.5)
IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Counterpart:
    """Another program's network with the same tensors as one of ours.

    `same_function`: the same weights give the same logits there; False if a layer without weights differs.
    """

    name: str
    names: Callable[[], Names]
    """Our modules that own tensors -> theirs."""
    batch_norm_eps: float = 1e-3
    takes_batch_norm_eps: bool = True
    """Whether it can be built with another epsilon."""
    first_conv: str = "stem.conv_1.conv"
    """Our name of the convolution that sees the image."""
    same_function: bool = True
    mean: Triple = HALF
    std: Triple = HALF
    """Normalisation of the RGB values in [0, 1] that the weights were trained with."""
    central_fraction: float = 0.875
    """crop_pct of the evaluation behind the published errors."""


# The rest of that evaluation: keys of a recipe's section evaluate.
EVALUATIONS: dict[Form, dict[str, object]] = {
    "timm": {"keep_aspect": True, "interpolation": "bicubic", "antialias": True},
    "torchvision": {"keep_aspect": True, "interpolation": "bilinear", "antialias": True},
    "tf-slim": {"keep_aspect": False, "interpolation": "bilinear", "antialias": False},
}


def _resnet(name: str, units: tuple[int, int, int, int], convolutions: int) -> Counterpart:
    return Counterpart(
        name,
        partial(timm_names.resnet, units, convolutions),
        batch_norm_eps=1e-5,
        takes_batch_norm_eps=False,
        first_conv="stem.conv.conv",
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )


RESNETS = {
    "resnet_18": _resnet("resnet18", (2, 2, 2, 2), 2),
    "resnet_34": _resnet("resnet34", (3, 4, 6, 3), 2),
    "resnet_50_v1_5": _resnet("resnet50", (3, 4, 6, 3), 3),
    "resnet_101_v1_5": _resnet("resnet101", (3, 4, 23, 3), 3),
    "resnet_152_v1_5": _resnet("resnet152", (3, 8, 36, 3), 3),
}
V3S = {
    "inception_v3": Counterpart("inception_v3", timm_names.inception_v3, same_function=False),
    "inception_v3_torchvision": Counterpart("inception_v3", timm_names.inception_v3),
}

COUNTERPARTS: dict[Form, dict[str, Counterpart]] = {
    "timm": {
        **V3S,
        "inception_v4_tf_slim": Counterpart("inception_v4", timm_names.inception_v4),
        "inception_resnet_v2_tf_slim": Counterpart(
            "inception_resnet_v2", timm_names.inception_resnet_v2, central_fraction=0.8975
        ),
        **RESNETS,
    },
    "torchvision": {**V3S, **RESNETS},
    "tf-slim": {
        "inception_v3": Counterpart("inception_v3", tf_slim_names.inception_v3),
        "inception_v3_torchvision": Counterpart("inception_v3", tf_slim_names.inception_v3, same_function=False),
        "inception_v4_tf_slim": Counterpart("inception_v4", tf_slim_names.inception_v4),
        "inception_resnet_v2_tf_slim": Counterpart("inception_resnet_v2", tf_slim_names.inception_resnet_v2),
    },
}

# Our network -> the one of ours to take instead, and why: what the other programs have under the same name is that one.
TAKE_INSTEAD: dict[str, tuple[str, str]] = {
    "inception_v3": ("inception_v3_torchvision", "its average pools leave the padding out of the mean, theirs count it"),
    "inception_v3_torchvision": ("inception_v3", "its average pools count the padding, theirs leave it out of the mean"),
    "inception_v4": (
        "inception_v4_tf_slim",
        "its 1x7 and 7x1 kernels follow each other as the paper's figures have them, theirs the other way round",
    ),
    "inception_resnet_v2": ("inception_resnet_v2_tf_slim", "it has the paper's stem and half as many blocks as theirs"),
    **{
        f"resnet_{depth}": (
            f"resnet_{depth}_v1_5",
            "its units halve the grid in their first 1x1 convolution, theirs in the 3x3: the same tensors make another function",
        )
        for depth in (50, 101, 152)
    },
}


def find_counterpart(form: Form, model: str) -> Counterpart:
    """The counterpart of our network `model`. Raises RecipeError if the form has none, naming the nearest."""
    find_spec(model)
    found = COUNTERPARTS[form].get(model)
    if found is not None:
        return found
    other, why = TAKE_INSTEAD.get(model, ("", ""))
    if other in COUNTERPARTS[form]:
        raise RecipeError(f"weights of {form} do not fit {model}: {why}", f"use {other}")
    raise RecipeError(f"{form} has no network with the layers of {model}", f"it has those of {', '.join(COUNTERPARTS[form])}")


# Its weights fit no network of timm, but its layers do the same work as those of the one that does: docs/networks.md.
AS_LARGE = {"inception_v4": "inception_v4_tf_slim"}


def timm_network_as_large(model: str) -> str:
    """timm's name of its network with our parameters and MACs, layer by layer; `timm/NAME` is its own.

    Raises RecipeError if timm has no network of that size, naming those that it has.
    """
    if is_timm(model):
        return model.removeprefix(TIMM_PREFIX)
    find_spec(model)
    found = COUNTERPARTS["timm"].get(AS_LARGE.get(model, model))
    if found is not None:
        return found.name
    other, why = TAKE_INSTEAD.get(model, ("", ""))
    known = ", ".join(sorted([*COUNTERPARTS["timm"], *AS_LARGE]))
    raise RecipeError(
        f"timm has no network that costs what {model} does" + (f": {why}" if why else ""),
        (f"measure {other}, or another of" if other else "it has those of") + f" {known}, and timm/NAME",
    )


def imagenet_wnids() -> list[str]:
    """The 1,000 synsets of ILSVRC 2012 in sorted order: the classes of torchvision, timm and (after a background) TF-slim."""
    return resources.files("inceptionctl.data.sources").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()


def read_class_names(path: Path) -> list[str]:
    """A name a line. Raises RecipeError for a file that cannot be read, a line without a name, or a name given twice."""
    try:
        names = [line.strip() for line in path.read_text(encoding="utf-8").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read class names from {path}: {error}", "give a text file with a name a line") from None
    seen: set[str] = set()
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            raise RecipeError(
                f"{path}:{number}: " + (f"{name!r} is there twice" if name else "no name"), "give each class one line"
            )
        seen.add(name)
    return names


def default_class_names(num_classes: int) -> list[str]:
    """ImageNet's for 1,000 classes, else class_0000, class_0001, ..."""
    return imagenet_wnids() if num_classes == 1000 else [f"class_{i:04d}" for i in range(num_classes)]
