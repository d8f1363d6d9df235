"""What the commands of `inceptionctl bench` share: where results go, and how they are shown."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from inceptionctl import console
from inceptionctl.cli import ranks
from inceptionctl.errors import EnvironmentFault, RecipeError
from inceptionctl.words import counted

if TYPE_CHECKING:
    from inceptionctl.bench.machine import Facts
    from inceptionctl.bench.measuring import Figure
    from inceptionctl.bench.profile import StepProfile
    from inceptionctl.bench.timm_step import TimmFacts
    from inceptionctl.bench.waits import Waits

Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Write the result as JSON into this file.")]
Gpus = Annotated[
    int | None, typer.Option(min=1, help="Ranks on so many GPUs of this machine; 1 by default where there are any.")
]
CpuRanks = Annotated[int | None, typer.Option(min=1, help="So many ranks on the CPU.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds.")]

MOST_OPERATORS = 10

_WORDS = {
    "read": "read",
    "decode": "+ decode the crop",
    "resize": "+ crop and resize",
    "colour": "+ flip, colour, normalise",
    "all": "all, with order and draws",
    "Pillow loader": "torch DataLoader with Pillow",
    "libjpeg-turbo": "libjpeg-turbo alone, whole images",
}


def start_ranks(gpus: int | None, cpu_ranks: int | None) -> None:
    """This very command once a rank, as `train` starts its ranks; one where nobody says how many."""
    from inceptionctl.distributed.local import visible_gpus

    ranks.launch_ranks(1 if gpus is None and cpu_ranks is None and visible_gpus() else gpus, cpu_ranks)


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[str, int, int], None]]:
    """A bar, and what moves it: (name, done, total)."""
    with console.progress_bar() as bar:
        task = bar.add_task(what, total=None)
        yield lambda name, done, total: bar.update(task, description=name, completed=done, total=total)


def refuse_unwritable(output: Path | None) -> None:
    """Before minutes are spent on what could not be written."""
    if output and (output.is_dir() or not output.absolute().parent.is_dir()):
        raise EnvironmentFault(f"cannot write {output}", "name a file in a folder that exists")


def refuse_as_trace(file: Path | None) -> None:
    """Before minutes are spent too: a name that says nothing of a Chrome trace, or where it cannot be written."""
    refuse_unwritable(file)
    if file and not file.name.endswith((".json", ".json.gz")):
        raise RecipeError(f"--profile {file}: a trace is JSON", f"name it {file.stem}.json or {file.stem}.json.gz")
    if file and not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise EnvironmentFault(f"cannot write {file}", "name a file in a folder that you may write to")


def tell_of_timm(theirs: TimmFacts) -> None:
    """What timm's step was, and what it does otherwise."""
    console.say(f"timm {theirs['version']}: train.py {theirs['flags']}")
    for difference in theirs["differences"]:
        console.say(f"- {difference}")


def tell_of_waits(found: Waits) -> None:
    """How often the host waited for the GPU, and where."""
    console.say(f"the host waited for the GPU {found['per_step']:.3g} times a step, in {counted(found['steps'], 'step')}")
    for place, count in found["places"].items():
        console.say(f"- {count:.3g} at {place}")


def tell_of_profile(found: StepProfile) -> None:
    """Where a step goes, by group and by operator, on stdout."""
    what = "device time" if found.on_device else "time of the loop's thread"
    for title, costs, last in (
        ("where a step goes", found.groups, "mostly"),
        (
            f"the {MOST_OPERATORS} dearest operators, without those that they call",
            found.operators[:MOST_OPERATORS],
            "",
        ),
    ):
        rows = [
            (cost.name, f"{1e3 * cost.seconds:.2f}", f"{cost.share:.1f}", f"{cost.calls:.0f}", cost.operator) for cost in costs
        ]
        columns = ("what", "ms/step", "%", "calls/step", *((last,) if last else ()))
        console.print_table(title, columns, [row[: len(columns)] for row in rows], right=columns[1:4], whole=columns[1:4])
    console.say(
        f"{what} of {counted(found.steps, 'step')} under torch.profiler, which slows them: {1e3 * found.seconds:.1f} ms a step"
    )


def tell(result: dict[str, Any], figures: Sequence[Figure], output: Path | None, as_json: bool) -> None:
    """Write, then print what was measured."""
    from inceptionctl.bench.machine import in_words

    complete = {**result, "figures": [figure.to_json() for figure in figures]}
    if output:
        output.write_text(json.dumps(complete, indent=2) + "\n", encoding="utf-8")
    if as_json:
        console.print_json(complete)
        return
    _print_figures(f"bench {result['bench']}", figures)
    for name, reason in result.get("left_out", {}).items():
        console.say(f"{name} is left out: {reason}")
    console.say(in_words(cast("Facts", result)))


def _print_figures(title: str, figures: Iterable[Figure]) -> None:
    from inceptionctl.bench.measuring import shown

    rows = [
        (_WORDS.get(figure.name, figure.name), figure.unit, shown(figure.median), figure.spread(), len(figure.values))
        for figure in figures
    ]
    console.print_table(title, ("what", "unit", "median", "lowest to highest", "n"), rows, right=("median", "n"))
