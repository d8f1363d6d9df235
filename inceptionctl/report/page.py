"""`inceptionctl report`: one self-contained HTML page for several runs, and its pictures as files."""

from __future__ import annotations

import datetime
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from inceptionctl import __version__
from inceptionctl.errors import DataError, InceptionctlError
from inceptionctl.evaluate.crop_boxes import crops_png
from inceptionctl.evaluate.metrics import confusion_matrix
from inceptionctl.evaluate.records import Record, read_record
from inceptionctl.evaluate.results import About, EnsembleResult, ResultWithReal
from inceptionctl.protocols import make_protocol
from inceptionctl.report.curves import training_loss_in_words
from inceptionctl.report.paper import RECIPES, TABLES, PaperRow, PaperTable, ensemble_key, evaluation, standard_error
from inceptionctl.report.pictures import MAX_HEAT_CLASSES, ReportPicture, confusion, error_curves, reliability, train_curves
from inceptionctl.report.templates import page_templates
from inceptionctl.run import Run, directories, open_run, visible
from inceptionctl.run_contents import Row, RunContents, by_subset, read_run
from inceptionctl.storage import disk_errors, write_atomically
from inceptionctl.train.inputs import preparation_of
from inceptionctl.words import has_top5

MAX_PAIRS, PICTURES_A_PAIR, THUMBNAIL_PX = 8, 3, 96
MAX_TABLE_CLASSES = 100
IMAGENET_CLASSES = 1000
SHOWN_OF_A_FILE = {"network", "protocol", "num_images", "top1_error", "top5_error", "loss"}


class Shown(ResultWithReal):
    """An evaluation of a run, with what the page needs besides."""

    file: Path
    num_classes: int
    error: float


class ShownEnsemble(EnsembleResult):
    """The same of an ensemble; `network` are those of its members."""

    network: str
    name: str
    num_classes: int


class ShownAlone(ResultWithReal):
    """The same of a network without a run, as of published weights."""

    name: str
    num_classes: int


ShownFile = ShownEnsemble | ShownAlone


@dataclass
class ReportedRun:
    """One run with its evaluations, the newest last."""

    name: str
    contents: RunContents
    evaluations: list[Shown] = field(default_factory=list)
    record: Record | None = None
    """Probabilities of the evaluation shown, if they are kept."""

    @property
    def shown(self) -> Shown | None:
        """The newest evaluation of the checkpoint of `evaluate.checkpoint`, the default of `evaluate` and `export`; else the newest of all."""
        wanted = self.contents.recipe.evaluate.checkpoint if self.contents.recipe else "best"
        steps = {row["step"] for row in self.contents.checkpoints if wanted in row["pointers"]}
        shown = [one for one in self.evaluations if one["step"] in steps] or self.evaluations
        return shown[-1] if shown else None

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.contents.recipe.model.name if self.contents.recipe else "?"

    @property
    def is_of_imagenet(self) -> bool:
        """Whether the network has ImageNet's number of classes."""
        told = {one["num_classes"] for one in self.evaluations}
        if not told and self.contents.recipe:
            told = {self.contents.recipe.model.num_classes}
        return IMAGENET_CLASSES in told


def write_report(runs: Sequence[Path], files: Sequence[Path], folder: Path) -> Path:
    """Write folder/index.html and folder/*.png; the page's path. Raises CheckpointError for a path that is no run, DataError for a file
    that is no result of `evaluate` or `ensemble`, EnvironmentFault when the disk refuses."""
    reported = [_reported(open_run(path), name) for path, name in named(runs).items()]
    pictures = list(_pictures(reported))
    # Rendered before anything is written: an invalid file leaves nothing behind.
    text = _render(reported, [_result(file) for file in files], pictures)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png["light"])
    page = folder / "index.html"
    write_atomically(page, text)
    return page


def named(runs: Sequence[Path]) -> dict[Path, str]:
    """A unique name for each run, by path; a run given twice counts once."""
    paths = list({path.resolve(): path for path in runs}.values())
    names = Counter(path.resolve().name for path in paths)
    found: dict[Path, str] = {}
    for number, path in enumerate(paths, start=1):
        name = path.resolve().name
        found[path] = name if names[name] == 1 else f"{number}-{name}"
    return found


def _reported(run: Run, name: str) -> ReportedRun:
    found = list[Shown]()
    for file in sorted(path for path in visible(run.evaluations) if path.suffix == ".json"):
        try:
            result: ResultWithReal = json.loads(file.read_text(encoding="utf-8"))
            found.append({**result, "file": file, "num_classes": len(result["classes"]), "error": result["top1_error"]})
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not ours, or of another version; the page says how many it shows
    found.sort(key=lambda one: (one["step"], one["file"].stat().st_mtime))
    reported = ReportedRun(name, read_run(run), found)
    reported.record = _record(reported.shown) if reported.shown else None
    return reported


def _result(file: Path) -> ShownFile:
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        shown = {**result, "name": file.stem, "num_classes": len(result["classes"])}
        if "members" in result:
            shown["network"] = ensemble_key(str(member["network"]) for member in result["members"])
        if missing := SHOWN_OF_A_FILE - shown.keys():
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{file} is not a result of an evaluation: {error}",
            "`inceptionctl evaluate` and `ensemble` write one with --output FILE",
        ) from None
    return cast(ShownFile, shown)


def _pictures(reported: Sequence[ReportedRun]) -> Iterator[ReportPicture]:
    for picture in (
        error_curves(
            {
                one.name if subset == "all" else f"{one.name}, {subset}": rows
                for one in reported
                for subset, rows in by_subset(one.contents.evaluate_rows).items()
            },
            with_top5=any(one.contents.has_top5 for one in reported),
        ),
        train_curves(
            {one.name: one.contents.train_rows for one in reported},
            {one.name: training_loss_in_words(one.contents) for one in reported},
        ),
    ):
        if picture:
            yield picture
    for one in reported:
        if one.shown and (picture := reliability(one.name, one.shown)):
            yield picture
    for one in reported:
        if one.record and len(one.record.about["classes"]) <= MAX_HEAT_CLASSES:
            yield confusion(one.name, _matrix(one.record), one.record.about["classes"])


def _render(reported: Sequence[ReportedRun], files: Sequence[ShownFile], pictures: Sequence[ReportPicture]) -> str:
    templates = page_templates("inceptionctl.report", unknown="")
    templates.globals |= {"standard_error": standard_error, "evaluation": evaluation, "recipes": RECIPES, "has_top5": has_top5}
    crops, confused = [_crops(one) for one in reported], [_confused(one) for one in reported]
    return templates.get_template("page.html.j2").render(
        runs=reported,
        files=files,
        pictures=pictures,
        tables=_tables(reported, files),
        with_top5=any(
            has_top5(one["num_classes"]) for one in (*(one for each in reported for one in each.evaluations), *files)
        ),
        kinds={picture.name.partition("-")[0] for picture in pictures},
        crops=[one for one in crops if one],
        confused=[one for one in confused if one],
        classwise=[found for one in reported if (found := _classwise(one))],
        differences=_differences(reported),
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _comparable(result: Mapping[str, Any]) -> bool:
    return bool(result["num_classes"] == IMAGENET_CLASSES)


def _tables(
    reported: Sequence[ReportedRun], files: Sequence[ShownFile]
) -> list[tuple[PaperTable, list[tuple[PaperRow, list[Row]]]]]:
    """The paper's tables with the results measured here; empty if no result is on ImageNet, since others do not compare."""
    if not (any(one.is_of_imagenet for one in reported) or any(map(_comparable, files))):
        return []
    return [(table, [_beside(table, row, reported, files) for row in table.rows]) for table in TABLES]


def _beside(
    table: PaperTable, row: PaperRow, reported: Sequence[ReportedRun], files: Sequence[ShownFile]
) -> tuple[PaperRow, list[Row]]:
    """A row of the paper with the results measured for it: on ImageNet, by its protocol and on its subset."""
    measured: list[Row] = [
        {**result, "name": one.name, "network": one.network} for one in reported for result in one.evaluations
    ]
    wanted = (row.protocol or table.protocol, table.subset)
    own = [
        one
        for one in (*measured, *map(dict, files))
        if one["network"] in row.networks and (one["protocol"], one.get("subset", "all")) == wanted and _comparable(one)
    ]
    return row, own


def _crops(one: ReportedRun) -> Row | None:
    """The shown evaluation's crops on its first readable image, or why there is none."""
    result = one.shown
    if result is None or one.contents.recipe is None or one.record is None:
        return None
    root = _data_root(one, one.record.about)
    preparation = preparation_of(one.contents.recipe)
    name = result["protocol"]
    protocol = make_protocol(name, preparation.input_px, result["scales"])
    why = ""
    for image in one.record.images[:3]:
        try:
            drawn = crops_png(root / image, protocol, preparation)
        except InceptionctlError:
            why = why or _why_not_shown(root, image)
            continue
        return {"name": one.name, "png": drawn, "alt": f"The crops of protocol {name} drawn on {image}."}
    return {"name": one.name, "png": None, "why": why}


def _data_root(one: ReportedRun, about: About) -> Path:
    """Where an evaluation's images are: the path as given, made absolute then, or relative to where the run was started."""
    told = about["data_root"]
    places: list[str | Path] = [told, about.get("data_root_absolute", told)]
    places += [place / told for place in directories(one.contents.run)]
    return next((place for place in map(Path, places) if place.exists()), Path(places[1]))


def _record(result: Shown) -> Record | None:
    try:
        return read_record(result["file"].with_suffix(".parquet"))
    except DataError:
        return None


def _matrix(record: Record) -> NDArray[np.int64]:
    predicted = record.probabilities.argmax(1)
    return confusion_matrix(predicted, record.labels, record.probabilities.shape[1]).numpy()


def _confused(one: ReportedRun) -> Row | None:
    """The most confused pairs of classes of the shown evaluation, with its most confident images, and why some are not shown."""
    record = one.record
    if record is None:
        return None
    classes, root = record.about["classes"], _data_root(one, record.about)
    confidence, predicted = (values.numpy() for values in record.probabilities.max(1))
    labels = record.labels.numpy()
    wrong = np.flatnonzero(predicted != labels)
    counts = Counter(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))
    pairs = []
    for (true, taken), count in counts.most_common(MAX_PAIRS):
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
    hidden = [image["name"] for pair in pairs for image in pair["images"] if image["png"] is None]
    return {
        "name": one.name,
        "protocol": record.about["protocol"],
        "pairs": pairs,
        "why": _why_not_shown(root, hidden[0]) if hidden else "",
    }


def _classwise(one: ReportedRun) -> Row | None:
    """The figures of the shown evaluation's classes, of many those with the lowest F1; None for results of versions without them."""
    result = one.shown
    if result is None or "macro_average" not in result:
        return None
    each = list(result["per_class"].items())
    if len(each) > MAX_TABLE_CLASSES:
        known = [(name, figures) for name, figures in each if figures["f1"] is not None]
        each = sorted(known, key=lambda pair: pair[1]["f1"] or 0.0)[:MAX_TABLE_CLASSES]
    return {
        "name": one.name,
        "protocol": result["protocol"],
        "classes": each,
        "num_classes": result["num_classes"],
        "macro": result["macro_average"],
        "thresholds": result["thresholds"],
    }


def _thumbnail(path: Path) -> bytes | None:
    """A thumbnail; None if the image cannot be shown (see `_why_not_shown`)."""
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


def _why_not_shown(root: Path, image: str) -> str:
    path = root / image
    if not root.is_absolute() and not root.exists():
        return f"the data root {root} is relative, and not below this folder ({Path.cwd()}); give the command where `evaluate` was given"
    if not root.exists():
        return f"the data root {root} is not on this machine, or not mounted"
    if any(parent.is_file() for parent in path.parents):
        return f"the images of {root} lie in shards, and a report shows those of folders"
    return f"{path} is gone since the evaluation" if not path.exists() else f"{path} cannot be read here"


def _differences(reported: Sequence[ReportedRun]) -> list[tuple[str, list[str]]]:
    """Keys of the recipes whose values differ between the runs, with each run's."""
    recipes = [_flat(one.contents.recipe.resolved()) if one.contents.recipe else {} for one in reported]
    keys = dict.fromkeys(key for recipe in recipes for key in recipe)
    rows = [(key, [json.dumps(recipe.get(key)) for recipe in recipes]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def _flat(values: Row, before: str = "") -> Row:
    flat: Row = {}
    for key, value in values.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, dict) else {f"{before}{key}": value}
    return flat
