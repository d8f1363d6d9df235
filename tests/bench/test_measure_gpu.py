"""scripts/measure-gpu: what becomes of its jobs, and that the commands in them are ones that this program knows. No GPU, nothing timed."""

import json
import shlex
import signal
import subprocess
import sys
import time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from inceptionctl.bench.ways import read_ways
from inceptionctl.cli import app
from inceptionctl.recipe.load import load_recipe
from tests.commands import environment

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "measure-gpu"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("measure_gpu", str(SCRIPT))
    spec = spec_from_loader("measure_gpu", loader)
    assert spec
    module = module_from_spec(spec)
    sys.modules["measure_gpu"] = module
    loader.exec_module(module)
    return module


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def dry(part: str, folder: Path, *options: str) -> dict[str, list[str]]:
    """The commands of a visit, by name of the job."""
    done = subprocess.run([sys.executable, SCRIPT, part, folder, "--dry", *options], capture_output=True, text=True, check=True)
    return {line.partition(" (")[0]: shlex.split(line.partition(" s): ")[2]) for line in done.stdout.splitlines()}


@pytest.mark.parametrize("options", [(), ("--small",)], ids=["gpu", "small"])
@pytest.mark.parametrize("part", ["works", "speed"])
def test_its_commands_are_known(part: str, options: tuple[str, ...], tmp_path: Path) -> None:
    jobs = dry(part, tmp_path, *options)
    known = [command[command.index("inceptionctl") + 1 :] for command in jobs.values() if "inceptionctl" in command]
    assert len(known) > 6
    for words in known:
        command = get_command(app)
        while isinstance(command, TyperGroup):
            command = command.commands[words.pop(0)]
        context = command.make_context("inceptionctl", words)
        if context.params.get("settings"):
            load_recipe(context.params["recipe"], context.params["settings"])
        if "ways" in context.params:
            read_ways(context.params["ways"], 1)
    for command in jobs.values():
        script = next((Path(word) for word in command if word.startswith(str(SCRIPT.parent))), None)
        assert script is None or script.is_file()


def test_what_works_decides_how_the_rest_decodes(tmp_path: Path, script: ModuleType) -> None:
    def decodings(part: str) -> set[str]:
        return {word for command in dry(part, tmp_path).values() for word in command if word.startswith("data.decode=")}

    whole, part, cpu = (f"data.decode={value}" for value in (script.WHOLE, script.PART, "cpu"))
    assert decodings("works") == decodings("speed") == {whole, cpu}
    for works, expected in ((["whole", "part"], {whole, part, cpu}), (["part"], {part, cpu}), ([], {cpu})):
        (tmp_path / "decoding.json").write_text(json.dumps({"works": works, "ways": {}}))
        assert decodings("speed") == expected, works


def test_without_timm_its_steps_are_left_out(tmp_path: Path) -> None:
    def ways() -> set[str]:
        jobs = (job for part in ("works", "speed") for job in dry(part, tmp_path).values())
        return {way for job in jobs if "--ways" in job for way in job[job.index("--ways") + 1].split(",")}

    assert {"timm", "timm-compiled"} < ways()
    (tmp_path / "timm.py").write_text("raise RuntimeError('not for this torch')")
    variables, command = {"PYTHONPATH": str(tmp_path)}, [sys.executable, SCRIPT, "timm", tmp_path]
    done = subprocess.run(command, env=environment() | variables, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "its steps are left out: not for this torch\n")
    assert ways() == {"bare", "none", "network/cuda-graphs"}
    (tmp_path / "timm.py").write_text("__version__ = '1'")
    subprocess.run(command, env=environment() | variables, check=True)
    assert {"timm", "timm-compiled"} < ways()


def test_jobs_by_name_and_what_they_need(tmp_path: Path) -> None:
    assert list(dry("works", tmp_path, "--jobs", "learn,doctor")) == ["classes", "learn", "doctor", "timm"]
    done = subprocess.run(
        [sys.executable, SCRIPT, "speed", tmp_path, "--jobs", "learn"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "no job learn in speed; there are photographs, timm, step, " in done.stderr


def test_every_job_leaves_a_line_and_a_chain_ends_with_what_fails(script: ModuleType, tmp_path: Path) -> None:
    runner = script.Runner(tmp_path, "works")
    (tmp_path / "made").mkdir()
    rows = tmp_path / "rows"
    waits = f"import pathlib, time; pathlib.Path({str(rows)!r}).write_text('row'); time.sleep(60)"
    stubborn = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
    script.SECONDS_TO_END = 1.0
    chains = [
        [
            script.Job("first", 60, python("print('one\\ntwo')"), tail=1),
            script.Job("bad", 60, python("import sys; sys.exit('why')")),
            script.Job("needs it", 60, python("")),
        ],
        [script.Job("asked", 60, python(waits), code=-signal.SIGTERM, signal_after=rows)],
        [script.Job("endless", 3, python(stubborn))],
        [script.Job("there already", 60, python("import sys; sys.exit(1)"), makes=tmp_path / "made")],
        [script.Job("no such command", 60, (str(tmp_path / "none"),))],
    ]
    runner.run_side_by_side(chains, at_once=5)
    results = {result["name"]: result for result in json.loads((tmp_path / "results-works.json").read_text())}
    became = {name: result["became"] for name, result in results.items()}
    assert became == {
        "first": "ok",
        "bad": "exit 1",
        "needs it": "not run: it needs bad",
        "asked": "ok",
        "endless": "no end in 3 s",
        "no such command": "did not start: No such file or directory",
    }
    assert (results["first"]["last"], results["bad"]["last"], results["endless"]["last"]) == (["two"], ["why"], ["begun"])
    summary = (tmp_path / "summary.txt").read_text()
    assert summary.count("\n== ") + 1 == len(results) and "== needs it: not run: it needs bad" in summary


def test_a_visit_that_is_cut_off_leaves_nothing_running(tmp_path: Path) -> None:
    command = [sys.executable, SCRIPT, "works", tmp_path, "--small", "--jobs", "decoding"]
    (tmp_path / "classes").mkdir()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as visit:
        log = tmp_path / "logs" / "decoding.txt"
        deadline = time.monotonic() + 60
        while not log.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        visit.send_signal(signal.SIGTERM)
        assert visit.wait(60) == 143
    # It was ended, not waited for.
    assert not (tmp_path / "decoding.json").exists()
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed


def test_losses_of_two_runs_beside_each_other(tmp_path: Path) -> None:
    for name, losses in (("a", (4.0, 2.0, 1.0)), ("b", (4.0, 2.5)), ("c", ())):
        (tmp_path / name).mkdir()
        rows = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate(losses)]
        lines = [*map(json.dumps, rows), '{"kind": "evaluate", "step": 0, "loss": 9.0}']
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines) + "\n")

    def compared(other: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, SCRIPT, "compare", tmp_path / "a", tmp_path / other]
        return subprocess.run(words, capture_output=True, text=True, check=False)

    assert "1 of 2 losses equal to the bit, largest relative difference 2.50e-01, the first at step 1" in compared("b").stdout
    assert compared("a").stdout.startswith("3 of 3 losses equal to the bit, largest relative difference 0.00e+00\n")
    assert compared("c").returncode == 1
