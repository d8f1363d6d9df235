"""`watch` from the files of a run: numbers by hand, and a terminal of its own for the live form."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

import inceptionctl as package
from inceptionctl.cli import app
from inceptionctl.report.status import ASCII_BARS, BARS, lines, seconds_left, sparkline, total_steps
from inceptionctl.run import Run
from inceptionctl.run_contents import read_run
from tests.commands import COMMAND, environment, inceptionctl
from tests.evaluate.making import make_data, make_run, one_thread


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """At step 10 of 10 by its checkpoints; the rows are written by the tests."""
    with one_thread():
        return make_run(tmp_path / "run", make_data(tmp_path / "animals"))


def write_rows(run: Run, *steps: int, seconds_a_step: float = 2.0) -> None:
    rows = [
        {
            "kind": "train",
            "time": 1e9 + seconds_a_step * step,
            "step": step,
            "epoch": step / 50,
            "loss": 3.0 - step / 100,
            "data_wait": 0.016,
            "peak_memory_bytes": 1_234_567_890,
            "torch_peak_memory_bytes": 987_654_321,
        }
        for step in steps
    ]
    rows.append({"kind": "evaluate", "step": steps[-1], "epoch": 0.2, "top1_error": 81.25, "top5_error": 12.5})
    run.metrics_file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def without_checkpoints(run: Run) -> None:
    for folder in run.checkpoints.glob("step-*"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def test_numbers_by_hand(run: Run) -> None:
    without_checkpoints(run)
    write_rows(run, 10, 15, 20)
    found = read_run(run)
    assert total_steps(found) == 50  # the recipe's one epoch is 50 steps by the rows
    assert seconds_left(found) == pytest.approx(2.0 * 30)
    shown = dict(lines(found, now=1e9 + 40 + 7))
    assert shown["step"] == "20 of 50, epoch 0.40"
    assert (shown["loss"], shown["waits for data"], shown["last row"]) == ("2.8000", "1.6% of the time", "7 s ago")
    assert (shown["memory at most"], shown["tensors at most"]) == ("1.23 GB", "0.99 GB")
    assert shown["validation 20"] == "top-1 error 81.25%, accuracy 18.75%, top-5 error 12.50%"


def test_a_run_without_rows(run: Run) -> None:
    without_checkpoints(run)
    found = read_run(run)
    assert total_steps(found) is None and seconds_left(found) is None
    assert dict(lines(found, now=0.0))["step"] == "0 of ?"


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([1, 1, 1]) == "▄▄▄"
    assert sparkline([8, 7, 6, 5, 4, 3, 2, 1]) == "█▇▆▅▄▃▂▁"
    assert sparkline([0.0] * 500 + [1.0] * 500, width=4) == "▁▁██"
    assert len(ASCII_BARS) == len(BARS) and ASCII_BARS.isascii()


def test_an_ascii_terminal_sees_bars_and_no_escapes(run: Run) -> None:
    write_rows(run, *range(1, 9))
    shown = inceptionctl("watch", run.path, "--once", LC_ALL="C", PYTHONIOENCODING="ascii")
    assert shown.returncode == 0 and "\\" not in shown.stdout, shown.stdout
    (line,) = (line for line in shown.stdout.splitlines() if line.startswith("loss so far"))
    assert line.split()[-1] == ASCII_BARS[::-1]


def test_nothing_else_that_is_printed_needs_more_than_ascii() -> None:
    """Names do, and are escaped there; rich draws its tables and bars in ASCII by itself."""
    folder = Path(package.__file__).parent
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*.py") if not file.read_text("utf-8").isascii()}
    assert files == {"report/status.py"}


def test_once(run: Run) -> None:
    write_rows(run, 5, 10)
    answer = CliRunner().invoke(app, ["watch", str(run.path), "--once"])
    assert answer.exit_code == 0 and "finished" in answer.stdout and "10 of 10" in answer.stdout
    missing = CliRunner().invoke(app, ["watch", str(run.path / "nothing")])
    assert missing.exit_code == 5 and "hint:" in missing.stderr


def test_a_terminal_sees_new_rows_until_ctrl_c(run: Run) -> None:
    without_checkpoints(run)
    write_rows(run, 10, 15)
    ours, theirs = pty.openpty()
    command = [*COMMAND, "watch", str(run.path), "--every", "0.1"]
    variables = environment() | {"TERM": "xterm"}
    # A shell's background job, as CI may be, starts everything with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True)
    os.close(theirs)
    try:
        seen = read_until(ours, b"15 of 50")
        write_rows(run, 10, 15, 35)
        seen += read_until(ours, b"35 of 50")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
        assert b"Traceback" not in seen
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def read_until(descriptor: int, words: bytes, seconds: float = 60.0) -> bytes:
    seen, deadline = b"", time.monotonic() + seconds
    while words not in seen:
        assert time.monotonic() < deadline, seen
        seen += os.read(descriptor, 4096)
    return seen
