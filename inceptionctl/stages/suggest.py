"""`inceptionctl recipes suggest` as a call: a commented recipe for a data set and this machine, as text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from inceptionctl.stages.sources import local

if TYPE_CHECKING:
    from inceptionctl.data.imageset import ImageSet
    from inceptionctl.recipe.data_section import DataSection

# Images whose headers are read to learn sizes and colors.
_LOOKED_AT = 300
_SIDES = (75, 107, 139, 171, 203, 235, 267, 299)
_VAL_FRACTION = 0.2


@dataclass(frozen=True)
class SuggestRequest:
    """What to train on, and where."""

    root: Path
    """The data set, of any format; or class folders alone."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """What the training is to run on; `auto` is a GPU where there is a driver."""
    init_from: str | None = None
    """Weights to fine-tune: a path or a name of published ones."""


@dataclass(frozen=True)
class _Facts:
    """What is known of the data and the machine."""

    root: Path
    num_images: int
    num_classes: int
    shorter_side: int
    """Median in pixels."""
    is_gray: bool
    has_val: bool
    gpus: int


def suggest(request: SuggestRequest) -> str:
    """The text of a recipe. Raises DataError for data that no training would take."""
    facts = _look(request)
    text = _written(facts, request.init_from)
    _refuse_own_mistakes(text)
    return text


def _look(request: SuggestRequest) -> _Facts:
    from inceptionctl.data.dataset import check_num_classes

    train, section = _opened(request.root)
    check_num_classes(train)
    side, is_gray = _sizes(train)
    return _Facts(
        root=request.root,
        num_images=len(train),
        num_classes=len(train.classes),
        shorter_side=side,
        is_gray=is_gray,
        has_val=section.val_fraction is None,
        gpus=_gpus(request.device),
    )


def _opened(root: Path) -> tuple[ImageSet, DataSection]:
    """The training images, divided where there is no validation split."""
    from inceptionctl.data.dataset import open_split
    from inceptionctl.errors import DataError
    from inceptionctl.recipe.data_section import DataSection

    section = DataSection(root=str(root))
    try:
        open_split(root, "val", **section.sources(root))
    except DataError as no_val:
        section = DataSection(root=str(root), val_fraction=_VAL_FRACTION)
        try:
            return open_split(root, "train", **section.sources(root)), section
        except DataError as fault:
            # Where nothing can be divided either, what is wrong with the data as they are says more.
            raise (no_val if root.is_dir() and (root / "train").exists() else fault) from None
    return open_split(root, "train", **section.sources(root)), section


def _sizes(train: ImageSet) -> tuple[int, bool]:
    """(median of the shorter sides in pixels, whether all are gray) of some images; those that cannot be read are left out."""
    import statistics
    from io import BytesIO

    from PIL import Image, UnidentifiedImageError

    from inceptionctl.errors import DataError

    some, sides, gray = train.spread(_LOOKED_AT), list[int](), list[bool]()
    for i in range(len(some)):
        try:
            with Image.open(BytesIO(some.read(i))) as image:
                sides.append(min(image.size))
                gray.append(image.mode in ("1", "L", "LA", "I", "I;16", "F"))
        except (DataError, UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
            continue
    return int(statistics.median(sides)) if sides else _SIDES[-1], bool(gray) and all(gray)


def _gpus(device: str) -> int:
    from inceptionctl.distributed.local import choose_ranks, has_driver

    if device == "cpu" or (device == "auto" and not has_driver()):
        return 0
    ranks = choose_ranks(None, None)
    return 1 if ranks.on_cpu else ranks.size


def _written(facts: _Facts, init_from: str | None) -> str:
    on_gpu = facts.gpus > 0
    sides = _SIDES if on_gpu else _SIDES[:2]
    side = min(sides, key=lambda side: abs(side - facts.shorter_side))
    batch = _batch(facts.num_images, 64 * max(1, facts.gpus))
    epochs = max(10, min(100, round((1_500_000 if on_gpu else 40_000) / facts.num_images)))
    steps = epochs * facts.num_images / batch
    machine = f"{facts.gpus} GPU{'s' if facts.gpus > 1 else ''}" if on_gpu else "a CPU"
    network, width, why = ("inception_resnet_v2", 1.0, "the paper's best single network") if on_gpu else _ON_CPU
    lines = [
        f"# Suggested by inceptionctl for {facts.root}: {facts.num_images:,} training images of {facts.num_classes} classes, on {machine}",
        f"# command: inceptionctl train THIS_FILE    (about {steps:,.0f} steps; --dry-run says what it would do)",
        "model:",
        *_model(facts, network, width, why, side, init_from, steps),
        "",
        "data:",
        *_data(facts),
        "",
        *_training(on_gpu, batch, epochs, steps, fine_tunes=init_from is not None),
        "",
        "evaluate:",
        f"  every_epochs: {max(1, epochs // 10)}",
        "  keep_aspect: true           # the middle square, not a squashed photograph",
        "",
        "checkpoint:",
        "  keep_last: 2                # and the best by top-1 error",
        "",
        "# The licence is yours to choose; a model card asks for it:",
        "# export: {license: apache-2.0, data_license: cc-by-4.0}",
    ]
    return "\n".join(lines) + "\n"


_ON_CPU = ("resnet_18", 0.5, "a residual network learns most in a few hundred steps")


def _batch(images: int, most: int) -> int:
    """A power of two with ten steps an epoch, where there are enough images."""
    size = most
    while size > 8 and images < 10 * size:
        size //= 2
    return size


def _model(facts: _Facts, network: str, width: float, why: str, side: int, init_from: str | None, steps: float) -> list[str]:
    lines = [f"  name: {network:<21} # {why}"]
    if init_from:
        lines = [f"  name: {_network_of(init_from):<21} # that of the weights", f"  init_from: {init_from}"]
    elif facts.gpus:
        lines += [
            "  # Far better with few images: name inception_resnet_v2_tf_slim and",
            "  # init_from: timm/inception_resnet_v2.tf_in1k",
        ]
    lines += [
        f"  num_classes: auto           # {facts.num_classes}",
        f"  input_px: {side:<17} # half of the photographs are {facts.shorter_side} px or more on their shorter side",
    ]
    if width != 1.0 and not init_from:
        lines.append(f"  width: {width:<20} # of the channels: the whole network wants a GPU")
    lines.append(
        f"  batch_norm_momentum: {0.05 if steps < 5000 else 0.01:<6} # {steps:,.0f} steps are few for the default of 0.0003"
    )
    return lines


def _network_of(init_from: str) -> str:
    from inceptionctl.train.inheritance import find_weights

    return find_weights(local(Path(init_from)), verified=False).network


def _data(facts: _Facts) -> list[str]:
    import yaml

    root = yaml.safe_dump(str(facts.root)).removesuffix("\n...\n").strip()
    lines = [f"  root: {root}"]
    if not facts.has_val:
        lines.append(
            f"  val_fraction: {_VAL_FRACTION:<13} # there is no validation split: a fifth of each class, by a hash of the image"
        )
    lines += [
        "  augment:",
        "    crop_area: [0.35, 1.0]    # the default of 0.05 is for a million photographs",
        "    horizontal_flip: 0.5      # 0 where left and right differ, as in text and digits",
        "    brightness: 0.1",
        "    contrast: 0.2",
        f"    saturation: {'0.0           # the photographs are gray' if facts.is_gray else 0.3}",
    ]
    return lines


def _training(on_gpu: bool, batch: int, epochs: int, steps: float, *, fine_tunes: bool) -> list[str]:
    decay = max(0.9, min(0.9999, 1.0 - 10.0 / steps))
    rate = 0.1 if not fine_tunes else 0.02
    return [
        "optim:",
        "  name: sgd",
        "  nesterov: true",
        "  weight_decay: 0.0005",
        *(["  lr_decay_by_block: 0.8      # what is pretrained moves less the earlier it is"] if fine_tunes else []),
        "",
        "schedule:",
        "  name: cosine",
        f"  base_lr: {rate * batch / 256:<18.4g} # {rate:g} for 256 images a step, and in proportion",
        f"  warmup_epochs: {max(1, epochs // 20)}",
        "",
        "train:",
        f"  epochs: {epochs}",
        f"  global_batch_size: {batch}",
        f"  micro_batch_size: {min(batch, 64)}",
        f"  ema_decay: {decay:<16.4g} # the average covers a tenth of the {steps:,.0f} steps",
        f"  log_every_steps: {10 if steps < 2000 else 50}",
    ]


def _refuse_own_mistakes(text: str) -> None:
    """A suggestion that is no recipe is a mistake here: say so before anybody saves it."""
    import yaml

    from inceptionctl.recipe.load import recipe_from_dict

    recipe_from_dict(yaml.safe_load(text), "the suggested recipe")
