"""Names of published weights, and the folder that each lies in once it is fetched: weights/hub.py does that. No heavy imports."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from inceptionctl.errors import RecipeError

_REPOSITORY = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COLLAPSED = re.compile(r"^(hf:|https?:)/(?!/)")  # what a Path makes of two slashes
_UNSAFE = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Published:
    """Weights that somebody has published. Either a repository of the Hugging Face Hub, or a URL with its hash."""

    text: str
    """As the recipe names them."""
    repository: str | None = None
    """ORG/NAME."""
    revision: str | None = None
    """Branch, tag or commit; None is the main branch."""
    url: str | None = None
    sha256: str | None = None
    form: str = "timm"
    """Whose names the tensors of a URL have: timm or torchvision."""

    def folder(self, model: str) -> Path:
        """Where these weights lie as a checkpoint of the network `model`, once they are fetched."""
        name = self.repository or Path(urlsplit(self.url or "").path).stem
        version = self.sha256[:12] if self.sha256 else self.revision
        return _home() / "--".join(_UNSAFE.sub("-", part) for part in (name, version, model) if part)


def parse(text: str) -> Published | None:
    """`timm/NAME`, `hf://ORG/NAME`, either with @REVISION, or an https URL with #sha256=; None for anything else, which is a path.

    Raises RecipeError for a name that begins like one of these and is none.
    """
    text = _COLLAPSED.sub(r"\1//", text)
    if text.startswith(("https://", "http://")):
        return _of_url(text)
    if not text.startswith(("hf://", "timm/")) or Path(text).exists():
        return None
    found = _REPOSITORY.fullmatch(text.removeprefix("hf://"))
    if found is None:
        raise RecipeError(f"'{text}' names no repository", "write timm/inception_v4.tf_in1k or hf://ORG/NAME, or add @REVISION")
    return Published(text, found["repository"], found["revision"])


def _of_url(text: str) -> Published:
    parts = urlsplit(text)
    told = {key: values[-1] for key, values in parse_qs(parts.fragment).items()}
    sha256, form = told.get("sha256", "").lower(), told.get("form", "timm")
    if not _SHA256.fullmatch(sha256):
        raise RecipeError(f"'{text}' has no sha256 of 64 digits", f"add it: {parts._replace(fragment='').geturl()}#sha256=...")
    if form not in ("timm", "torchvision"):
        raise RecipeError(f"'{text}': form={form} is no form", "write form=timm or form=torchvision")
    return Published(text, url=parts._replace(fragment="").geturl(), sha256=sha256, form=form)


def path_of(text: str, model: str) -> Path | None:
    """Where weights of this name lie for the network `model`, or are to lie; None for a path."""
    published = parse(text)
    return published.folder(model) if published else None


def _home() -> Path:
    """Beside the Hub's own cache, so that HF_HOME moves both to a disk with room that all nodes see."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111  (Path.expanduser raises)
    return Path(os.environ.get("HF_HOME") or Path(cache, "huggingface")).expanduser() / "inceptionctl"
