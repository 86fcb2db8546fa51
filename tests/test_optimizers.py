import pytest
import torch
from torch import nn

from snowmelt import optimizers
from snowmelt.models import RecipeCNN, SeparableBlock, UNet
from snowmelt.optimizers import Muon, averaged, learning_rate, orthogonal
from snowmelt.recipe import Optimizer


def test_the_schedules() -> None:
    assert learning_rate(Optimizer(lr=0.5), 0.9) == 0.5
    cycle = Optimizer(lr=1.0, schedule="one-cycle", warmup=0.25)
    found = [learning_rate(cycle, progress) for progress in (0, 0.125, 0.25, 0.625, 1)]
    assert found == pytest.approx([0, 0.5, 1, 0.5, 0])
    trapezoid = Optimizer(lr=1.0, schedule="trapezoid", warmup=0.25, decay=0.5)
    found = [learning_rate(trapezoid, progress) for progress in (0, 0.125, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0, 0.5, 1, 1, 0.5, 0])


@pytest.mark.parametrize(("rows", "columns"), [(6, 40), (40, 6), (9, 9)])
def test_orthogonal_keeps_the_directions_and_evens_their_sizes(rows: int, columns: int) -> None:
    random = torch.Generator().manual_seed(0)
    # Singular values from 1 to 300; the rate at which small ones grow is 3.4 an iteration.
    matrices = torch.randn(3, rows, columns, generator=random)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    sizes = torch.logspace(0, 2.5, min(rows, columns))
    found = orthogonal(left * sizes @ right)
    assert torch.linalg.svdvals(found).min() > 0.3
    assert torch.linalg.svdvals(found).max() < 1.3
    along = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(
        along.norm(dim=1), found.norm(dim=(1, 2))
    )  # nothing off the diagonal


def test_muon_steps_have_the_size_of_adams() -> None:
    weights = nn.Parameter(torch.zeros(16, 8, 3, 3))
    weights.grad = torch.randn(16, 8, 3, 3, generator=torch.Generator().manual_seed(0)) * 1e-4
    Muon([weights], lr=0.01).step()
    rms = float(weights.detach().square().mean().sqrt())
    assert 0.1 * 0.01 < rms < 0.3 * 0.01  # Adam's are 0.2 to 0.4 of its rate (Liu et al., 2025)
    assert float((weights.detach() * weights.grad).sum()) < 0  # downhill


def test_muon_takes_a_part_of_the_weights_away_before_it_steps() -> None:
    def stepped(weight_decay: float) -> torch.Tensor:
        weights = nn.Parameter(torch.full((4, 6, 3, 3), 2.0))
        weights.grad = torch.randn(4, 6, 3, 3, generator=torch.Generator().manual_seed(0))
        Muon([weights], lr=0.1, weight_decay=weight_decay).step()
        return weights.detach()

    torch.testing.assert_close(stepped(0) - stepped(0.5), torch.full((4, 6, 3, 3), 0.1))


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_recipes_say_how_much_of_the_weights_a_step_takes_away(name: str) -> None:
    network = UNet([8, 16], [1, 1])
    made = optimizers.make(network, Optimizer(name=name, lr=0.1, weight_decay=2.0))
    parts = {group["weight_decay"] for each in made for group in each.param_groups}
    assert parts == ({0, 2.0} if name == "muon" else {2.0})


def test_muon_steps_weights_of_one_shape_as_if_alone() -> None:
    def stepped(count: int, *, bf16: bool) -> list[torch.Tensor]:
        all_weights = [nn.Parameter(torch.ones(4, 6, 1, 1)) for _ in range(2)]
        optimizer = Muon(all_weights[:count], lr=0.1, bf16=bf16)
        for seed in range(3):
            for place, weights in enumerate(all_weights):
                random = torch.Generator().manual_seed(10 * seed + place)
                weights.grad = torch.randn(4, 6, 1, 1, generator=random)
            optimizer.step()
        return [weights.detach() for weights in all_weights]

    together, alone = stepped(2, bf16=False), stepped(1, bf16=False)
    torch.testing.assert_close(together[0], alone[0])
    assert not torch.allclose(together[1], alone[1])
    coarse = stepped(2, bf16=True)[0]
    assert 0 < (coarse - together[0]).abs().max() < 0.02  # of steps of 0.03: a few percent


def test_muon_takes_the_kernels_inside_and_adamw_all_else() -> None:
    network = UNet([8, 16], [1, 1])
    outer, muon = optimizers.make(network, Optimizer(name="muon", lr=1e-3))
    names = {id(weights): name for name, weights in network.named_parameters()}
    outside = {names[id(weights)] for weights in outer.param_groups[0]["params"]}
    inside = {names[id(weights)] for weights in muon.param_groups[0]["params"]}
    assert outside == {"head.weight", "tail.weight"}
    assert inside | outside == set(names.values())
    separable = UNet([8, 16], [1, 1], block="separable")
    _, muon = optimizers.make(separable, Optimizer(name="muon"))
    around = [
        each.around.weight for each in separable.modules() if isinstance(each, SeparableBlock)
    ]
    taken = {id(weights) for weights in muon.param_groups[0]["params"]}
    assert len(around) == 3
    assert not taken & {id(weights) for weights in around}
    assert len(taken) == len(list(separable.parameters())) - 2 - 3
    chain = RecipeCNN()
    outer, muon = optimizers.make(chain, Optimizer(name="muon"))
    counts = [len(each.param_groups[0]["params"]) for each in (outer, muon)]
    assert counts == [7, 3]  # first and last kernel and five biases; three kernels


def test_muon_goes_on_from_its_state() -> None:
    def steps(optimizer: Muon, weights: nn.Parameter, seeds: range) -> None:
        for seed in seeds:
            random = torch.Generator().manual_seed(seed)
            weights.grad = torch.randn(4, 6, generator=random)
            optimizer.step()

    whole = nn.Parameter(torch.zeros(4, 6))
    steps(Muon([whole], lr=0.1), whole, range(6))
    part = nn.Parameter(torch.zeros(4, 6))
    first = Muon([part], lr=0.1)
    steps(first, part, range(3))
    second = Muon([part], lr=0.1)
    second.load_state_dict(first.state_dict())
    steps(second, part, range(3, 6))
    assert torch.equal(whole, part)


def test_the_mean_of_weights_follows_its_formula() -> None:
    layer = nn.Linear(1, 1, bias=False)
    mean = averaged(layer, 0.5)
    expected = 0.0
    for step in range(8):
        nn.init.constant_(layer.weight, step)
        mean.update_parameters(layer)
        keep = min(0.5, (1 + step) / (10 + step)) if step else 0.0  # the first is taken as it is
        expected = keep * expected + (1 - keep) * step
    assert mean.module.weight.item() == pytest.approx(expected)
    assert 6 < expected < 6.5  # about a step behind
