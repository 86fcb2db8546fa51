import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from snowmelt import sources
from snowmelt.errors import UserError
from snowmelt.sources import (
    Paired,
    Pictures,
    check_pairs,
    choose,
    find_shift,
    open_pictures,
    pair,
    split_pairs,
    split_pictures,
)

from .conftest import data_folder


def random_pictures(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def save(path: Path, array: NDArray[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def texture(height: int = 128, width: int = 128) -> NDArray[np.float32]:
    """A picture with edges at all scales."""
    random = np.random.default_rng(5)
    picture = np.zeros((height, width))
    for side in (4, 8, 16, 32):
        blocks = random.random((height // side + 1, width // side + 1))
        picture += np.kron(blocks, np.ones((side, side)))[:height, :width]
    return ((picture - picture.min()) / np.ptp(picture)).astype(np.float32)


def floats(*pictures: NDArray[Any], names: tuple[str, ...] = ()) -> Pictures:
    names = names or tuple(f"{place}.tif" for place in range(len(pictures)))
    return Pictures(names, names, tuple(p[..., None] for p in pictures), (0.0, 1.0))


# --- reading


def test_a_folder_is_all_images_below_it_in_order(tmp_path: Path) -> None:
    arrays = {name: random_pictures(9, 7, 3, seed=i) for i, name in enumerate(["b", "a", "sub/c"])}
    for name, array in arrays.items():
        save(tmp_path / f"{name}.png", array)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("nor this")
    found = open_pictures([str(tmp_path)])
    assert found.names == ("a.png", "b.png", "sub/c.png")
    assert (found.channels, found.value_range, found.shapes[0]) == (3, (0.0, 255.0), (9, 7))
    expected = arrays["b"][2:5, 1:4].astype(np.float32) / 255
    np.testing.assert_allclose(found.crop(1, slice(2, 5), slice(1, 4)), expected, rtol=1e-6)
    pattern = open_pictures([str(tmp_path / "**" / "*.png")])
    assert sorted(pattern.names) == ["a.png", "b.png", "sub/c.png"]


def test_stacks_of_every_kind_give_their_planes(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 40000, (4, 12, 10), np.uint16)
    tifffile.imwrite(tmp_path / "s.tif", stack, photometric="minisblack", metadata={"axes": "ZYX"})
    np.save(tmp_path / "s.npy", stack)
    with h5py.File(tmp_path / "s.h5", "w") as file:
        file["group/noisy"] = stack
    for text, name in (
        ("s.tif", "s.tif"),
        ("s.npy", "s.npy"),
        ("s.h5:/group/noisy", "s.h5:/group/noisy"),
    ):
        found = open_pictures([str(tmp_path / text)], axes="ZYX")
        assert found.names == tuple(f"{name}[{plane}]" for plane in range(4))
        assert found.single
        np.testing.assert_allclose(found.whole(2)[..., 0], stack[2] / 65535, rtol=1e-6)


def test_opacity_is_left_out_and_grey_is_grey(tmp_path: Path) -> None:
    array = random_pictures(8, 8, 4)
    save(tmp_path / "a.png", array)
    assert open_pictures([str(tmp_path)]).channels == 3
    grey = open_pictures([str(tmp_path)], grey=True)
    assert grey.channels == 1
    expected = array[..., :3] @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(grey.whole(0)[..., 0], expected, atol=1e-6)


def test_the_range_of_floats_is_theirs(tmp_path: Path) -> None:
    picture = texture(16, 16)
    for name, array, expected in (
        ("within", picture * 0.5 + 0.2, (0.0, 1.0)),
        ("beyond", picture * 900 + 100, (100.0, 1000.0)),
    ):
        np.save(tmp_path / f"{name}.npy", array.astype(np.float32))
        found = open_pictures([str(tmp_path / f"{name}.npy")], axes="YX")
        assert found.value_range == pytest.approx(expected)
    assert found.dtype == np.float32
    with pytest.raises(UserError, match="value range 5 to 5: expected black below white"):
        open_pictures([str(tmp_path / "beyond.npy")], axes="YX", value_range=(5, 5))
    said = open_pictures([str(tmp_path / "beyond.npy")], axes="YX", value_range=(0, 2000))
    np.testing.assert_allclose(said.whole(0)[..., 0], (picture * 900 + 100) / 2000, rtol=1e-5)


def test_sixteen_bits_that_are_hardly_used_have_the_range_that_is(tmp_path: Path) -> None:
    """As cameras of 12 bits and photon counters store them."""
    picture = texture(16, 16)
    for white, expected in ((4095, (100.0, 4095.0)), (40_000, (0.0, 65535.0))):
        array = np.rint(100 + picture * (white - 100)).astype(np.uint16)
        np.save(tmp_path / f"{white}.npy", array)
        found = open_pictures([str(tmp_path / f"{white}.npy")], axes="YX")
        assert found.value_range == expected
        assert found.spans_type == (white == 40_000)


def test_what_does_not_fit_in_memory_is_the_same_from_a_file(tmp_path: Path) -> None:
    for index, side in enumerate((20, 31)):
        save(tmp_path / f"{index}.png", random_pictures(side, 25, 3, seed=index))
    whole, mapped = (open_pictures([str(tmp_path)], memory=limit) for limit in (2**30, 100))
    assert isinstance(mapped.stored[0].base, np.memmap)
    assert not isinstance(whole.stored[0].base, np.memmap)
    assert whole.sha256 == mapped.sha256
    for index in range(2):
        assert np.array_equal(whole.whole(index), mapped.whole(index))


def test_no_room_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**_: Any) -> None:
        raise OSError(28, "No space left on device")

    save(tmp_path / "a.png", random_pictures(20, 25))
    monkeypatch.setattr(sources.tempfile, "TemporaryFile", full)
    with pytest.raises(UserError, match=r"No space left on device.*TMPDIR"):
        open_pictures([str(tmp_path)], memory=100)


def test_the_hash_tells_pixels_and_order() -> None:
    one, two = random_pictures(8, 9), random_pictures(8, 9, seed=1)
    first = Pictures(("a", "b"), ("a", "b"), (one[..., None], two[..., None]), (0, 255))
    assert first.sha256 == Pictures(("x", "y"), ("x", "y"), first.stored, (0, 255)).sha256
    assert first.sha256 != first.select([1, 0]).sha256
    assert first.sha256 != first.rows(slice(0, 7)).sha256


def test_what_does_not_go_together_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a.png", random_pictures(8, 8))
    save(tmp_path / "b.png", random_pictures(8, 8, 3))
    with pytest.raises(UserError, match=r"a.png has 1 channels and b.png has 3.*data.grey=true"):
        open_pictures([str(tmp_path)])
    assert open_pictures([str(tmp_path)], grey=True).channels == 1
    np.save(tmp_path / "c.npy", np.zeros((8, 8), np.float32))
    with pytest.raises(UserError, match=r"a.png is uint8 and c.npy is float32"):
        open_pictures([str(tmp_path / "a.png"), str(tmp_path / "c.npy")], axes="YX")
    with pytest.raises(UserError, match="no images there; known kinds"):
        open_pictures([str(tmp_path / "*.jpg")])
    np.save(tmp_path / "d.npy", np.full((8, 8), np.nan, np.float32))
    with pytest.raises(UserError, match=r"not finite \(NaN or infinite\) in d.npy"):
        open_pictures([str(tmp_path / "d.npy")], axes="YX")


# --- pairs


def named(*names: str, single: bool = False) -> Pictures:
    arrays = tuple(random_pictures(8, 8, 1, seed=seed) for seed, _ in enumerate(names))
    keys = tuple(re.sub(r"\.[^.\[]+", "", name) for name in names)
    return Pictures(names, keys, arrays, (0, 255), single=single)


@pytest.mark.parametrize(
    ("noisy", "target"),
    [
        (("b.png", "a.png"), ("a.tif", "b.tif")),
        (("x/b.png", "x/a.png"), ("x/a.png", "x/b.png")),
        (("b_noisy.png", "a_noisy.png"), ("a_clean.png", "b_clean.png")),
        (("b_noisy.tif[0]", "a_noisy.tif[0]"), ("a_clean.tif[0]", "b_clean.tif[0]")),
        (("c 2_real.JPG", "c 1_real.JPG"), ("c 1_mean.JPG", "c 2_mean.JPG")),
    ],
)
def test_pairs_are_of_one_name(noisy: tuple[str, ...], target: tuple[str, ...]) -> None:
    found = pair(named(*noisy), named(*target))
    assert found.target.names == (target[1], target[0])


def test_planes_of_two_stacks_are_paired_in_order() -> None:
    one, two = (
        named("n.tif[0]", "n.tif[1]", single=True),
        named("c.h5:/x[0]", "c.h5:/x[1]", single=True),
    )
    assert pair(one, two).target.names == two.names
    with pytest.raises(
        UserError, match=r"n.tif\[0\] is one of 2 pictures and c.h5:/x\[0\] one of 1"
    ):
        pair(one, two.select([0]))


def test_pictures_without_a_partner_are_all_listed() -> None:
    with pytest.raises(UserError) as raised:
        pair(named("a_1.png", "b_2.png"), named("a_1.png", "c_3.png"))
    assert "2 have no partner" in str(raised.value)
    assert "b_2.png: no target" in str(raised.value)
    assert "c_3.png: nothing noisy" in str(raised.value)
    with pytest.raises(UserError, match="several pictures are called a"):
        pair(named("a.png", "a.tif"), named("a.png"))


def test_pairs_that_do_not_fit_are_all_listed() -> None:
    clean = texture()
    noise = np.random.default_rng(0).normal(0, 0.05, clean.shape).astype(np.float32)
    good, black = clean + noise, np.zeros_like(clean)
    rows = [
        (good, clean, None),
        (good[:64], clean, "sizes 64 x 128 and 128 x 128"),
        (clean, clean, "the same picture"),
        (good, black, "the second has one value everywhere"),
        (black, clean, "the first has one value everywhere"),
        (clean, good, "swapped?"),
        (good, np.roll(clean, (2, -1), (0, 1)), "shifted by 2 rows and -1 columns"),
    ]
    paired = Paired(floats(*(row[0] for row in rows)), floats(*(row[1] for row in rows)))
    with pytest.raises(UserError) as raised:
        check_pairs(paired, target_is_clean=True)
    said = str(raised.value).splitlines()
    assert said[0] == "6 of 7 pairs do not fit:"
    assert said[-1].endswith("--set data.check=false")
    for line, (index, (_, _, fault)) in zip(said[1:-1], list(enumerate(rows))[1:], strict=True):
        assert line.startswith(f"  {index}.tif, {index}.tif: ")
        assert fault in line
    with pytest.raises(UserError, match="1 of 7 pairs do not fit"):
        check_pairs(paired, target_is_clean=True, sizes_only=True)
    twins = Paired(floats(good), floats(clean + noise[::-1]))
    check_pairs(twins, target_is_clean=False)


@pytest.mark.parametrize("shift", [(1, 0), (0, -1), (3, 5), (-2, 1)])
@pytest.mark.parametrize("sigma", [0.02, 0.1])
def test_shifts_are_found_under_noise(shift: tuple[int, int], sigma: float) -> None:
    clean = texture(160, 160)
    random = np.random.default_rng(1)
    noisy = clean + random.normal(0, sigma, clean.shape).astype(np.float32)
    moved = np.roll(clean, shift, (0, 1))
    y, x = slice(10, 150), slice(10, 150)
    assert find_shift(noisy[y, x], clean[y, x]) is None
    assert find_shift(noisy[y, x], moved[y, x]) == shift


def test_pictures_that_have_nothing_in_common_are_not_shifted() -> None:
    """Their highest peak is somewhere, as chance has it."""
    for seed in range(5):
        one, other = (random_pictures(96, 96, seed=n).astype(float) for n in (seed, seed + 50))
        assert find_shift(one, other) is None


def test_a_shift_counts_only_where_it_is_clearly_stronger_than_none() -> None:
    """Two shifts at once: peaks are about as their shares."""
    clean = texture(128, 128)
    moved = np.roll(clean, (5, 7), (0, 1))
    for share, found in ((0.515, None), (0.6, (5, 7))):
        assert find_shift(clean, share * moved + (1 - share) * clean) == found


def test_no_false_alarm_and_no_miss_on_real_pairs() -> None:
    """Cameras (PolyU) and microscopes (FMD); the same pairs with the clean one moved by a pixel."""
    folder = data_folder()
    polyu = pair(
        open_pictures([str(folder / "polyu" / "*_real.JPG")]),
        open_pictures([str(folder / "polyu" / "*_mean.JPG")]),
    ).select(range(0, 100, 9))
    fmd = pair(
        open_pictures([str(folder / "fmd/noisy")]), open_pictures([str(folder / "fmd/clean")])
    )
    for paired in (polyu, fmd):
        check_pairs(paired, target_is_clean=True)
        found = [
            find_shift(paired.noisy.whole(i).mean(2)[:-1], paired.target.whole(i).mean(2)[1:])
            for i in range(len(paired.noisy))
        ]
        assert sum(each == (-1, 0) for each in found) >= 0.75 * len(found), found
        assert all(each in ((-1, 0), None) for each in found)


# --- what is held out


def test_scenes_stay_together() -> None:
    names = [f"{scene}_{take}.png" for scene in "abcdefgh" for take in range(3)]
    chosen = choose(names, held_out=0.25, seed=0)
    scenes = {names[place][0] for place in chosen}
    assert len(chosen) == 6
    assert len(scenes) == 2
    assert chosen == choose(names, held_out=0.25, seed=0)
    assert any(choose(names, held_out=0.25, seed=seed) != chosen for seed in range(1, 5))


def test_photos_with_numbers_for_names_are_chosen_one_by_one() -> None:
    names = [f"{number}.jpg" for number in range(100000, 100040)]
    chosen = choose(names, held_out=0.1, seed=3)
    assert len(chosen) == 4
    assert chosen != list(range(36, 40))


def test_of_a_series_the_end_is_held_out() -> None:
    assert choose([f"s.tif[{i}]" for i in range(20)], held_out=0.1, seed=0) == [18, 19]
    assert choose([f"frame_{i}.png" for i in range(20)], held_out=0.2, seed=0) == [16, 17, 18, 19]
    assert choose(["a.png", "b.png"], held_out=0.9, seed=0) == [1]  # one stays to learn from


def test_of_several_stacks_the_end_of_each_is_held_out() -> None:
    names = [f"{stack}.tif[{plane}]" for stack in "abcd" for plane in range(5)]
    chosen = choose(names, held_out=0.4, seed=0)
    assert [names[place] for place in chosen] == [f"{s}.tif[{p}]" for s in "abcd" for p in (3, 4)]
    mixed = ["a.tif[0]", "a.tif[1]", "alone.png"]
    assert choose(mixed, held_out=0.9, seed=0) == [1]
    photos = [f"{letter}.png" for letter in "abcdefgh"]
    both = choose(["s.h5:/x[0]", "s.h5:/x[1]", *photos], held_out=0.25, seed=0)
    assert both[0] == 1
    assert len(both) == 3


def test_of_a_single_picture_the_lowest_rows_are_held_out() -> None:
    picture = texture(50, 40)
    train, test = split_pictures(floats(picture), held_out=0.2, seed=0)
    np.testing.assert_array_equal(train.whole(0)[..., 0], picture[:40])
    np.testing.assert_array_equal(test.whole(0)[..., 0], picture[40:])
    train, test = split_pairs(Paired(floats(picture), floats(picture + 1)), held_out=0.2, seed=0)
    np.testing.assert_array_equal(test.target.whole(0)[..., 0], picture[40:] + 1)
    with pytest.raises(UserError, match="1 rows cannot be parted"):
        split_pictures(floats(picture[:1]), held_out=0.2, seed=0)


def test_nothing_is_both_learnt_from_and_tested_on() -> None:
    pictures = named(*(f"{i}.png" for i in range(12)))
    train, test = split_pictures(pictures, held_out=0.25, seed=1)
    assert len(test) == 3
    assert sorted(train.names + test.names) == sorted(pictures.names)
