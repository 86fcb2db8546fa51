from typing import Any

import pytest
import torch

from snowmelt import calibration, recipe
from snowmelt.errors import UserError
from snowmelt.models import (
    BLOCKS,
    MODELS,
    Network,
    RecipeCNN,
    UNet,
    build,
    count_parameters,
    pruned,
    summary,
    with_blocks,
    with_channels,
    with_widths,
)
from snowmelt.samples import Batch


def test_the_tutorial_network_has_2737_parameters() -> None:
    assert count_parameters(RecipeCNN()) == 2737


def test_the_summary_is_the_tutorials() -> None:
    lines = summary(RecipeCNN(), 128, 96).splitlines()
    assert [int(line.split()[-1].replace(",", "")) for line in lines[2:]] == [
        80, 1168, 1160, 292, 37, 2737,
    ]  # fmt: skip
    assert "(None, 16, 128, 96)" in lines[3]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"widths": [3], "kernel_size": 1},
        {"widths": [4, 5], "kernel_size": [3, 5, 7], "activation": ["relu", "sigmoid"]},
        {"widths": [2], "channels": 3, "output_activation": "sigmoid"},
    ],
)
def test_shape_gradients_and_reach(config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build("recipe-cnn", config)
    for layer in network.layers:
        torch.nn.init.constant_(layer.bias, 2)  # keeps every ReLU alive
    image = torch.rand(1, network.config["channels"], 31, 29, requires_grad=True)
    output = network(image)
    assert output.shape == image.shape
    output.sum().backward()
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in network.parameters()
    )
    # a pixel sees a square of side 2 reach + 1, the whole of it and nothing beyond it
    image.grad = None
    network(image)[0, 0, 15, 14].backward()
    assert image.grad is not None
    rows, columns = image.grad.abs().sum((0, 1)).nonzero(as_tuple=True)
    assert (rows.min(), rows.max()) == (15 - network.reach, 15 + network.reach)
    assert (columns.min(), columns.max()) == (14 - network.reach, 14 + network.reach)


def test_a_network_is_built_again_from_its_config() -> None:
    for name, kind in MODELS.items():
        network = kind()
        again = build(name, network.config)
        again.load_state_dict(network.state_dict())
        image = torch.rand(2, 1, 16, 16)
        inputs = (image, torch.rand(2, 1, 16, 16)) if network.conditioned else (image,)
        assert torch.equal(network(*inputs), again(*inputs))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"widths": []}, "one or more layers"),
        ({"widths": [8, 0]}, r"widths \[8, 0\].*--widths 8 16 8 4"),
        ({"kernel_size": 4}, "expected odd numbers"),
        ({"kernel_size": [3, 3]}, "4 hidden layers need 5 kernel sizes"),
        ({"activation": "rleu"}, "'rleu' is unknown; did you mean 'relu'?"),
        ({"channels": 0}, "1 channel or more"),
        ({"depth": 3}, "cannot be built from"),
    ],
)
def test_bad_configurations_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build("recipe-cnn", config)


def test_recipes_know_every_network_and_block() -> None:
    assert (tuple(MODELS), tuple(BLOCKS)) == (recipe.NETWORKS, recipe.BLOCKS)


def test_an_unknown_block_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'separable'"):
        UNet([4, 8], [1, 1], block="seperable")


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'recipe-cnn'"):
        build("recipe-cn", {})


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("blocks", [[1, 1], [2, 1], [1, 2]])
def test_a_u_net_sees_as_far_as_it_promises(block: str, blocks: list[int]) -> None:
    network = UNet([4, 4], blocks, block=block)
    for weights in network.parameters():
        torch.nn.init.constant_(weights, 0.1)  # keeps every ReLU alive
    image = torch.rand(1, 1, 96, 96, requires_grad=True)
    output = network(image, torch.full((1, 1, 96, 96), 0.1))
    farthest = 0
    for place in range(48, 48 + network.multiple):
        (slope,) = torch.autograd.grad(output[0, 0, place, place], image, retain_graph=True)
        seen = slope[0, 0].nonzero()
        farthest = max(farthest, int((seen - place).abs().max()))
    assert network.reach - network.multiple < farthest <= network.reach


@pytest.mark.parametrize("block", BLOCKS)
def test_a_grown_network_begins_as_it_was_and_learns_in_its_new_blocks(block: str) -> None:
    torch.manual_seed(0)
    small = UNet([4, 8], [1, 1], block=block)
    grown = with_blocks(small, [2, 1])
    assert grown.config == small.config | {"blocks": [2, 1]}
    image, level = torch.rand(1, 1, 16, 16), torch.full((1, 1, 16, 16), 0.1)
    assert torch.equal(grown(image, level), small(image, level))
    grown(image, level).square().mean().backward()
    for level_of_blocks in (grown.encoders[0], grown.decoders[0]):
        assert level_of_blocks[1].second.weight.grad.abs().max() > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("block", BLOCKS)
def test_a_widened_network_begins_as_it_was_and_learns_in_its_new_channels(
    block: str, channels: int
) -> None:
    torch.manual_seed(0)
    small = UNet([4, 6, 8], [1, 2, 1], channels, block)
    for weights in small.parameters():
        torch.nn.init.normal_(weights, std=0.2)
    wide = with_widths(small, [6, 6, 12])
    assert wide.config == small.config | {"widths": [6, 6, 12]}
    image, level = torch.rand(1, channels, 32, 32), torch.full((1, 1, 32, 32), 0.1)
    torch.testing.assert_close(wide(image, level), small(image, level), rtol=1e-4, atol=1e-5)
    assert (small(image, level) - image).abs().max() > 0.1  # it is no idle network
    wide(image, level).square().mean().backward()
    assert wide.tail.weight.grad[:, 4:].abs().max() > 0
    assert wide.ups[1].weight.grad[8:, :6].abs().max() > 0  # what the others learn of them


def test_other_channels_begin_as_their_mean_was() -> None:
    torch.manual_seed(0)
    colour = UNet([8, 8], [1, 1], channels=3)
    torch.nn.init.normal_(colour.tail.weight, std=0.5)
    grey = with_channels(colour, 1)
    image, level = torch.rand(2, 1, 8, 8), torch.rand(2, 1, 8, 8)
    expected = colour(image.expand(-1, 3, -1, -1), level * 3**0.5).mean(1, keepdim=True)
    torch.testing.assert_close(grey(image, level), expected)
    assert (grey(image, level) - image).abs().max() > 0.1  # it is no idle network

    image = torch.rand(2, 3, 8, 8)
    mean = image.mean(1, keepdim=True)
    expected = image - mean + grey(mean, level / 3**0.5)
    torch.testing.assert_close(with_channels(grey, 3)(image, level), expected)


def with_dead_channels(block: str) -> UNet:
    """A U-Net of ReLUs that never fire: those of 20 channels of one block, and all of another."""
    torch.manual_seed(0)
    made = UNet([32, 48], [2, 2], block=block).eval()
    for name, weights in made.named_parameters():
        if "second" in name:
            torch.nn.init.kaiming_normal_(weights)
    for place, dead in ((made.encoders[0][1], 20), (made.middle[0], None)):
        place.first.weight.data[:dead] = 0
    return made


def fired(network: UNet) -> dict[str, torch.Tensor]:
    image = torch.rand(1, 1, 32, 32)
    return calibration.largest(network, [Batch(image, image, level=torch.full_like(image, 0.1))])


@pytest.mark.parametrize("block", BLOCKS)
def test_a_pruned_network_gives_the_same_and_grows_again(block: str) -> None:
    whole = with_dead_channels(block)
    thin = pruned(whole, fired(whole))
    wider = BLOCKS[block].wider
    # of 32 or 64 channels 20 are dead: 16 can go; in each of the other blocks none
    assert thin.config["hidden"] == [32 * wider, 32 * wider - 16, 0, 48 * wider] + [32 * wider] * 2
    assert thin.reach == whole.reach - 4 * BLOCKS[block].reach  # a block at a quarter of the size
    image, level = torch.rand(2, 1, 32, 48), torch.rand(2, 1, 32, 48) / 5
    torch.testing.assert_close(thin(image, level), whole(image, level))
    assert (thin(image, level) - image).abs().max() > 0.1  # it is no idle network
    again = pruned(thin, fired(thin))
    assert again is thin

    full = with_blocks(thin, [2, 3])
    assert full.config == whole.config | {"blocks": [2, 3]}
    torch.testing.assert_close(full(image, level), whole(image, level))
    full(image, level).square().mean().backward()
    assert full.middle[0].second.weight.grad.abs().max() > 0  # what is new can learn

    wide = with_widths(thin, [32, 64])
    assert wide.config == whole.config | {"widths": [32, 64]}
    torch.testing.assert_close(wide(image, level), whole(image, level), rtol=1e-4, atol=1e-5)


def test_nothing_is_pruned_where_all_fires() -> None:
    network = UNet([16, 16], [1, 1])
    assert pruned(network, fired(network)) is network
    assert with_blocks(network, [1, 1]).config == network.config


@pytest.mark.parametrize("hidden", [[16, 16], [16, 17, 16], [16, -1, 16]])
def test_channels_inside_blocks_that_cannot_be(hidden: list[int]) -> None:
    with pytest.raises(UserError, match=r"expected as many as, and none over, \[16, 16, 16\]"):
        UNet([16, 16], [1, 1], hidden=hidden)


def test_a_chain_of_convolutions_keeps_its_channels() -> None:
    network = build("recipe-cnn", {})
    assert with_channels(network, 1) is network
    with pytest.raises(UserError, match="takes pictures of 1 channels; these have 3"):
        with_channels(network, 3)


@pytest.mark.parametrize(
    ("network", "blocks", "message"),
    [
        (UNet([4, 8], [2, 1]), [1, 1], r"expected no fewer than its \[2, 1\]"),
        (
            UNet([4, 8], [2, 1]),
            [2, 1, 1],
            r"a number for each level of a U-Net, as in its \[2, 1\]",
        ),
        (build("recipe-cnn", {}), [1], "of a U-Net, as in its none"),
    ],
)
def test_what_does_not_grow(network: Network, blocks: list[int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_blocks(network, blocks)


def test_no_network_loses_channels() -> None:
    with pytest.raises(UserError, match=r"widths \[4, 7\]: expected no fewer than its \[4, 8\]"):
        with_widths(UNet([4, 8], [1, 1]), [4, 7])
    with pytest.raises(UserError, match="of a U-Net, as in its none"):
        with_widths(build("recipe-cnn", {}), [9])
