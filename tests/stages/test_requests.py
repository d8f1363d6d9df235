"""A stage's request says what its command's options say, each in its own field, with the same defaults."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from inceptionctl.cli import app
from inceptionctl.stages.bench_data import BenchDataRequest, BenchListsRequest, BenchPhotographsRequest
from inceptionctl.stages.bench_lr import BenchLrRequest
from inceptionctl.stages.bench_network import BenchCheckpointRequest, BenchEvaluateRequest
from inceptionctl.stages.bench_ranks import BenchAllreduceRequest, BenchStartRequest
from inceptionctl.stages.bench_steps import BenchStepRequest, BenchTrainRequest
from inceptionctl.stages.commands import command_words
from inceptionctl.stages.ensemble import EnsembleRequest
from inceptionctl.stages.evaluate import EvaluateRequest
from inceptionctl.stages.export import ExportRequest
from inceptionctl.stages.plan import PlanRequest
from inceptionctl.stages.predict import PredictRequest, SubmissionRequest, TableRequest
from inceptionctl.stages.report import ReportRequest
from inceptionctl.stages.submit import SubmitRequest
from inceptionctl.stages.train import TrainRequest

COMMAND = get_command(app)
# Command -> where it calls its stage, and the request with nothing but what must be given.
DOORS: dict[str, tuple[str, Any]] = {
    "slurm submit RECIPE --nodes 3 --time 1:00": ("cli.slurm.submit_jobs", SubmitRequest("RECIPE", 3, "1:00")),
    "ensemble a b": ("cli.ensemble.run_ensemble", EnsembleRequest([Path("a"), Path("b")])),
    "plan RECIPE": ("cli.plan.make_plan", PlanRequest("RECIPE")),
    "train RECIPE": ("stages.train.train", TrainRequest("RECIPE")),
    "evaluate run --protocol dense": ("stages.evaluate.check", EvaluateRequest(Path("run"), "dense")),
    "export run": ("stages.export.export", ExportRequest(Path("run"))),
    "predict run a.jpg": ("cli.predict.predict_classes", PredictRequest(Path("run"), (Path("a.jpg"),))),
    "predict run a.jpg --submission f --protocol dense": (
        "cli.predict.check",
        SubmissionRequest(Path("run"), (Path("a.jpg"),), Path("f"), protocol="dense"),
    ),
    "predict run a.jpg --output f.csv --protocol dense": (
        "cli.predict.check",
        TableRequest(Path("run"), (Path("a.jpg"),), Path("f.csv"), protocol="dense"),
    ),
    "report run": ("stages.report.report", ReportRequest((Path("run"),))),
    "bench data": ("stages.bench_data.data", BenchDataRequest()),
    "bench photographs a b": ("stages.bench_data.photographs", BenchPhotographsRequest(Path("a"), Path("b"))),
    "bench lists": ("stages.bench_data.lists", BenchListsRequest()),
    "bench checkpoint": ("stages.bench_network.checkpoint", BenchCheckpointRequest()),
    "bench evaluate": ("stages.bench_network.evaluate", BenchEvaluateRequest()),
    "bench lr r": ("stages.bench_lr.lr", BenchLrRequest("r")),
    "bench step": ("stages.bench_steps.step", BenchStepRequest()),
    "bench train": ("stages.bench_steps.train", BenchTrainRequest()),
    "bench start": ("stages.bench_ranks.start", BenchStartRequest()),
    "bench allreduce": ("stages.bench_ranks.allreduce", BenchAllreduceRequest()),
}
# Options that say how a stage is called, not what it does: they are no fields of the request.
BESIDE = {
    "train": {"dry_run", "no_data"},
    "evaluate": {"gpus", "cpu_ranks", "show_crops"},
    "predict": {"gpus", "cpu_ranks"},
}
# Words of options that are not read as they are, and what becomes of them.
READ: dict[str, tuple[str, Any]] = {
    "settings": ("a.b=7", ["a.b=7"]),
    "sbatch": ("--mem=0", ["--mem=0"]),
    "step": ("f.json", [Path("f.json")]),
    "weights": ("5,6", [5.0, 6.0]),
    "ways": ("timm,parts", ["timm", "parts"]),
    "size": ("7x9", [7, 9]),
    "batch_sizes": ("3,5", [3, 5]),
    "precision": ("bf16", "bf16"),
    "scales": ("342,384", [342, 384]),
    "subset": ("non-blacklisted", "non-blacklisted"),
    "formats": ("pt2", ["pt2"]),
    "precisions": ("int8", ["int8"]),
    "check": ("openvino", "openvino"),
}
OF_ONE: dict[tuple[str, str], tuple[str, Any]] = {
    ("plan", "gpus"): ("32,16", [16, 32]),
    ("ensemble", "protocol"): ("dense", "dense"),
    ("evaluate", "protocol"): ("10crop", "10crop"),
    ("evaluate", "weights"): ("raw", "raw"),
    ("export", "weights"): ("raw", "raw"),
    ("predict", "protocol"): ("10crop", "10crop"),
    ("bench evaluate", "protocol"): ("dense", ["dense"]),
    ("bench start", "ranks"): ("4,5", [4, 5]),
}


def verb_of(words: str) -> tuple[str, Any]:
    """Name and click command of a command line."""
    found: Any = COMMAND
    named = []
    for word in words.split():
        if not hasattr(found, "commands"):
            break
        named.append(word)
        found = found.commands[word]
    return " ".join(named), found


def requested(words: list[str], door: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a command hands to its stage."""
    handed: list[Any] = []

    def stage(request: Any, **_: Any) -> None:
        handed.append(request)
        raise typer.Exit

    monkeypatch.setattr(f"inceptionctl.{door}", stage)
    with pytest.raises(SystemExit) as ended:
        COMMAND(words)
    assert ended.value.code == 0
    return handed[0]


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value


@pytest.mark.parametrize("words", DOORS)
def test_each_option_has_its_field(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    door, least = DOORS[words]
    verb, command = verb_of(words)
    beside = {"as_json", "help", *BESIDE.get(verb, ())}
    if verb == "predict":  # what only another kind of prediction takes is refused
        kinds = (PredictRequest, TableRequest, SubmissionRequest)
        beside |= {field.name for kind in kinds for field in fields(kind)} - {field.name for field in fields(least)}
    parameters = [one for one in command.params if one.name not in beside and not getattr(one, "hidden", False)]
    assert [one.name for one in parameters] == [field.name for field in fields(least)]
    base = requested(words.split(), door, monkeypatch)
    assert {name: plain(value) for name, value in vars(base).items()} == {
        name: plain(value) for name, value in vars(least).items()
    }
    number = 20_000  # more images than the least of `bench lists`
    for one in parameters:
        if one.param_type_name == "argument":
            continue
        number += 1
        option = one.opts[0]
        text, value = OF_ONE.get((verb, one.name)) or READ.get(one.name) or (str(number), number)
        given = [option] if one.is_flag else [option, text]
        changed = requested([*words.split(), *given], door, monkeypatch)
        different = {name: now for name, now in vars(changed).items() if now != vars(base)[name]}
        assert set(different) == {one.name}, option
        found = different[one.name]
        assert found is True if one.is_flag else plain(found) == value or str(found) == text, option


def test_the_words_of_a_command() -> None:
    options = {"cpu_ranks": 2, "gpus": None, "dry_run": True, "saved_only": False, "ways": ("a", "b"), "data": Path("x y")}
    words = command_words("bench step", "r.yaml", settings=["a.b=1", "c=2"], options=options)
    assert words == [
        *("bench", "step", "r.yaml", "--set", "a.b=1", "--set", "c=2"),
        *("--cpu-ranks", "2", "--dry-run", "--ways", "a,b", "--data", "x y"),
    ]


@pytest.mark.parametrize(
    ("request_of_ranks", "door"),
    [
        (BenchStepRequest("r", ["a=1"], 4, Path("d"), None, 2, 3, 6, None, ["timm", "parts"], Path("t.json")), "step"),
        (BenchTrainRequest("r", ["a=1"], 4, Path("d"), 2, None, 3, 6), "train"),
        (BenchAllreduceRequest(None, 2, 5, 6), "allreduce"),
        (BenchLrRequest("r", ["a=1"], 1e-5, 2.0, 30, None, 2), "lr"),
        (EnsembleRequest([Path("e.yaml")], ["a=1"], "10crop", "best", [2.5, 1.0], None, 2, True, Path("o")), "ensemble"),
    ],
)
def test_ranks_and_hints_get_the_request_back(request_of_ranks: Any, door: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"ensemble": "cli.ensemble.run_ensemble", "allreduce": "stages.bench_ranks.allreduce", "lr": "stages.bench_lr.lr"}
    found = requested(request_of_ranks.words, place.get(door, f"stages.bench_steps.{door}"), monkeypatch)
    assert {name: plain(value) for name, value in vars(found).items()} == {
        name: plain(value) for name, value in vars(request_of_ranks).items()
    }
