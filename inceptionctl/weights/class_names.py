"""Names of the classes of an imported network: from a file, ImageNet's, or numbers."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from inceptionctl.errors import RecipeError


def imagenet_wnids() -> list[str]:
    """The 1,000 synsets of ILSVRC 2012 in sorted order: the classes of torchvision, timm and (after a background) TF-slim."""
    return files("inceptionctl.data.sources").joinpath("imagenet_wnids.txt").read_text(encoding="ascii").split()


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
