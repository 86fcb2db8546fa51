from pathlib import Path

import pytest

from snowmelt import budget
from snowmelt.budget import ENOUGH_PIXELS, EPOCHS, NETWORKS, Trial, fit, parse
from snowmelt.errors import UserError
from snowmelt.recipe import Recipe, from_dict

from .conftest import write_pairs


def test_times() -> None:
    assert [parse(text) for text in ("90s", "10m", "1.5 h")] == [90, 600, 5400]
    for text in ("10", "m", "-5m", "10min"):
        with pytest.raises(UserError, match="expected a time such as"):
            parse(text)
    with pytest.raises(UserError, match="expected 10 seconds or more"):
        parse("9s")


def fake(monkeypatch: pytest.MonkeyPatch, step_of_first: float) -> None:
    """Smaller networks are three times as fast, each."""

    def tried(recipe: Recipe) -> Trial:
        sizes = [widths for widths, *_ in NETWORKS]
        place = sizes.index(recipe.network.widths) if recipe.network.widths in sizes else 0
        area = (recipe.training.patch or 128) ** 2
        step = step_of_first / 3**place * area / 128**2
        return Trial(step, score=0.5, pixels=8 * area, parameters=1000)

    monkeypatch.setattr(budget, "_try", tried)


@pytest.mark.parametrize(("seconds", "place"), [(600, 0), (60, 1), (30, 2)])
def test_the_largest_network_that_sees_enough(
    seconds: float, place: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, 0.2)
    found, said = fit(Recipe(), seconds)
    network = found.network
    assert (network.widths, network.blocks, network.block) == NETWORKS[place]
    assert network.architecture == "unet"
    steps = found.training.epochs * found.training.steps
    step = 0.2 / 3**place
    assert 0.7 * seconds < steps * step + EPOCHS * 0.5 < seconds
    if place < len(NETWORKS) - 1:
        assert steps * 131_072 >= ENOUGH_PIXELS * 0.9
    assert f"{EPOCHS} epochs of {found.training.steps} steps" in said


@pytest.mark.parametrize(
    ("optimizer", "seconds", "found"),
    [
        ({"name": "muon"}, 600, 0.0),  # separable blocks
        ({"name": "muon"}, 60, 1.0),  # plain ones
        ({"name": "muon", "weight_decay": 0.2}, 60, 0.2),
        ({"name": "adamw"}, 60, 0.0),
    ],
)
def test_a_part_of_the_weights_goes_where_blocks_are_plain(
    optimizer: dict[str, object], seconds: int, found: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, 0.2)
    chosen, _ = fit(from_dict({"optimizer": optimizer}), seconds)
    assert chosen.optimizer.weight_decay == found
    named, _ = fit(from_dict({"optimizer": optimizer}), seconds, free_network=False)
    assert named.optimizer.weight_decay == optimizer.get("weight_decay", 0.0)


@pytest.mark.parametrize(("seconds", "patch"), [(600, 128), (150, 96), (60, 64)])
def test_a_short_time_makes_more_and_smaller_steps(
    seconds: float, patch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, 0.11)
    recipe = from_dict({"training": {"patch": 128}})
    found, said = fit(recipe, seconds, free_network=False)
    assert found.training.patch == patch
    assert f"as small as {patch} pixels" in said


def test_too_short_a_time_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, 100.0)
    with pytest.raises(UserError, match=r"a budget of 60 s is 3 steps of .* expected time for 20"):
        fit(Recipe(), 60)


def test_it_is_measured_on_the_data(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.h5")
    recipe = from_dict({"data": {"source": str(source)}, "training": {"batch": 4, "patch": 32}})
    found, said = fit(recipe, 10)
    assert found.network.widths in [widths for widths, *_ in NETWORKS]
    assert found.training.steps > 5
    assert "4,096 pixels" in said
    kept, _ = fit(recipe, 10, free_network=False)
    assert kept.network == recipe.network
    assert not (tmp_path / "runs").exists()
