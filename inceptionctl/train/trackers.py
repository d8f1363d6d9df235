"""Experiment trackers: Weights & Biases and MLflow, which get the rows of metrics.jsonl. The only importer of wandb and mlflow.

Each has a thread of its own, so that a service that does not answer keeps no training waiting. What it has not taken is sent when it answers
again, at the latest by the next start of the run: wandb.json and mlflow.json in the run directory hold the service's run id and how far it is.
"""

from __future__ import annotations

import contextlib
import json
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import psutil

from inceptionctl.errors import EnvironmentFault
from inceptionctl.recipe.log_section import MlflowSection, WandbSection
from inceptionctl.recipe.schema import Recipe, flatten
from inceptionctl.run import Run
from inceptionctl.storage import write_atomically

RETRY_SECONDS = 30.0
# Less than torchrun gives a rank between SIGTERM and SIGKILL.
CLOSE_SECONDS = 10.0
MAX_PARAMS = 100  # MLflow's limit of one request

Row = Mapping[str, Any]

SCALARS = (
    "loss",
    "learning_rate",
    "grad_norm",
    "clipped_share",
    "images_per_second",
    "data_wait",
    "peak_memory_bytes",
    "torch_peak_memory_bytes",
    "bad_images",
    "rollbacks",
    "zero_share",
    "top1_error",
    "top5_error",
)


def scalars(row: Row) -> dict[str, float]:
    """The numbers of a row that can be drawn, by their names in TensorBoard and the trackers: `train/loss`."""
    kind = str(row["kind"]) if row.get("subset", "all") == "all" else f"{row['kind']}_{row['subset']}"
    found = {f"{kind}/{name}": row.get(name) for name in SCALARS}
    found |= {f"activation_rms/{block}": value for block, value in row.get("activation_rms", {}).items()}
    return {name: value for name, value in found.items() if isinstance(value, int | float) and math.isfinite(value)}


class Service(Protocol):
    """A tracker's own client. Every method may raise anything, and may take as long as the network does."""

    name: str
    later: str
    """What becomes of rows that it has not taken at the end."""

    def connect(self, state: dict[str, Any], save: Callable[[], None]) -> None:
        """Open the run that `state` names by `id`, or a new one, which it then names; `save` keeps the state."""

    def send(self, row: Row) -> None:
        """Hand a row over."""

    def finish(self, finished: bool) -> None:
        """Close the run; `finished` tells whether the training is at its end."""

    def abandon(self) -> None:
        """Leave nothing behind that keeps this process from ending."""


class Wandb:
    """Weights & Biases."""

    name = "wandb"
    later = "metrics.jsonl has them, and `wandb sync` sends what lies in the run's folder wandb/"

    def __init__(self, section: WandbSection, recipe: Recipe, run: Run) -> None:
        self._section, self._recipe, self._directory = section, recipe, run.path.absolute()

    def connect(self, state: dict[str, Any], save: Callable[[], None]) -> None:
        """Resumes the run by its id, which is ours from the beginning: offline runs are joined by it when they are synced."""
        import wandb

        if "id" not in state:
            state["id"] = uuid.uuid4().hex[:8]
            save()
        self._run = wandb.init(
            project=self._section.project,
            name=self._section.name or self._directory.name,
            tags=self._section.tags,
            config=self._recipe.resolved(),
            id=state["id"],
            resume="allow",
            dir=str(self._directory),
            settings=wandb.Settings(console="off", silent=True, save_code=False, disable_git=True),
        )
        # Rows of training and validation share steps, and a rollback repeats some: wandb's own counter bears neither.
        self._run.define_metric("*", step_metric="step")

    def send(self, row: Row) -> None:
        """To wandb's process, which sends it on."""
        self._run.log({"step": row["step"], "epoch": row["epoch"], **scalars(row)})

    def finish(self, finished: bool) -> None:
        """A run that will be resumed is not marked as successful."""
        self._run.finish(exit_code=0 if finished else 1)

    def abandon(self) -> None:
        """Its process, which it would wait for at our exit until the service answers, is killed; its file of the run stays."""
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.Error):
                if "wandb" in Path(child.exe()).name:
                    child.kill()
        with contextlib.suppress(Exception, SystemExit):  # else its hook at our exit complains of the dead process
            import wandb

            wandb.teardown()


class Mlflow:
    """MLflow."""

    name = "mlflow"
    later = "metrics.jsonl has them"

    def __init__(self, section: MlflowSection, recipe: Recipe, run: Run) -> None:
        self._section, self._recipe, self._directory = section, recipe, run.path.absolute()

    def connect(self, state: dict[str, Any], save: Callable[[], None]) -> None:
        """The recipe becomes the parameters of a new run; MLflow lets nobody change them later."""
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=self._section.tracking_uri)
        if "id" not in state:
            tags = dict(tag.split("=", 1) for tag in self._section.tags)
            name = self._section.name or self._directory.name
            state["id"] = self._client.create_run(self._experiment(), tags=tags, run_name=name).info.run_id
            save()
        self._id = state["id"]
        if not state.get("has_params"):
            self._send_params()
            state["has_params"] = True
            save()
        self._client.update_run(self._id, status="RUNNING")

    def _experiment(self) -> str:
        found = self._client.get_experiment_by_name(self._section.experiment)
        return str(found.experiment_id if found else self._client.create_experiment(self._section.experiment))

    def _send_params(self) -> None:
        from mlflow.entities import Param

        values = flatten(self._recipe.resolved())
        params = [Param(key, value if isinstance(value, str) else json.dumps(value)) for key, value in values.items()]
        for first in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self._id, params=params[first : first + MAX_PARAMS])

    def send(self, row: Row) -> None:
        """With the row's own time."""
        from mlflow.entities import Metric

        at = int(1000 * row["time"]), int(row["step"])
        values = {"epoch": row["epoch"], **scalars(row)}
        self._client.log_batch(self._id, metrics=[Metric(name, float(value), *at) for name, value in values.items()])

    def finish(self, finished: bool) -> None:
        """KILLED until it is resumed, unless it is finished."""
        self._client.set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def abandon(self) -> None:
        """Its requests are made by our own thread, which nobody waits for."""


def services(recipe: Recipe, run: Run) -> Iterator[Service]:
    """The trackers that a recipe turns on."""
    if recipe.log.wandb.enabled:
        yield Wandb(recipe.log.wandb, recipe, run)
    if recipe.log.mlflow.enabled:
        yield Mlflow(recipe.log.mlflow, recipe, run)


def check_package(name: str) -> None:
    """Raise EnvironmentFault where the package of a tracker is missing."""
    found = find_spec(name)
    if found is None or found.origin is None:  # wandb's own folder of runs would do for a package without files
        raise EnvironmentFault(
            f"log.{name}.enabled is true, but {name} is not installed",
            f"`pip install 'inceptionctl[{name}]'`, or set log.{name}.enabled to false",
        )


class Tracker:
    """Sends rows to a service from a thread of its own. `say` is told once that it does not answer, and that it does again."""

    def __init__(self, service: Service, run: Run, say: Callable[[str], None]) -> None:
        self._service, self._say = service, say
        self._file = run.path / f"{service.name}.json"
        self._state = self._read_state()
        self._rows: queue.SimpleQueue[Row | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._connected = self._told = self._finished = False
        self._thread = threading.Thread(target=self._work, name=service.name, daemon=True)

    def begin(self, rows: Iterable[Row], last: Mapping[str, int]) -> None:
        """Start, with those `rows` of the run that were not sent; what comes after the `last` step of a kind was undone."""
        self.go_back(last)
        sent = dict(self._state["sent"])
        for row in rows:
            if row["kind"] in last and row["step"] > sent.get(row["kind"], 0):
                self.add(row)
        self._thread.start()

    def go_back(self, last: Mapping[str, int]) -> None:
        """Rows after the `last` step of a kind are made again, and sent again."""
        sent = {kind: min(step, last.get(kind, step)) for kind, step in self._state["sent"].items()}
        if sent != self._state["sent"]:
            self._state["sent"] = sent
            with contextlib.suppress(EnvironmentFault):  # a full disk: the next row that is sent says it
                self._save_state()

    def add(self, row: Row) -> None:
        """Send a row when there is time for it. Returns at once."""
        self._rows.put(row)

    def end(self, finished: bool) -> None:
        """There are no more rows, and the training is `finished` or will be resumed. Returns at once."""
        self._finished = finished
        self._rows.put(None)
        self._closing.set()

    def wait(self, deadline: float) -> None:
        """Wait until what is left is sent, and give up at the `deadline` of time.monotonic()."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._say(f"warning: {self._service.name} does not take the last rows; {self._service.later}")
            self._service.abandon()

    def _work(self) -> None:
        while (row := self._rows.get()) is not None:
            while not self._try(self._send, row):
                if self._closing.wait(RETRY_SECONDS):
                    return
        if self._connected:
            self._try(self._service.finish, self._finished)

    def _send(self, row: Row) -> None:
        if not self._connected:
            self._service.connect(self._state, self._save_state)
            self._connected = True
        self._service.send(row)
        self._state["sent"][row["kind"]] = row["step"]
        self._save_state()

    def _try(self, do: Callable[[Any], None], argument: object) -> bool:
        try:
            do(argument)
        except Exception as error:  # of a network, a server, a disk, a key: none of them ends a training
            if not self._told:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                self._say(f"warning: {self._service.name}: {reason}; the training goes on, and metrics.jsonl has every row")
            self._told = True
            return False
        if self._told:
            self._say(f"{self._service.name} answers again")
        self._told = False
        return True

    def _read_state(self) -> dict[str, Any]:
        with contextlib.suppress(OSError, ValueError):
            state = json.loads(self._file.read_text(encoding="utf-8"))
            if isinstance(state, dict) and isinstance(state.get("sent"), dict):
                return state
        return {"sent": {}}

    def _save_state(self) -> None:
        write_atomically(self._file, json.dumps(self._state) + "\n")


def close_trackers(trackers: Sequence[Tracker], finished: bool) -> None:
    """Let all send what is left, for CLOSE_SECONDS together."""
    for tracker in trackers:
        tracker.end(finished)
    deadline = time.monotonic() + CLOSE_SECONDS
    for tracker in trackers:
        tracker.wait(deadline)
