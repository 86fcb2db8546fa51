"""A module imports only from floors strictly below its own."""

import ast
from pathlib import Path

import snowmelt

ROOT = Path(snowmelt.__file__).parent
FLOORS = [
    {"errors", "files", "limits"},
    {"children", "hdf5file", "saved"},
    {
        "acquisition",
        "images",
        "metrics",
        "noise",
        "outliers",
        "processor",
        "recipe",
        "shapes",
        "tiles",
        "onnxfile",
        "zoo",
    },
    {
        "baselines",
        "data",
        "estimator",
        "finding",
        "footprint",
        "models",
        "optimizers",
        "photos",
        "scores",
    },
    {"board", "cases", "checkpoint", "diagnosis", "export", "figures"},
    {"advice", "defects", "levelnet", "levels", "looks", "modelfile", "scoring", "sources"},
    {"keras_import", "results", "supervision", "trials"},
    {"samples"},
    {"calibration", "ondevice", "recorded", "parallel"},
    {"engines"},
    {"denoiser", "training"},
    {"batch", "budget", "evaluation", "inspection", "report"},
    {"judgement"},
    {"commands"},
    {"cli"},
    {"__main__"},
]


def modules() -> dict[str, list[Path]]:
    """Name of each module or package right below snowmelt, with its files."""
    found: dict[str, list[Path]] = {}
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).parts[0].removesuffix(".py")
        found.setdefault(name, []).append(path)
    del found["__init__"]
    return found


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "snowmelt":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("snowmelt."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            names |= {part[1] for part in parts if part[0] == "snowmelt" and part[1:]}
    return names - {"__version__"}


def test_every_module_stands_on_a_floor() -> None:
    assert set(modules()) == set().union(*FLOORS)


def test_imports_go_down() -> None:
    floor = {name: number for number, names in enumerate(FLOORS) for name in names}
    upward = [
        f"{name} (floor {floor[name]}) imports {other} (floor {floor[other]})"
        for name, paths in modules().items()
        for path in paths
        for other in imports(path) - {name}
        if floor[other] >= floor[name]
    ]
    assert upward == []
