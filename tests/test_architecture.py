"""The import table of docs/architecture.md, held: who may import whom, and what must not be imported before it is needed."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted([*(ROOT / "inceptionctl").rglob("*.py"), *(ROOT / "pipelines").rglob("*.py")])

# Part -> parts of inceptionctl that it may import. A part is a subpackage or a module at the top. None of the engine imports stages or cli.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "words": set(),
    "console": {"errors"},
    "cores": set(),
    "stderr_capture": set(),
    "nearby": set(),
    "home": {"errors"},
    "streams": {"errors"},
    "gpu_faults": {"errors"},
    "jit": {"errors"},
    "storage": {"errors"},
    "models": {"errors"},
    "protocols": {"errors"},
    "section": set(),
    "published": {"errors"},
    "augmentations": {"section"},
    "recipe": {"errors", "protocols", "nearby", "words", "models", "section", "augmentations", "data"},
    "run": {"errors", "nearby", "recipe", "storage"},
    "distributed": {"errors", "cores", "console", "gpu_faults"},
    "data": {
        "errors",
        "storage",
        "protocols",
        "nearby",
        "words",
        "pipelines",
        "cores",
        "stderr_capture",
        "jit",
        "augmentations",
    },
    "train": {
        *("errors", "nearby", "console", "words", "models", "published", "recipe", "run", "distributed", "data", "storage"),
        *("cores", "jit", "gpu_faults"),
    },
    "evaluate": {
        "errors",
        "protocols",
        "nearby",
        "console",
        "words",
        "models",
        "recipe",
        "run",
        "data",
        "train",
        "distributed",
        "cores",
        "storage",
    },
    "export": {
        *(
            "errors",
            "console",
            "words",
            "models",
            "recipe",
            "run",
            "data",
            "train",
            "evaluate",
            "cores",
            "weights",
            "stderr_capture",
            "storage",
        )
    },
    "weights": {"errors", "published", "nearby", "models", "recipe", "run", "train", "storage"},
    "report": {
        *("errors", "storage", "protocols", "words", "run", "run_contents", "evaluate", "models", "recipe", "section", "train")
    },
    "study": {"errors", "storage", "words", "recipe", "run", "run_contents", "report", "train", "evaluate"},
    # A step is measured in the real loop, which has ranks and a run directory; which network of timm is ours, the weights' table says.
    "bench": {
        "errors",
        "protocols",
        "words",
        "cores",
        "data",
        "recipe",
        "train",
        "evaluate",
        "models",
        "distributed",
        "run",
        "weights",
    },
    # What a plan counts is the training's: how it shares a batch, averages statistics, and DeepSpeed's buckets.
    "scaling": {"errors", "words", "recipe", "models", "train"},
    "smoke_tests": {"errors", "distributed", "train", "data", "pipelines", "recipe", "evaluate"},
    "doctor": {"errors", "distributed", "train", "data", "console", "run", "cores", "smoke_tests", "pipelines"},
    "run_contents": {"errors", "words", "recipe", "run", "train"},
    "pipelines": set(),
}
# What each command does: anything of the engine, and each other, nothing of the command line.
MAY_IMPORT["stages"] = set(MAY_IMPORT)
MAY_IMPORT["cli"] = set(MAY_IMPORT)
ONLY_IMPORTER = {
    "deepspeed": {"inceptionctl/distributed/process_group.py"},
    "nvidia": {
        "pipelines",
        "inceptionctl/augmentations",
        "inceptionctl/data",
        "inceptionctl/doctor.py",
        "inceptionctl/smoke_tests.py",
    },
    "typer": {"inceptionctl/cli"},
    # It takes seconds to import, prints, and shares no process with torch: a child process of its own.
    "tensorflow": {"inceptionctl/weights/tf_process.py"},
    # Compiles when it is asked to, for training on a CPU alone; its import bears one thread at a time.
    "numba": {"inceptionctl/jit.py"},
    "openvino": {"inceptionctl/export/openvino_check.py"},
    "wandb": {"inceptionctl/train/trackers.py"},
    "mlflow": {"inceptionctl/train/trackers.py"},
    "timm": {"inceptionctl/models/timm_network.py", "inceptionctl/train/optim.py", "inceptionctl/bench/timm_step.py"},
}
HEAVY = {
    "torch",
    "nvidia",
    "deepspeed",
    "onnx",
    "onnxruntime",
    "numpy",
    "numba",
    "pydantic",
    "yaml",
    "matplotlib",
    "pyarrow",
    "safetensors",
    "timm",
    "tensorflow",
    "openvino",
    "wandb",
    "mlflow",
}


def part_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] if parts[0] == "pipelines" else parts[1]


def imports(path: Path, *, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_table(path: Path) -> None:
    part = part_of(path)
    assert part in MAY_IMPORT or part in {"__init__", "__main__"}
    for name in imports(path):
        first, *rest = name.split(".")
        for package, importers in ONLY_IMPORTER.items():
            if first == package:
                place = str(path.relative_to(ROOT))
                assert any(place == allowed or place.startswith(f"{allowed}/") for allowed in importers), (
                    f"{place} imports {name}"
                )
        target = first if first == "pipelines" else rest[0] if first == "inceptionctl" and rest else None
        if target in MAY_IMPORT and part in MAY_IMPORT and target != part:
            assert target in MAY_IMPORT[part], f"{part} imports {name}"


# Subpackages of data/, and what of data/ each may import; the modules beside them import nothing of the audit.
SUBPACKAGES_OF_DATA = {
    "sources": {"sources", "imageset", "reasons"},
    "audit": {"audit", "sources", "dataset", "imageset", "reasons", "graphs", "machine_faults"},
}


@pytest.mark.parametrize("path", sorted((ROOT / "inceptionctl/data").rglob("*.py")), ids=lambda path: path.stem)
def test_subpackages_of_data_make_no_circle(path: Path) -> None:
    room = path.parent.name
    for name in imports(path):
        if name.startswith("inceptionctl.data."):
            target = name.split(".")[2]
            assert target in SUBPACKAGES_OF_DATA[room] if room in SUBPACKAGES_OF_DATA else target != "audit", (
                f"{path} imports {name}"
            )


def test_no_two_parts_import_each_other_however_long_the_way() -> None:
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError, which names the circle
    assert order.index("errors") < order.index("train") < order.index("evaluate") < order.index("export")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_line_imports_nothing_heavy_at_module_level(path: Path) -> None:
    if part_of(path) in {"cli", "stages", "cores", "errors", "console", "__init__", "__main__"}:
        heavy = {name for name in imports(path, top_level_only=True) if name.split(".")[0] in HEAVY}
        assert not heavy


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_one_room(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.name != "utils.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if (node.end_lineno or 0) - node.lineno >= 80] == []


def test_help_loads_no_heavy_package() -> None:
    code = "import sys; from inceptionctl.cli import app; print(sorted(set(sys.modules) & %r))" % HEAVY  # noqa: UP031
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_no_file_reads_pickles() -> None:
    forbidden = ("import pickle", "pickle.load", "torch.load(", "yaml.load(", "yaml.unsafe_load", "eval(")
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not [
            word for word in forbidden if word in text and f"# allowed: {word}" not in text and f".{word}" not in text
        ], path
