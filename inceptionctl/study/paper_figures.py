"""Validation error by epoch in the layout of the paper's Figures 21 to 26, of whatever a study has trained so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from inceptionctl.recipe.study_recipe import Study
from inceptionctl.report.pictures import ReportPicture, Rows, seed_curves
from inceptionctl.study.cells import Cell
from inceptionctl.study.measures import validations

ERRORS = (("top1", "top1_error", "Error (Top-1) %"), ("top5", "top5_error", "Error (Top-5) %"))

MIN_POINTS = 2
"""Validations that make a curve."""


def paper_figures(study: Study, cells: Sequence[Cell]) -> Iterator[ReportPicture]:
    """`paper_top1_1` and so on, one of each pair of arms, and `paper_top1_all` of all arms in pairs; of a grid, at each point.

    Top-5 errors likewise, with more than five classes. Without pairs all arms and points are in one picture.
    """
    found: dict[str, list[Rows]] = {}
    for cell in cells:
        found.setdefault(cell.condition, []).append(validations(cell.contents))
    shown = ERRORS if any(cell.contents.has_top5 for cell in cells) else ERRORS[:1]
    for name, title, conditions in _charts(study):
        curves = {label: found.get(condition, []) for label, condition in conditions.items()}
        if all(len(rows) < MIN_POINTS for seeds in curves.values() for rows in seeds):
            continue  # validated at the end alone: the table says it
        for prefix, key, axis in shown:
            picture = seed_curves(f"paper_{prefix}_{name}", title, curves, key, axis, as_paper=True)
            if picture:
                yield picture


def _charts(study: Study) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    """Name, title, and conditions by their label in the legend."""
    pairs = study.section.pairs_of_arms
    if not pairs:
        yield "all", "all arms", {one.name: one.name for one in study.conditions}
        return
    groups = {f"{number}": pair for number, pair in enumerate(pairs, start=1)}
    if len(pairs) > 1:
        groups["all"] = list(dict.fromkeys(arm for pair in pairs for arm in pair))
    for point in dict.fromkeys(one.point for one in study.conditions):
        at = {one.arm: one.name for one in study.conditions if one.point == point}
        for name, arms in groups.items():
            words = "all pairs" if name == "all" else " against ".join(arms)
            suffix = (f",{point}", f", {point}") if point else ("", "")
            yield name + suffix[0], words + suffix[1], {arm: at[arm] for arm in arms}
