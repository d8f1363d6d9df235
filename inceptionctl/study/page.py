"""The page of a study: one self-contained HTML file, and its pictures as files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from inceptionctl.recipe.study_recipe import Study
from inceptionctl.report.pictures import ReportPicture, seed_curves
from inceptionctl.report.templates import page_templates
from inceptionctl.storage import write_atomically
from inceptionctl.study.cells import Cell
from inceptionctl.study.measures import ERRORS, MEASURES, SEEDS_FOR_INTERVAL
from inceptionctl.study.paper_figures import paper_figures
from inceptionctl.study.result import StudyResult


def write_page(result: StudyResult, study: Study, cells: Sequence[Cell], folder: Path) -> Path:
    """Write folder/study.json, index.html and the pictures; the page's path. Raises EnvironmentFault when the disk refuses."""
    pictures = [*paper_figures(study, cells), *_training_curves(study, cells)]
    write_atomically(folder / "study.json", json.dumps(result, indent=2) + "\n")
    for picture in pictures:
        write_atomically(folder / f"{picture.name}.png", picture.png["light"])
    page = folder / "index.html"
    write_atomically(page, _render(result, pictures))
    return page


def _training_curves(study: Study, cells: Sequence[Cell]) -> Iterator[ReportPicture]:
    """Training loss and share of zeros by epoch: of each pair, without pairs of all together."""
    groups = study.section.pairs_of_arms or [list(dict.fromkeys(one.arm for one in study.conditions))]
    for number, arms in enumerate(groups, start=1):
        names = [one.name for arm in arms for one in study.conditions if one.arm == arm]  # in the pair's order, as its colours
        rows = {name: [cell.contents.train_rows for cell in cells if cell.condition == name] for name in names}
        title = " against ".join(arms) if study.section.pairs_of_arms else "all arms"
        for picture in (
            seed_curves(f"loss_{number}", title, rows, "loss", "training loss"),
            seed_curves(f"zeros_{number}", title, rows, "zero_share", "share of zeros before the pool"),
        ):
            if picture:
                yield picture


def _render(result: StudyResult, pictures: Sequence[ReportPicture]) -> str:
    templates = page_templates("inceptionctl.study", unknown="-")
    return templates.get_template("page.html.j2").render(
        result=result, pictures=pictures, measures=MEASURES, errors=ERRORS, seeds_for_interval=SEEDS_FOR_INTERVAL
    )
