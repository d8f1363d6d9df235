"""Where a step of the real training loop goes: some steps of it under torch.profiler, its operators in groups, and the trace.

The loop knows nothing of it: `ranges` puts names around what it calls while the profile runs, and takes them off again.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function, schedule

from inceptionctl.data.loaders import Batch
from inceptionctl.errors import EnvironmentFault
from inceptionctl.train.engine import GradientAverage
from inceptionctl.train.job import Training

STEPS = {"cpu": 3, "cuda": 10}
WARM_UP = 2  # the first of them without the profiler, the second with it: its own start takes a while
MAX_OPERATORS = 20
IDLE, BETWEEN, LOOP = "the device waits for the host", "Python between operators", "loss and the rest of the loop"
PYTHON, NO_OPERATOR = "Python", "-"

# What happens anywhere in a range of these is the group's; the first that fits. The names are `ranges`', torch's and autograd's.
PHASES = (
    (r"^Optimizer\.", "optimizer"),
    (r"^statistics$", "batch-norm statistics and votes over ranks"),
    (r"^averages$", "averages of the weights"),
    (r"^images$", "wait for images"),
    (r"(?i)AccumulateGrad|c10d|gloo|nccl|all_?reduce|record_param_comms|^ranks$", "gradients: kept, averaged over ranks"),
    (r"^engine\.step$", "norm, clipping and DeepSpeed's step"),
)
# Of forward and backward: the innermost name that fits any.
KINDS = (
    (r"(?i)triton_|cpp_fused|CompiledFunction|Torch-Compiled|inductor", "compiled code"),
    (r"(?i)conv(olution|\d)", "convolution"),
    (r"(?i)batch_?norm", "batch norm"),
    (r"(?i)relu|threshold_backward|clamp_min", "ReLU"),
    (r"(?i)pool|::mean$|MeanBackward", "pooling"),
    (r"::cat$|CatBackward|::narrow$", "concatenation"),
    (r"(?i)linear|addmm|::mm$|matmul|MmBackward", "classifier"),
    (r"(?i)dropout|bernoulli", "dropout"),
    (r"::add_?$|AddBackward", "additions"),
    (r"(?i)log_?softmax|nll_?loss|cross_?entropy", "loss"),
    (r"(?i)copy_|::to$|_to_copy|ToCopyBackward|contiguous|clone", "casts and copies"),
)
BACKWARD = r"(?i)backward|autograd::engine"
STEP = "ProfilerStep"
PASSES = ("forward", "backward")  # their time outside of operators is Python's
RANGES = (*PASSES, "engine.step", "averages", "statistics", "ranks", "images")


@dataclass
class Cost:
    """Of a step: `seconds` on the clock (on a GPU the device's), `share` percent; `calls` of `operator`, the dearest of a group."""

    name: str
    seconds: float
    share: float
    calls: float
    operator: str


@dataclass
class StepProfile:
    """What `profiled` finds out."""

    steps: int
    on_device: bool = False
    seconds: float = 0.0
    """A step under the profiler, which slows it."""
    groups: list[Cost] = field(default_factory=list)
    """The dearest first; they add up to the step."""
    operators: list[Cost] = field(default_factory=list)
    _save: Callable[[str], None] | None = None

    def to_json(self) -> dict[str, object]:
        """Everything but the trace."""
        return {
            "steps": self.steps,
            "of": "device" if self.on_device else "main thread",
            "seconds_per_step": self.seconds,
            "groups": [asdict(cost) for cost in self.groups],
            "operators": [asdict(cost) for cost in self.operators],
        }

    def write(self, file: Path) -> None:
        """The Chrome trace; compressed where the name ends in .gz. Raises EnvironmentFault when it cannot be written."""
        assert self._save is not None
        with tempfile.TemporaryDirectory(prefix="inceptionctl-trace-") as folder:
            made = Path(folder, "trace.json.gz" if file.name.endswith(".gz") else "trace.json")
            try:
                # torch's own writing says nothing of a full disk.
                self._save(str(made))
                shutil.copyfile(made, file)
            except OSError as error:
                raise EnvironmentFault(f"cannot write {file}: {error.strerror or error}", "name another file") from None


def profiled(job: Training, source: Iterator[Batch], together: Callable[[], None], found: StepProfile) -> Iterator[Batch]:
    """Batches for the loop of `job`, and into `found` what steps with them cost. `together` waits for the device and the ranks."""
    found.on_device = job.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if found.on_device else [])]
    # Never a second cycle: its start with nothing after it brings the process down (torch 2.13).
    plan = schedule(wait=WARM_UP - 1, warmup=1, active=found.steps, repeat=1)
    with ranges(job), profile(activities=activities, schedule=plan) as profiler:
        for number in range(WARM_UP + found.steps):
            if number == WARM_UP:
                together()
                began = time.perf_counter()
            with record_function("images"):
                batch = next(source)
            yield batch
            if number == WARM_UP + found.steps - 1:
                together()
                found.seconds = (time.perf_counter() - began) / found.steps
            profiler.step()
    _evaluate(found, profiler.events())
    found._save = profiler.export_chrome_trace


@contextmanager
def ranges(job: Training) -> Iterator[None]:
    """Names in the profile around what the loop calls."""
    named = (
        (job.engine, "forward", "forward"),
        (job.engine, "backward", "backward"),
        (job.engine, "step", "engine.step"),
        (job.average, "update", "averages"),
        (job.statistics, "average", "statistics"),
        (job.stop, "vote", "statistics"),
        (GradientAverage, "finish", "ranks"),
    )
    with ExitStack() as undo:
        for owner, method, name in named:
            original, own = getattr(owner, method), method in vars(owner)
            setattr(owner, method, _named(original, name))
            undo.callback(setattr, owner, method, original) if own else undo.callback(delattr, owner, method)
        yield


def _named(original: Callable[..., Any], name: str) -> Callable[..., Any]:
    def called(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return original(*arguments, **options)

    return called


def _evaluate(found: StepProfile, events: Iterable[FunctionEvent]) -> None:
    """Own times of all operators of the steps, by group and by name."""
    # (group, operator): seconds and calls of a step
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    on_host = [event for event in events if event.device_type.name == "CPU"]
    loop = {event.thread for event in on_host if event.name.startswith(STEP)}
    for event in on_host:
        # On a CPU the loop's thread is the step, and others' operators are beside it; a GPU's work is whoever's that gave it.
        taken = event.self_device_time_total if found.on_device else event.self_cpu_time_total * (event.thread in loop)
        if taken > 0:
            names = lineage(event)
            cost = spent[group_of(names), PYTHON if is_range(names[0]) else names[0]]
            cost[0] += 1e-6 * taken / found.steps
            cost[1] += 1 / found.steps
    known = sum(seconds for seconds, _ in spent.values())
    if known < found.seconds:
        spent[IDLE if found.on_device else LOOP, NO_OPERATOR][0] += found.seconds - known
    total = max(known, found.seconds)
    found.groups = _summed(spent, 0, total)
    found.operators = [cost for cost in _summed(spent, 1, total) if cost.name != NO_OPERATOR][:MAX_OPERATORS]


def _summed(spent: Mapping[tuple[str, str], Sequence[float]], by: int, total: float) -> list[Cost]:
    """Costs by group (0) or operator (1), the dearest first; calls are those of the dearest operator."""
    parts: dict[str, list[tuple[float, float, str]]] = defaultdict(list)
    for names, (seconds, calls) in spent.items():
        parts[names[by]].append((seconds, calls, names[1]))
    costs = []
    for name, found in parts.items():
        seconds, (_, calls, operator) = sum(part[0] for part in found), max(found)
        calls = calls if by == 0 else sum(part[1] for part in found)
        costs.append(Cost(name, seconds, 100.0 * seconds / total, calls, operator))
    return sorted(costs, key=lambda cost: -cost.seconds)


def lineage(event: FunctionEvent) -> list[str]:
    """Names of an operator and of what it was called by, the innermost first."""
    names, at = [], event
    while True:
        names.append(at.name)
        if at.cpu_parent is None:
            return names
        at = at.cpu_parent


def is_range(name: str) -> bool:
    """Whether a name stands around Python, and is no operator's: its own time is Python's."""
    return name in RANGES or name.startswith(STEP)


def group_of(names: Sequence[str]) -> str:
    """The group of an operator of this lineage."""
    for pattern, phase in PHASES:
        if any(re.search(pattern, name) for name in names):
            return phase
    if names[0] in PASSES:
        return BETWEEN
    backward = any(re.search(BACKWARD, name) for name in names)
    if not backward and "forward" not in names:
        return LOOP
    for name in names:
        for pattern, kind in KINDS:
            if re.search(pattern, name):
                return f"{kind}, {'backward' if backward else 'forward'}"
    return f"other operators, {'backward' if backward else 'forward'}"
