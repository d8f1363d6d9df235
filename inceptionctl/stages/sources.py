"""Checks of the paths of a command, before torch is imported, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from inceptionctl.errors import CheckpointError, DataError

if TYPE_CHECKING:
    from inceptionctl.recipe.schema import Recipe


def local(source: Path, network: str | None = None) -> Path:
    """`source`, or where the published weights that it names are as a checkpoint of `network`, fetched unless they are there already.

    Of an export of ours it is the file, which is what evaluations and predictions take. Without `network` it is the one whose function the
    weights are of, which takes a request to the Hub.
    """
    from inceptionctl.published import parse

    published = None if source.exists() else parse(str(source))
    if published is None:
        return source
    if network and published.folder(network).is_dir():
        return published.folder(network)
    from inceptionctl import console
    from inceptionctl.weights.hub import fetch

    folder = fetch(published, network, console.say)
    return folder / "model.safetensors" if (folder / "config.json").is_file() else folder


def fetch_first_weights(recipe: Recipe) -> None:
    """Fetch what `model.init_from` names, where it is a name of published weights."""
    if recipe.model.init_from:
        local(Path(recipe.model.init_from), recipe.model.name)


def refuse_missing_network(source: Path, checkpoint: str | None = None) -> None:
    """Raise CheckpointError for a path at which there is no run with a checkpoint, no checkpoint and no file or folder of exports."""
    from inceptionctl.run import is_run
    from inceptionctl.train import checkpoint_files as files
    from inceptionctl.train.checkpoint_choice import choose_checkpoint

    if is_run(source):
        choose_checkpoint(source, checkpoint)
    if not source.exists() or is_run(source):
        files.find_checkpoint(source)
    elif checkpoint is None and source.is_dir() and not any(source.iterdir()):
        raise CheckpointError(f"{source} is an empty folder", "name a run, a checkpoint or an export")


def refuse_missing_files(**files: Path | None) -> None:
    """Raise DataError for an option, by its name with _, that names a file which is not there."""
    for option, file in files.items():
        if file is not None and not file.is_file():
            what = "is a folder" if file.is_dir() else "there is no such file"
            raise DataError(f"cannot read {file}: {what}", f"--{option.replace('_', '-')} names a file")


def refuse_missing_data(root: Path | None) -> None:
    """Raise DataError for a data set that is not there."""
    from inceptionctl.data.dataset import open_split

    if root is not None and not root.is_dir():
        open_split(root, "val")
