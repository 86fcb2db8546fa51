from pathlib import Path
from typing import Any

import pytest

from snowmelt import recipe
from snowmelt.errors import UserError
from snowmelt.recipe import Recipe, from_dict, read, shipped, to_dict, write


def test_the_shipped_tutorial_is_the_tutorial() -> None:
    assert read("tutorial") == Recipe()
    assert to_dict(Recipe())["optimizer"]["lr"] == 3e-4
    assert to_dict(Recipe())["training"]["epochs"] == 200


def test_every_shipped_recipe_reads_and_says_what_it_is_for() -> None:
    assert {"tutorial", "fast"} <= shipped().keys()
    for name, purpose in shipped().items():
        assert isinstance(read(name), Recipe)
        assert len(purpose) > 20


def test_a_written_recipe_is_complete_and_reads_back(tmp_path: Path) -> None:
    changed = from_dict(
        {
            "network": {"widths": [3, 4]},
            "optimizer": {"lr": 1},
            "pictures": {"photos": ['a "b".png']},
        }
    )
    path = tmp_path / "recipe.toml"
    write(changed, path)
    assert read(str(path)) == changed
    for table, values in to_dict(Recipe()).items():
        for key in values:
            assert f"{key} =" in path.read_text().split(f"[{table}]")[1]


def test_a_recipe_goes_over_another() -> None:
    base = from_dict({"training": {"epochs": 3, "batch": 2}})
    over = from_dict({"training": {"epochs": 5}}, base=base)
    assert (over.training.epochs, over.training.batch) == (5, 2)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"optimiser": {}}, r"no table \[optimiser\]; did you mean 'optimizer'"),
        ({"optimizer": {"lrr": 1.0}}, "optimizer.lrr is unknown; did you mean 'lr'"),
        ({"optimizer": 3}, r"expected a table \[optimizer\]"),
        ({"optimizer": {"lr": "fast"}}, "optimizer.lr = 'fast': expected a number"),
        ({"optimizer": {"lr": 0}}, "expected a number above 0"),
        ({"optimizer": {"lr": float("nan")}}, "expected a number above 0"),
        ({"optimizer": {"name": "adamm"}}, "did you mean 'adam'"),
        ({"optimizer": {"schedule": "onecycle"}}, "did you mean 'one-cycle'"),
        ({"optimizer": {"warmup": 1.0}}, "expected a part of 1"),
        (
            {"data": {"resize": [2.0]}},
            r"data.resize = \[2.0\]: expected the least and the greatest",
        ),
        ({"data": {"resize": [2.0, 0.5]}}, "expected the least and the greatest factor"),
        ({"data": {"resize": [0.0, 2.0]}}, "expected the least and the greatest factor"),
        ({"data": {"resized": 0.0}}, "resized = 0.0: expected a part of 1"),
        ({"training": {"epochs": 0}}, "training.epochs = 0: expected 1 or more"),
        ({"training": {"epochs": 1.5}}, "training.epochs = 1.5: expected a whole number"),
        ({"training": {"epochs": True}}, "expected a whole number"),
        ({"training": {"loss": "mae"}}, "training.loss = 'mae' is unknown; .*known: l1, mse"),
        ({"network": {"widths": [8, "x"]}}, "network.widths = 'x': expected a whole number"),
        ({"network": {"widths": 8}}, "network.widths = 8: expected a list"),
        ({"pictures": {"noise_variance": -1}}, "expected 0 or more"),
        (
            {"optimizer": {"weight_decay": -1.0}},
            r"optimizer.weight_decay = -1.0: expected 0 or more",
        ),
        (
            {"optimizer": {"lr": 0.01, "weight_decay": 100.0}},
            "a step would take all of the weights away",
        ),
    ],
)
def test_bad_values_are_named(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        from_dict(tables)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file nor one that ships; did you mean 'fast'"):
        read("fst")
    (tmp_path / "bad.toml").write_text("[training\nepochs = ")
    with pytest.raises(UserError, match=r"bad.toml: not a TOML file .*line 1"):
        read(str(tmp_path / "bad.toml"))
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read as a recipe"):
        read(str(tmp_path / "bytes.toml"))
    with pytest.raises(UserError, match="cannot be read as a recipe"):
        read(str(tmp_path))


def test_the_module_needs_neither_numpy_nor_torch() -> None:
    import subprocess
    import sys

    code = "import sys, snowmelt.recipe; sys.exit(bool({'numpy', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert recipe.LOSSES
