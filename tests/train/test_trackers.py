"""Weights & Biases and MLflow, by their real packages: offline, and a local store. Both are extras, which not every environment has."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from inceptionctl.errors import EnvironmentFault
from inceptionctl.recipe import recipe_from_dict
from inceptionctl.run import Run, create_run
from inceptionctl.train import trackers
from inceptionctl.train.runlog import RunLog
from inceptionctl.train.trackers import Row, Service, services
from tests.commands import TINY, inceptionctl, refused, rows, sets
from tests.data.conftest import two_classes

BOTH = pytest.mark.skipif(
    not (find_spec("wandb") and find_spec("mlflow")), reason="wandb or mlflow is not installed: pip install wandb mlflow-skinny"
)


class Recorder:
    """A service of our own, to fail when the test says so."""

    name = "recorder"
    later = "that is all"

    def __init__(self) -> None:
        self.taken: list[tuple[str, int]] = []
        self.refuses = threading.Event()
        self.hangs = threading.Event()
        self.released = threading.Event()
        self.ended: list[bool] = []
        self.abandoned = False
        self.attempts = 0

    def connect(self, state: dict[str, Any], save: Any) -> None:
        state.setdefault("id", "7")

    def send(self, row: Row) -> None:
        self.attempts += 1
        if self.refuses.is_set():
            raise ConnectionError("no route to host")
        if self.hangs.is_set():
            self.released.wait(60)
        self.taken.append((row["kind"], row["step"]))

    def finish(self, finished: bool) -> None:
        self.ended.append(finished)

    def abandon(self) -> None:
        self.abandoned = True


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create_run(tmp_path / "run", recipe_from_dict({}, "test"))


def log_of(run: Run, *found: Service, start_step: int = 0) -> RunLog:
    return RunLog(run, start_step=start_step, enabled=True, services=found)


def add(log: RunLog, *steps: int) -> None:
    for step in steps:
        log.row("train", {"step": step, "epoch": step / 10, "loss": 3.0 - step / 10, "activation_rms": {"stem": 1.0}})


def test_rows_that_a_dead_service_has_missed_are_sent_by_the_next_start(run: Run) -> None:
    service = Recorder()
    log = log_of(run, service)
    add(log, 1)
    until(lambda: bool(service.taken))
    service.refuses.set()
    add(log, 2, 3)
    log.close()
    assert service.taken == [("train", 1)] and [row["step"] for row in run.metrics()] == [1, 2, 3]
    assert run.log_file.read_text().count("warning: recorder: no route to host; the training goes on") == 1
    again = Recorder()
    log = log_of(run, again, start_step=3)
    add(log, 4)
    log.close(finished=True)
    assert again.taken == [("train", 2), ("train", 3), ("train", 4)] and again.ended == [True]


def test_rows_wait_for_a_service_that_answers_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "RETRY_SECONDS", 0.01)
    service = Recorder()
    service.refuses.set()
    log = log_of(run, service)
    add(log, 1, 2)
    until(lambda: service.attempts > 3)
    service.refuses.clear()
    until(lambda: len(service.taken) == 2)
    log.close()
    text = run.log_file.read_text()
    assert text.count("warning: ") == 1 and "recorder answers again" in text and service.ended == [False]


def test_a_service_that_hangs_keeps_nobody(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.05)
    service = Recorder()
    service.hangs.set()
    log = log_of(run, service)
    add(log, 1, 2)
    log.close()
    assert service.abandoned and service.taken == [] and len(list(run.metrics())) == 2
    assert "warning: recorder does not take the last rows; that is all" in run.log_file.read_text()
    service.released.set()


@pytest.mark.parametrize("by", ["an older checkpoint", "a rollback"])
def test_rows_that_are_made_again_are_sent_again(run: Run, by: str) -> None:
    service = Recorder()
    log = log_of(run, service)
    add(log, 1, 2, 3)
    until(lambda: len(service.taken) == 3)
    service.refuses.set()
    if by == "a rollback":
        log.go_back(1, evaluation_due=False)
    else:
        log.close()
        log = log_of(run, service, start_step=1)
    add(log, 2)
    log.close()
    service.refuses.clear()
    log_of(run, service, start_step=2).close()
    assert [step for _, step in service.taken] == [1, 2, 3, 2]


def test_a_folder_of_that_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "inceptionctl_no_tracker").mkdir()  # as `wandb` leaves where it was started
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EnvironmentFault, match="is not installed"):
        trackers.check_package("inceptionctl_no_tracker")


@pytest.mark.skipif(find_spec("mlflow") is not None, reason="mlflow is installed")
def test_a_missing_package_is_said_before_anything_begins(tmp_path: Path) -> None:
    words = sets(*TINY, "log.mlflow.enabled=true", "model.num_classes=2", f"data.root={two_classes(tmp_path)}")
    done = inceptionctl("train", "inception_v4", *words, "--cpu-ranks", "1", "--output", "run", cwd=tmp_path)
    refused(done, 4, "log.mlflow.enabled", "mlflow is not installed", "pip install 'inceptionctl[mlflow]'")
    assert not (tmp_path / "run").exists()


def test_tags_of_mlflow_have_values() -> None:
    from inceptionctl.errors import RecipeError

    with pytest.raises(RecipeError) as error:
        recipe_from_dict({"log": {"mlflow": {"tags": ["paper"]}}}, "test")
    assert "'paper' is not KEY=VALUE" in error.value.problems[0].message


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    return f"file://{tmp_path}/store"


def mlflow_run(store: str, run: Path) -> tuple[Any, dict[str, list[tuple[int, float]]]]:
    """The one run of a store as trackers.py has written it, and its metrics by name."""
    code = """
import json, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(tracking_uri=sys.argv[1])
experiment = client.get_experiment_by_name("tries")
[run] = client.search_runs([experiment.experiment_id])
curves = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in run.data.metrics}
info = {"id": run.info.run_id, "status": run.info.status, "name": run.info.run_name, "params": run.data.params, "tags": run.data.tags}
print(json.dumps([info, curves]))
"""
    done = subprocess.run([sys.executable, "-c", code, store], capture_output=True, text=True, check=True, env={**os.environ})
    info, curves = json.loads(done.stdout)
    return info, {name: [(step, value) for step, value in sorted(points)] for name, points in curves.items()}


@pytest.mark.slow
@BOTH
def test_a_training_is_one_run_of_both_through_a_requeue(tmp_path: Path, store: str) -> None:
    more = (
        *("log.wandb.enabled=true", "log.wandb.project=tries", "log.wandb.tags=[cpu]"),
        *(
            "log.mlflow.enabled=true",
            "log.mlflow.experiment=tries",
            f"log.mlflow.tracking_uri={store}",
            "log.mlflow.tags=[on=cpu]",
        ),
    )
    words = [
        "train",
        "inception_v4",
        *sets(*TINY, "model.name=resnet_18", *more, "model.num_classes=2", f"data.root={two_classes(tmp_path)}"),
    ]
    environment = {"WANDB_MODE": "offline", "MLFLOW_ALLOW_FILE_STORE": "true"}
    if "PYTHONPATH" in os.environ:
        environment["PYTHONPATH"] = os.environ["PYTHONPATH"]
    for steps in (2, 3):
        again = sets(f"train.max_steps={steps}")
        done = inceptionctl(*words, *again, "--cpu-ranks", "2", "--output", "run", cwd=tmp_path, **environment)
        assert done.returncode == 0 and "warning: mlflow" not in done.stderr and "warning: wandb" not in done.stderr, (
            done.stderr
        )
    run = tmp_path / "run"
    info, curves = mlflow_run(store, run)
    assert (info["name"], info["status"], info["params"]["model.name"]) == ("run", "FINISHED", "resnet_18")
    assert info["tags"]["on"] == "cpu" and info["id"] == json.loads((run / "mlflow.json").read_text())["id"]
    assert curves["train/loss"] == [(row["step"], row["loss"]) for row in rows(run)] and len(curves["train/loss"]) == 3
    assert curves["evaluate/top1_error"] == [(row["step"], row["top1_error"]) for row in rows(run, "evaluate")]
    kept = json.loads((run / "wandb.json").read_text())
    assert kept["sent"] == {"train": 3, "evaluate": 3}
    files = sorted((run / "wandb").glob(f"offline-run-*-{kept['id']}/run-{kept['id']}.wandb"))
    assert len(files) == 2  # one of each start; `wandb sync` joins them by the id
    for file, steps in zip(files, ((1, 2), (3,)), strict=True):
        losses = [json.dumps(row["loss"])[:12] for row in rows(run) if row["step"] in steps]
        content = file.read_bytes()
        assert b"train/loss" in content and b"tries" in content and all(loss.encode() in content for loss in losses)


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    held = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            held.wait(60)

        do_GET = do_POST  # noqa: N815

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    held.set()
    server.shutdown()
    server.server_close()


SILENT = """
import sys
from pathlib import Path
from inceptionctl.distributed.exit import leave
from inceptionctl.recipe.load import recipe_from_dict
from inceptionctl.run import create_run
from inceptionctl.train import trackers
from inceptionctl.train.runlog import RunLog

trackers.CLOSE_SECONDS = 5.0
recipe = recipe_from_dict({"log": {"wandb": {"enabled": True}, "mlflow": {"enabled": True, "tracking_uri": sys.argv[2]}}}, "test")
run = create_run(Path(sys.argv[1]), recipe)
log = RunLog(run, start_step=0, enabled=True, services=trackers.services(recipe, run))
for step in (1, 2):
    log.row("train", {"step": step, "epoch": 0.1, "loss": 2.0})
log.close(finished=True)
leave(0)
"""


@BOTH
def test_services_that_never_answer_keep_no_process_from_ending(tmp_path: Path, silent_server: str) -> None:
    environment = {**os.environ, "WANDB_BASE_URL": silent_server, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online"}
    command = [sys.executable, "-c", SILENT, str(tmp_path / "run"), silent_server]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)  # wandb alone would take 90 s
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    for name in ("wandb", "mlflow"):
        assert f"warning: {name} does not take the last rows" in done.stderr
    assert [row["step"] for row in Run(tmp_path / "run").metrics()] == [1, 2]


def test_nothing_is_on_by_default(run: Run) -> None:
    assert list(services(run.recipe(), run)) == []
