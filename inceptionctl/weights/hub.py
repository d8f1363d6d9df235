"""Published weights, fetched once and kept as a checkpoint of ours: from the Hugging Face Hub by its own client, or from a URL.

The client's HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE hold here too. Several processes of a node fetch once: one works, the
others wait for it. Nothing half done is kept where a training would find it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import tempfile
import urllib.error
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inceptionctl.errors import CheckpointError, EnvironmentFault
from inceptionctl.published import Published
from inceptionctl.storage import disk_errors, sha256_of, temporary_folder
from inceptionctl.weights.conversion import prepare, write
from inceptionctl.weights.counterparts import COUNTERPARTS

WEIGHTS, CONFIG = "model.safetensors", "config.json"
OURS = "checkpoint_sha256"  # a key of our exports' config.json, and of nobody else's


def fetch(published: Published, model: str | None, say: Callable[[str], None]) -> Path:
    """The folder with these weights as a checkpoint of `model`, or an export of ours as it is; fetched and converted unless it is there.

    Without `model` the network is the one whose function the weights are of. Raises CheckpointError for weights that do not exist, are
    damaged, or fit no network of ours; EnvironmentFault where nothing can be reached or written.
    """
    if model and published.folder(model).is_dir():
        return published.folder(model)
    if published.repository:
        return _from_hub(published, model, say)
    if model is None:
        raise CheckpointError(f"{published.text}: no file tells which network it is of", "add --model NAME")
    return _kept(published, model, lambda folder: _convert_file(published, model, folder, say))


def _kept(published: Published, model: str, make: Callable[[Path], None]) -> Path:
    from filelock import FileLock

    folder = published.folder(model)
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not folder.is_dir():
                make(folder)
    return folder


def _from_hub(published: Published, model: str | None, say: Callable[[str], None]) -> Path:
    from huggingface_hub import constants

    if not constants.HF_HUB_OFFLINE:
        say(f"looking up {published.text} on {constants.ENDPOINT}")
    config_file = _download(published, CONFIG)
    config = _read(config_file)
    network = model or _network(published, config)

    def make(folder: Path) -> None:
        say(f"fetching {published.text}")
        weights = _download(published, WEIGHTS)
        if OURS in config:
            with temporary_folder(folder) as made:
                for file in (weights, config_file):
                    shutil.copyfile(file, made / file.name)
        else:
            expects, names = _expectations(config)
            write(prepare(weights, network, form="timm", class_names=names, expects=expects), folder)
        say(f"kept in {folder}")

    return _kept(published, network, make)


def _network(published: Published, config: Mapping[str, Any]) -> str:
    """Ours with the function of the weights."""
    theirs = str(config.get("architecture"))
    if OURS in config:
        return theirs
    fitting = [ours for ours, other in COUNTERPARTS["timm"].items() if other.name == theirs and other.same_function]
    if not fitting:
        known = ", ".join(sorted({other.name for other in COUNTERPARTS["timm"].values()}))
        raise CheckpointError(f"{published.text} is of {theirs}, which is none of ours", f"weights can be taken from {known}")
    return fitting[0]


def _expectations(config: Mapping[str, Any]) -> tuple[dict[str, Any], list[str] | None]:
    """(values by the recipe's keys that timm's configuration tells, names of the classes)."""
    images = config.get("pretrained_cfg") or {}
    found: dict[str, Any] = {}
    if "crop_pct" in images:
        found["evaluate.central_fraction"] = float(images["crop_pct"])
    if images.get("interpolation") in ("bilinear", "bicubic", "nearest", "lanczos"):
        found["evaluate.interpolation"] = images["interpolation"]
    if "crop_mode" in images:
        found["evaluate.keep_aspect"] = images["crop_mode"] != "squash"
    if "input_size" in images:
        found["model.input_px"] = int(images["input_size"][-1])
    for key in ("mean", "std"):
        if key in images:
            found[f"data.{key}"] = [float(value) for value in images[key]]
    names = config.get("label_names") or images.get("label_names")
    return found, [str(name) for name in names] if isinstance(names, list) else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"cannot read {file}: {error}", "name a repository with weights of timm or an export of ours"
        ) from None


def _download(published: Published, name: str) -> Path:
    """A file of a repository in the Hub's cache, whole."""
    from huggingface_hub import hf_hub_download

    repository = str(published.repository)
    with _worded(published, name), _retrying_quietly():
        path = Path(hf_hub_download(repository, name, revision=published.revision))
    blob = path.resolve()
    # Large files are named by their sha256 in the cache; the client compares sizes alone.
    if re.fullmatch(r"[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
        blob.unlink()
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{name} of {published.text} is damaged: its sha256 is another one", "it was removed; fetch it again"
        )
    return path


@contextmanager
def _retrying_quietly() -> Iterator[None]:
    """Without two lines of the client for each retry: a lasting fault is worded once, at the end. HF_HUB_VERBOSITY=info or debug keeps them."""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR if level >= logging.WARNING else level)
    try:
        yield
    finally:
        log.setLevel(level)


@contextmanager
def _worded(published: Published, name: str) -> Iterator[None]:
    """The client's errors in words."""
    from huggingface_hub import constants, errors

    where = constants.ENDPOINT
    try:
        yield
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{published.text} is gated", f"accept its terms on {where}/{published.repository}, and set HF_TOKEN"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"there is no {published.repository} on {where}, or it is private", "check the name; set HF_TOKEN for a private one"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{published.repository} has no revision {published.revision}", f"see {where}/{published.repository}"
        ) from None
    except errors.LocalEntryNotFoundError as error:
        if constants.HF_HUB_OFFLINE:
            why = "is not in the cache, and HF_HUB_OFFLINE is set"
        else:
            why = f"is not in the cache, and {where} cannot be reached: {error.__cause__ or error}"
        raise EnvironmentFault(f"{name} of {published.text} {why}", _BEFOREHAND.format(published.text)) from None
    except errors.EntryNotFoundError:
        raise CheckpointError(
            f"{published.text} has no {name}", "name a repository with weights of timm or an export of ours"
        ) from None
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # of whichever httpx it uses
        if isinstance(error, OSError) and error.errno is not None:
            raise
        why = str(error).partition("\n")[0]
        raise EnvironmentFault(f"cannot fetch {name} of {published.text}: {why}", _BEFOREHAND.format(published.text)) from None


_BEFOREHAND = "run `inceptionctl weights fetch {}` where there is a network, with the HF_HOME that the nodes see; HF_ENDPOINT names a mirror"


def _convert_file(published: Published, model: str, folder: Path, say: Callable[[str], None]) -> None:
    """Fetch a URL beside the folder, compare its hash, convert it, and drop it."""
    import torch

    url, sha256 = str(published.url), str(published.sha256)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        file = Path(temporary, Path(url).name)
        say(f"fetching {url}")
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=sha256, progress=False)
        except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
            raise EnvironmentFault(
                f"cannot fetch {url}: {error}", _BEFOREHAND.format(f"'{published.text}' --model {model}")
            ) from None
        except RuntimeError as error:
            raise CheckpointError(f"{url} is not the file with this sha256: {error}", "check both; nothing was kept") from None
        write(prepare(file, model, form="torchvision" if published.form == "torchvision" else "timm"), folder)
    say(f"kept in {folder}")
