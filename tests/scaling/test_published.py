"""The model beside scaling that others have measured: all of it lies between no overlap and full overlap, and near half."""

import re
from pathlib import Path

import pytest

from tests.scaling.published import PUBLISHED, Published

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "scaling.md"


@pytest.mark.parametrize("training", PUBLISHED, ids=lambda training: training.network)
def test_published_scaling_lies_within_the_model(training: Published) -> None:
    none, half, whole = (training.predicted(hidden) for hidden in (0.0, 0.5, 1.0))
    assert none < training.efficiency < whole
    assert half == pytest.approx(training.efficiency, abs=0.04)


def test_the_document_has_these_figures() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    written = re.findall(r"^\| ([\w-]+) \| (\d+) \| (\d+)% \| (\d+)% \| (\d+)% \| (\d+)% \|", text, re.M)
    expected = [
        (
            one.network,
            str(one.gpus),
            *(f"{100 * value:.0f}" for value in (one.efficiency, *map(one.predicted, (0.0, 0.5, 1.0)))),
        )
        for one in PUBLISHED
    ]
    assert written == expected
