import json
import resource
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from inceptionctl import console, doctor, smoke_tests
from inceptionctl.cli import app
from inceptionctl.cores import cgroup_cores
from inceptionctl.doctor import Diagnosis
from inceptionctl.errors import EnvironmentFault


@pytest.fixture(scope="module")
def report() -> tuple[int, dict[str, Any]]:
    """The real thing, once: DALI decodes and DeepSpeed takes a step."""
    result = CliRunner().invoke(app, ["doctor", "--json"])
    return result.exit_code, json.loads(result.stdout)


def by_name(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in report["findings"]}


def test_dali_and_deepspeed_really_run(report: tuple[int, dict[str, Any]]) -> None:
    found = by_name(report[1])
    assert found["dali runs"]["state"] == "ok", found["dali runs"]
    assert "decoded a JPEG on the CPU" in found["dali runs"]["found"]
    assert found["deepspeed runs"]["state"] == "ok", found["deepspeed runs"]
    assert "took a step" in found["deepspeed runs"]["found"]


def test_report_is_whole(report: tuple[int, dict[str, Any]]) -> None:
    code, content = report
    found = by_name(content)
    assert code == (0 if content["ok"] else 4)
    assert content["ok"] == all(item["state"] != "fail" for item in content["findings"])
    assert all(item["hint"] for item in content["findings"] if item["state"] != "ok")
    assert all(item["hint"] is None for item in content["findings"] if item["state"] == "ok")
    expected = [
        "python",
        "inceptionctl",
        "pipelines",
        "cpu",
        "precision",
        "train.channels_last",
        "train.compile",
        "disk",
        "shared memory",
        "open files",
        "loopback",
    ]
    assert [name for name in found if name in expected] == expected
    assert any(name.startswith("gpu") for name in found)


def test_every_package_of_pyproject_is_looked_at(report: tuple[int, dict[str, Any]]) -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [line.partition(">")[0] for line in project["dependencies"]]
    found = by_name(report[1])
    assert {name: found[name]["state"] for name in names} == dict.fromkeys(names, "ok")


@pytest.mark.gpu
def test_gpu_is_found(report: tuple[int, dict[str, Any]]) -> None:
    found = by_name(report[1])
    assert "driver" in found["gpu 0"]["found"]
    assert found["nccl"]["state"] == "ok"
    assert "whole images (data.decode: mixed): as on the CPU" in found["gpu decoding"]["found"]
    assert "CUDA took a step over nccl" in found["deepspeed runs"]["found"]


def test_table_has_a_hint_for_every_trouble_and_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    def troubled() -> list[Diagnosis]:
        return [
            Diagnosis("fine", "ok", "as it should be"),
            Diagnosis(
                "slow", "warn", "[half] of it", "a command that is rather long, so that a table of eighty columns would fold it"
            ),
            Diagnosis("gone", "fail", "nothing there", "fetch it"),
        ]

    def broken() -> list[Diagnosis]:
        raise RuntimeError("the reason\nand a page of addresses")

    monkeypatch.setattr(doctor, "CHECKS", (troubled, broken))
    monkeypatch.setattr(console.out, "_force_terminal", True)
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 4
    assert "warn: slow: [half] of it\nhint: a command that is rather long, " in result.stdout
    assert "so that a table of eighty columns would fold it\n" in result.stdout
    assert "fail: gone: nothing there\nhint: fetch it\n" in result.stdout
    assert "RuntimeError: the reason" in result.stdout
    assert "addresses" not in result.stdout
    assert "Traceback" not in result.output
    assert "\x1b" not in result.stdout
    assert "fail: fine" not in result.stdout
    assert result.stderr == "error: 2 checks fail: gone, broken\n"


def test_all_fine_exits_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda: [Diagnosis("slow", "warn", "a little", "hurry")],))
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("2.13.0+cpu", ">=2.11", True),
        ("2.9.1", ">=2.11", False),
        ("2.11", ">=2.11.0", True),
        ("0.20.0", ">=0.19.8,<0.20", False),
        ("0.19.12", "<0.20,>=0.19.8", True),
        ("3.14.0rc1", "<3.14,>=3.11", False),
        ("3.11.7", "<3.14,>=3.11", True),
        ("7", "", True),
    ],
)
def test_versions(version: str, wanted: str, fits: bool) -> None:
    assert doctor._meets(version, wanted) is fits


def test_missing_and_old_packages_fail() -> None:
    missing, old = doctor._package("no-such-package", ">=1"), doctor._package("rich", ">=999")
    assert (missing.state, missing.found, missing.hint) == (
        "fail",
        "not installed; needed: >=1",
        "pip install 'no-such-package>=1'",
    )
    assert old.state == "fail"
    assert old.found.endswith("needed: >=999")


def test_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_own_requirements", dict)
    assert [(item.name, item.state) for item in doctor.packages()] == [("inceptionctl", "warn")]
    assert doctor.python()[0].state == "ok"


def write_module(folder: Path, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "import sys; print('noise'); sys.stderr.write('warming up\\n'); raise ImportError('libx.so.1: cannot open shared object')",
            "ImportError: libx.so.1: cannot open shared object",
        ),
        ("raise RuntimeError('no kernel image\\nframe #0: 0x7f00')", "RuntimeError: no kernel image"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV"),
        ("import os; os._exit(3)", "exit code 3 without a word"),
        (
            "from inceptionctl.errors import EnvironmentFault; raise EnvironmentFault('worded', 'do this')",
            "worded",
        ),
    ],
)
def test_library_that_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, found: str) -> None:
    write_module(tmp_path, "torch", text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    [finding] = doctor.deepspeed()
    assert (finding.name, finding.state, finding.found) == ("deepspeed runs", "fail", found)
    assert finding.hint == "do this" if found == "worded" else "-m inceptionctl.smoke_tests deepspeed" in str(finding.hint)


def test_library_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The grandchild holds the pipe open: ending the child alone would leave the doctor waiting for it.
    write_module(tmp_path, "torch", "import subprocess; subprocess.run(['sleep', '30'])")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(smoke_tests, "SECONDS", 1.0)
    began = time.monotonic()
    [finding] = doctor.dali()
    assert (finding.state, finding.found) == ("fail", "no answer after 1 s")
    assert time.monotonic() - began < 15


def test_wrong_colours_fail() -> None:
    smoke_tests._compare(((202, 58, 30), (20, 79, 179)))
    with pytest.raises(EnvironmentFault, match="decoded the colours"):
        smoke_tests._compare(((30, 60, 200), (180, 80, 20)))


def test_image_that_does_not_decode_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_tests, "JPEG", smoke_tests.JPEG[:150])
    with pytest.raises(EnvironmentFault, match="does not decode a sound JPEG") as raised:
        smoke_tests.dali_once()
    assert raised.value.hint == smoke_tests.ANEW


def test_without_a_gpu_none_is_tried(report: tuple[int, dict[str, Any]]) -> None:
    found = by_name(report[1])
    assert ("gpu" not in found) or found["gpu decoding"]["found"] == "no GPU: images are decoded on the CPU"


def test_both_ways_of_decoding_are_tried() -> None:
    # What is done on a GPU, by the CPU's decoder.
    [finding] = doctor.gpu_decoding("cpu")
    same = "as on the CPU, at most 0 of 255 levels apart"
    assert finding == Diagnosis(
        "gpu decoding", "ok", f"whole images (data.decode: mixed): {same}; crops alone (mixed_roi): {same}"
    )


CRASHES = """
import os, signal
from pipelines import decoding

def dies(*args, **options):
    os.kill(os.getpid(), signal.SIGSEGV)

for name in os.environ["DIES"].split():
    setattr(decoding, name, dies)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dies", "state", "said", "hint"),
    [
        ("part_of_image", "ok", "whole images (data.decode: mixed): as on", None),
        (
            "whole_image",
            "fail",
            "mixed): ended by SIGSEGV; crops alone (mixed_roi): as on",
            "set data.decode to mixed_roi or cpu",
        ),
        ("part_of_image whole_image", "fail", "mixed): ended by SIGSEGV; crops", "set data.decode to cpu"),
    ],
)
def test_a_decoder_that_crashes_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str, state: str, said: str, hint: str | None
) -> None:
    write_module(tmp_path, "sitecustomize", CRASHES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(__file__).parents[2]}")
    monkeypatch.setenv("DIES", dies)
    [finding] = doctor.gpu_decoding("cpu")
    assert (finding.state, finding.hint) == (state, hint)
    assert said in finding.found
    assert ("(mixed_roi): ended by SIGSEGV" in finding.found) == ("part_of_image" in dies)


def test_other_pixels_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = iter((0.0, 0.1))
    monkeypatch.setattr(smoke_tests, "_under_load", lambda *_: torch.full((2, 3, 4, 4), next(levels)))
    with pytest.raises(EnvironmentFault, match=r"other pixels than the CPU's: 12\.8 of 255 levels") as raised:
        smoke_tests.decoding_once("cpu", "whole")
    assert raised.value.hint == "set data.decode to cpu"


def test_foreign_pipelines_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [item.state for item in doctor.own_pipelines()] == ["ok"]
    write_module(tmp_path, "pipelines", "")
    monkeypatch.delitem(sys.modules, "pipelines", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    [finding] = doctor.own_pipelines()
    assert finding.state == "fail"
    assert str(tmp_path) in finding.found
    assert str(tmp_path) in str(finding.hint)


@pytest.mark.parametrize(
    ("files", "membership", "cores"),
    [
        ({"job/step/cpu.max": "max 100000", "job/cpu.max": "150000 100000"}, "0::/job/step", 1.5),
        ({"job/step/cpu.max": "150000 100000", "job/cpu.max": "800000 100000"}, "0::/job/step", 1.5),
        ({"cpu.max": "400000 100000"}, "0::/inside/a/container", 4.0),
        ({"cpu.max": "max 100000"}, "0::/", None),
        ({"cpu/a/cpu.cfs_quota_us": "200000", "cpu/a/cpu.cfs_period_us": "100000"}, "3:cpu,cpuacct:/a\n0::/", 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, "3:cpu:/", None),
        ({"cpu.max": "garbage"}, "0::/", None),
        ({}, "5:cpuset:/", None),
    ],
)
def test_cgroup_cores(tmp_path: Path, files: dict[str, str], membership: str, cores: float | None) -> None:
    for name, text in files.items():
        path = tmp_path / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    (tmp_path / "cgroup").write_text(membership + "\n", encoding="utf-8")
    assert cgroup_cores(tmp_path / "cgroup", tmp_path / "mount") == cores


def test_less_time_than_cores_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cgroup_cores", lambda *_: 0.5)
    [finding] = doctor.cpu()
    assert finding.state == "warn"
    assert "taskset -c 0-0" in str(finding.hint)
    monkeypatch.setattr(doctor, "cgroup_cores", lambda *_: 4096.0)
    assert doctor.cpu()[0].state == "ok"


@pytest.fixture
def few_files() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.usefixtures("few_files")
def test_few_open_files_are_warned_of() -> None:
    [finding] = doctor.open_files()
    assert (finding.state, finding.found) == ("warn", "up to 512")


def test_little_room_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(doctor, "FREE_DISK_BYTES", float("inf"))
    monkeypatch.setattr(doctor, "SHARED_MEMORY_BYTES", float("inf"))
    [disk], [shared] = doctor.disk(), doctor.shared_memory()
    assert (disk.state, shared.state) == ("warn", "warn")
    assert disk.found.endswith(str(tmp_path))
    assert "--shm-size" in str(shared.hint)
    (tmp_path / "runs").mkdir()
    assert next(doctor.disk()).found.endswith(str(tmp_path / "runs"))


def test_loopback_that_is_down_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise OSError(99, "Cannot assign requested address")

    monkeypatch.setattr(doctor, "free_port", refuse)
    assert next(doctor.loopback()).state == "fail"


@pytest.mark.parametrize(
    ("driver", "built_for", "visible", "state", "word"),
    [
        (None, None, None, "ok", "training runs on the CPU"),
        ("580.65.06", None, None, "fail", "built without CUDA"),
        ("470.57", "13.0", "0", "fail", "cannot use it"),
        ("580.65.06", "13.0", "", "warn", "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_no_gpu(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, built_for: str | None, visible: str | None, state: str, word: str
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    finding = doctor._no_gpu(driver, "2.13.0", built_for)
    assert (finding.state, word in finding.found) == (state, True)


def test_gpus_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    # Stands in for two cards, the second of them taken: what real ones answer is in test_gpu_is_found.
    import torch

    about = SimpleNamespace(name="Card", major=9, minor=0)
    monkeypatch.setattr(doctor, "_driver", lambda: "580.65.06")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (80e9 if index == 0 else 1e9, 85e9))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 28, 3))
    first, second, nccl = doctor.gpus()
    assert (first.name, first.state) == ("gpu 0", "ok")
    assert first.found == "Card, 80.0 GB of 85.0 GB free, capability 9.0, driver 580.65.06"
    assert (second.state, "nvidia-smi" in str(second.hint)) == ("warn", True)
    assert (nccl.name, nccl.found) == ("nccl", "2.28.3")
