"""`inceptionctl report`: one HTML page of several runs, with nothing outside of it, and its pictures as files."""

from __future__ import annotations

import base64
import datetime
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from inceptionctl import __version__
from inceptionctl.errors import DataError, InceptionctlError
from inceptionctl.evaluate.drawing import crops_png
from inceptionctl.evaluate.preparation import preparation_of
from inceptionctl.evaluate.protocols import make_protocol
from inceptionctl.evaluate.records import Record, read_record
from inceptionctl.report.paper import RECIPES, TABLES, PaperRow, PaperTable, ensemble_key, evaluation, standard_error
from inceptionctl.report.pictures import Picture, error_curves, reliability, train_curves
from inceptionctl.run import Run, disk_errors, open_run, write_atomically
from inceptionctl.run_contents import RunContents, by_subset, read_run

MOST_PAIRS, PICTURES_A_PAIR, THUMBNAIL_PX = 8, 3, 96
IMAGENET_CLASSES = 1000


@dataclass
class Reported:
    """One run with its evaluations, the newest last."""

    name: str
    contents: RunContents
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    record: Record | None = None
    """Probabilities of the evaluation that is shown, where they are kept."""

    @property
    def shown(self) -> dict[str, Any] | None:
        """The newest evaluation of the best checkpoint, which `evaluate` and `export` take too, else the newest of all."""
        best = {row["step"] for row in self.contents.checkpoints if "best" in row["pointers"]}
        of_best = [one for one in self.evaluations if one["step"] in best]
        shown = of_best or self.evaluations
        return shown[-1] if shown else None

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.contents.recipe.model.name if self.contents.recipe else "?"


def write_report(runs: Sequence[Path], ensembles: Sequence[Path], folder: Path) -> Path:
    """Write folder/index.html and folder/*.png; the page's path. Raises CheckpointError for a path that is no run, DataError for a file
    that is no ensemble's result, EnvironmentFault when the disk refuses."""
    reported = [_reported(open_run(path), path.name) for path in runs]
    pictures = list(_pictures(reported))
    # Before anything is written: a file that is no ensemble's leaves nothing behind.
    text = _render(reported, [_ensemble(file) for file in ensembles], pictures)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png["light"])
    page = folder / "index.html"
    write_atomically(page, text)
    return page


def _reported(run: Run, name: str) -> Reported:
    found = []
    for file in sorted(run.evaluations.glob("*.json")):
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            found.append({**result, "file": file, "num_classes": len(result["classes"]), "error": result["top1_error"]})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not one of ours, or one of another version; the page says how many it shows
    found.sort(key=lambda one: (one["step"], one["file"].stat().st_mtime))
    reported = Reported(name, read_run(run), found)
    reported.record = _record(reported.shown) if reported.shown else None
    return reported


def _ensemble(file: Path) -> dict[str, Any]:
    try:
        result: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        key = ensemble_key(str(member["network"]) for member in result["members"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is no result of an ensemble: {error}", "`inceptionctl ensemble ... --output FILE` writes one"
        ) from None
    return {**result, "network": key, "name": file.stem, "num_classes": len(result["classes"])}


def _pictures(reported: Sequence[Reported]) -> Iterator[Picture]:
    for picture in (
        error_curves(
            {
                one.name if subset == "all" else f"{one.name}, {subset}": rows
                for one in reported
                for subset, rows in by_subset(one.contents.evaluate_rows).items()
            }
        ),
        train_curves({one.name: one.contents.train_rows for one in reported}),
    ):
        if picture:
            yield picture
    for one in reported:
        if one.shown and (picture := reliability(one.name, one.shown)):
            yield picture


def _render(reported: Sequence[Reported], ensembles: Sequence[dict[str, Any]], pictures: Sequence[Picture]) -> str:
    from jinja2 import Environment, PackageLoader

    templates = Environment(
        loader=PackageLoader("inceptionctl", "report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["data_uri"] = lambda png: f"data:image/png;base64,{base64.b64encode(png).decode()}"
    templates.filters["number"] = lambda value, digits=2: "" if value is None else f"{value:,.{digits}f}"
    templates.globals |= {"standard_error": standard_error, "evaluation": evaluation, "recipes": RECIPES}
    return templates.get_template("page.html.j2").render(
        runs=reported,
        ensembles=ensembles,
        pictures=pictures,
        tables=[(table, [_beside(table, row, reported, ensembles) for row in table.rows]) for table in TABLES],
        comparable=any(_comparable(one) for each in reported for one in each.evaluations),
        calibrated=any(picture.name.startswith("reliability") for picture in pictures),
        crops=[(one.name, picture) for one in reported if (picture := _crops(one))],
        confused=[(one.name, pairs) for one in reported if (pairs := _confused(one))],
        differences=_differences(reported),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _comparable(result: dict[str, Any]) -> bool:
    return bool(result["num_classes"] == IMAGENET_CLASSES)


def _beside(
    table: PaperTable, row: PaperRow, reported: Sequence[Reported], ensembles: Sequence[dict[str, Any]]
) -> tuple[PaperRow, list[dict[str, Any]]]:
    """A row of the paper with what was measured here for it: on ImageNet's classes, by its protocol and on its subset."""
    measured = [{**result, "name": one.name, "network": one.network} for one in reported for result in one.evaluations]
    wanted = (row.protocol or table.protocol, table.subset)
    own = [
        one
        for one in (*measured, *ensembles)
        if one["network"] in row.networks and (one["protocol"], one.get("subset", "all")) == wanted and _comparable(one)
    ]
    return row, own


def _crops(one: Reported) -> dict[str, Any] | None:
    """The shown evaluation's crops on its first image that can be opened."""
    result = one.shown
    if result is None or one.contents.recipe is None:
        return None
    preparation = preparation_of(one.contents.recipe)
    name = result["protocol"]
    protocol = None if name == "single" else make_protocol(name, preparation.input_px, result["scales"])
    for image in one.record.images[:3] if one.record else ():
        try:
            drawn = crops_png(Path(result["data_root"]) / image, protocol, preparation)
        except InceptionctlError:
            continue
        return {"png": drawn, "alt": f"The crops of protocol {name} drawn on {image}."}
    return None


def _record(result: dict[str, Any]) -> Record | None:
    try:
        return read_record(result["file"].with_suffix(".parquet"))
    except DataError:
        return None


def _confused(one: Reported) -> list[dict[str, Any]]:
    """The pairs of classes that the shown evaluation confused most, with the images it was surest of."""
    record = one.record
    if record is None:
        return []
    classes, root = record.about["classes"], Path(record.about["data_root"])
    confidence, predicted = (values.numpy() for values in record.probabilities.max(1))
    labels = record.labels.numpy()
    wrong = np.flatnonzero(predicted != labels)
    counts = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    pairs = []
    for (true, taken), count in counts.most_common(MOST_PAIRS):
        places = wrong[(labels[wrong] == true) & (predicted[wrong] == taken)]
        surest = places[np.argsort(-confidence[places], kind="stable")][:PICTURES_A_PAIR]
        pairs.append(
            {
                "true": classes[true],
                "taken": classes[taken],
                "count": count,
                "of": int((labels == true).sum()),
                "images": [
                    {"png": _thumbnail(root / record.images[i]), "name": record.images[i], "confidence": float(confidence[i])}
                    for i in surest.tolist()
                ],
            }
        )
    return pairs


def _thumbnail(path: Path) -> bytes | None:
    """A small copy; None when the image is not there any more, or lies in a shard."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
            image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    picture = io.BytesIO()
    image.save(picture, format="png")
    return picture.getvalue()


def _differences(reported: Sequence[Reported]) -> list[tuple[str, list[str]]]:
    """Keys of the recipes whose values differ between the runs, with each run's."""
    recipes = [_flat(one.contents.recipe.resolved()) if one.contents.recipe else {} for one in reported]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = [(key, [json.dumps(recipe.get(key)) for recipe in recipes]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat
