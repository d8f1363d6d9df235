"""Evaluations by several ranks, and interrupted ones: every image once, the same bits."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from inceptionctl.data.dataset import open_split
from inceptionctl.data.loader_settings import LoaderSettings
from inceptionctl.errors import DataError
from inceptionctl.evaluate.evaluation import Work, result_of
from inceptionctl.evaluate.records import read_record
from inceptionctl.evaluate.resumable import Answers, Ranks, answer_all
from inceptionctl.evaluate.subject import subject_of
from inceptionctl.evaluate.trained import load_trained
from inceptionctl.protocols import make_protocol
from inceptionctl.run import Run
from tests.commands import inceptionctl, started
from tests.evaluate.making import INPUT_PX
from tests.train.test_signals import left_of, ranks_of, wait_for

CPU = torch.device("cpu")
LOADING = LoaderSettings(num_threads=1, seconds_to_read=60.0)


def make_work(run: Run, data: Path, name: str = "single", batch_size: int = 5) -> Work:
    protocol = None if name == "single" else make_protocol(name, INPUT_PX)
    subject = subject_of(load_trained(run.path, "ema", CPU), "fp32", CPU)
    return Work(subject, open_split(data, "val"), protocol, batch_size, LOADING)


def once(work: Work, folder: Path, ranks: Ranks | None = None, on_progress=lambda done, total: None) -> Answers | None:
    return answer_all(work, folder, ranks or Ranks(), on_progress=on_progress, say=print)


class Meeting:
    """What `engine.on_rank_zero` does, for ranks that are threads."""

    def __init__(self, size: int) -> None:
        self.size, self.barrier, self.answer = size, threading.Barrier(size), None

    def ranks(self, rank: int) -> Ranks:
        def on_rank_zero(work) -> Any:
            if rank == 0:
                self.answer = work()
            self.barrier.wait()
            return self.answer

        return Ranks(rank, self.size, on_rank_zero)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("name", ["single", "10crop"])
def test_ranks_change_nothing(run: Run, data: Path, tmp_path: Path, name: str, size: int) -> None:
    work = make_work(run, data, name)
    alone = once(work, tmp_path / "alone")
    meeting = Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        found = list(
            pool.map(lambda rank: once(make_work(run, data, name), tmp_path / "parts", meeting.ranks(rank)), range(size))
        )
    assert found[1:] == [None] * (size - 1)
    assert alone and found[0] and np.array_equal(alone.probabilities, found[0].probabilities)
    assert len(alone.probabilities) == len(work.images) == 24
    one, other = (result_of(work, answers.probabilities, answers.num_answered, 1.0) for answers in (alone, found[0]))
    assert one == other


def test_the_batches_hold_every_image_once(run: Run, data: Path) -> None:
    for name in ("single", "10crop", "144crop", "dense"):
        for batch_size in (1, 5, 7, 24, 100):
            batches = make_work(run, data, name, batch_size).batches
            assert [i for batch in batches for i in batch] == list(range(24))


class Interrupted(BaseException):
    pass


def test_an_interrupted_evaluation_goes_on_where_it_was(run: Run, data: Path, tmp_path: Path) -> None:
    work = make_work(run, data, batch_size=5)

    def interrupt(done: int, total: int) -> None:
        if done == 15:
            raise Interrupted

    with pytest.raises(Interrupted):
        once(work, tmp_path / "parts", on_progress=interrupt)
    calls: list[tuple[int, int]] = []
    gone_on = once(work, tmp_path / "parts", on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(5, 9), (9, 9)]
    whole = once(work, tmp_path / "other")
    assert whole and gone_on and np.array_equal(whole.probabilities, gone_on.probabilities)


@pytest.mark.parametrize("change", ["batch_size", "protocol", "weights"])
def test_parts_of_another_evaluation_are_not_taken(run: Run, data: Path, tmp_path: Path, change: str) -> None:
    once(make_work(run, data), tmp_path / "parts")
    other = make_work(run, data, "12crop" if change == "protocol" else "single", 6 if change == "batch_size" else 5)
    if change == "weights":
        other = Work(subject_of(load_trained(run.path, "raw", CPU), "fp32", CPU), other.images, None, 5, LOADING)
    calls: list[int] = []
    once(other, tmp_path / "parts", on_progress=lambda done, total: calls.append(total))
    assert calls[0] == 24


def test_a_damaged_part_is_named(run: Run, data: Path, tmp_path: Path) -> None:
    once(make_work(run, data), tmp_path / "parts")
    part = next((tmp_path / "parts").glob("part-*.npy"))
    part.write_bytes(part.read_bytes()[:-10])
    with pytest.raises(DataError, match=part.name):
        once(make_work(run, data), tmp_path / "parts")


def test_a_pickled_part_is_refused(run: Run, data: Path, tmp_path: Path) -> None:
    once(make_work(run, data), tmp_path / "parts")
    part = next((tmp_path / "parts").glob("part-*.npy"))
    np.save(part, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="damaged"):
        once(make_work(run, data), tmp_path / "parts")


def test_the_command_with_two_processes(run: Run, data: Path, tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "two.json"]
    for file, options in zip(files, ([], ["--cpu-ranks", "2"]), strict=True):
        # A batch of 10 is one for which oneDNN takes other kernels with two threads than with one.
        words = ["evaluate", run.path, "--protocol", "144crop", "--precision", "fp32", "--batch-size", "10", "--output", file]
        done = inceptionctl(*words, *options)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("top-1 error") == 1 and "Traceback" not in done.stderr
    one, two = (read_record(file.with_suffix(".parquet")) for file in files)
    assert torch.equal(one.probabilities, two.probabilities) and one.images == two.images
    told = json.loads(files[1].read_text())
    assert told["num_images"] == 24 and told["protocol"] == "144crop" and told["scales"] == [86, 96, 107, 118]
    assert not list(tmp_path.glob(".*"))


def test_processes_whose_command_was_killed_leave(run: Run, data: Path, tmp_path: Path) -> None:
    log, file = tmp_path / "log", tmp_path / "two.json"
    words = ("evaluate", run.path, "--protocol", "144crop", "--cpu-ranks", "2", "--output", file)
    with started(*words, cwd=tmp_path, log=log) as process:
        wait_for(lambda: len(ranks_of(process)) == 2, process, log)
        process.kill()
        process.wait()
        wait_for(lambda: not left_of(process), None, log)
    # What they say depends on who is there first: the launcher ends the other, with SIGKILL after 30 seconds on a busy machine.
    assert not file.exists() and "Traceback" not in log.read_text()
