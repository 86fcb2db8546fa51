from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from snowmelt import cases, images
from snowmelt.cases import ALONE, PAIR, TAKES, Scale
from snowmelt.errors import UserError
from snowmelt.noise import Gaussian, parse

RNG = np.random.default_rng(0)


def save(folder: Path, **pictures: np.ndarray) -> str:
    folder.mkdir(exist_ok=True)
    for name, pixels in pictures.items():
        images.write(folder / f"{name}.png", pixels)
    return str(folder)


def grey(side: int = 16, dtype: type = np.uint8) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, (side, side + 2)).astype(dtype)


def colour() -> np.ndarray:
    return RNG.integers(0, 255, (12, 14, 3)).astype(np.uint8)


def test_folders_pair_by_name_whatever_the_kind_of_file(tmp_path):
    pixels, truth = {name: grey() for name in "ba"}, {name: grey() for name in "ba"}
    noisy = save(tmp_path / "noisy", **pixels)
    (tmp_path / "clean").mkdir()
    for name, picture in truth.items():
        images.write(tmp_path / "clean" / f"{name}.tif", picture)
    (tmp_path / "clean" / "notes.txt").write_text("not an image")
    found = cases.from_files([noisy, str(tmp_path / "clean")], PAIR)
    assert [case.name for case in found.cases] == ["a", "b"]
    assert found.scale == Scale(0, 255, whole=True)
    for case in found.cases:
        first, second = case.pictures()
        assert first.dtype == np.float32
        np.testing.assert_array_equal(np.rint(first * 255), pixels[case.name])
        np.testing.assert_array_equal(np.rint(second * 255), truth[case.name])


def test_a_star_stands_for_the_name(tmp_path):
    save(tmp_path, x_real=grey(), x_mean=grey(), y_real=grey(), y_mean=grey())
    found = cases.from_files([str(tmp_path / f"*_{end}.png") for end in ("real", "mean")], PAIR)
    assert [case.name for case in found.cases] == ["x", "y"]


def test_folders_below_are_searched_too(tmp_path):
    for scene in ("s1", "s2"):
        save(tmp_path / scene, noisy=grey(), clean=grey())
    found = cases.from_files([str(tmp_path / "*" / f"{end}.png") for end in PAIR], PAIR)
    assert [case.name for case in found.cases] == ["s1", "s2"]
    assert len(cases.from_files([str(tmp_path)], ALONE).cases) == 4


def test_endings_that_all_of_a_folder_share_do_not_count(tmp_path):
    noisy = save(tmp_path / "n", x_1_real=grey(), x_2_real=grey())
    clean = save(tmp_path / "c", x_1_mean=grey(), x_2_mean=grey())
    found = cases.from_files([noisy, clean], PAIR)
    assert [case.name for case in found.cases] == ["x_1", "x_2"]
    save(tmp_path / "c", x_3_mean=grey())
    with pytest.raises(UserError, match=f"no noisy image in {noisy} by the name of x_3$"):
        cases.from_files([noisy, clean], PAIR)


def test_two_files_are_a_pair_and_planes_are_cases(tmp_path):
    stacks = [RNG.random((3, 20, 24)).astype(np.float32) for _ in range(2)]
    for name, stack in zip(("one", "two"), stacks, strict=True):
        images.write(tmp_path / f"{name}.tif", stack, axes="ZYX")
    found = cases.from_files([str(tmp_path / "one.tif"), str(tmp_path / "two.tif")], PAIR)
    assert [case.name for case in found.cases] == ["one[0]", "one[1]", "one[2]"]
    assert found.scale == Scale(0, 1, whole=False)
    np.testing.assert_array_equal(found.cases[1].pictures()[1], stacks[1][1])


def test_opacity_is_left_out_and_colour_kept(tmp_path):
    Image.fromarray(RNG.integers(0, 255, (9, 8, 4)).astype(np.uint8)).save(tmp_path / "a.png")
    (case,) = cases.from_files([str(tmp_path / "a.png")], ALONE).cases
    assert case.pictures()[0].shape == (9, 8, 3)


def test_sixteen_bits_and_a_range(tmp_path):
    pixels = grey(dtype=np.uint16)
    folder = save(tmp_path / "n", a=pixels)
    found = cases.from_files([folder], ALONE)
    assert found.scale == Scale(0, 65535, whole=True)
    found = cases.from_files([folder], ALONE, value_range=(1000, 5000))
    np.testing.assert_allclose(found.cases[0].pictures()[0], (pixels - 1000.0) / 4000, atol=1e-5)


def test_all_that_does_not_fit_is_said_at_once(tmp_path):
    noisy = save(tmp_path / "n", a=grey(), b=grey(16), c=colour(), d=grey(), e=grey())
    clean = save(tmp_path / "c", a=grey(), b=grey(20), c=grey(), f=grey())
    (tmp_path / "n" / "g.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    save(tmp_path / "c", g=grey())
    with pytest.raises(UserError) as caught:
        cases.from_files([noisy, clean], PAIR)
    message = str(caught.value)
    for words in (
        "5 things",
        f"no noisy image in {noisy} by the name of f",
        f"no clean image in {clean} by the name of d, e",
        "b: the noisy image is 16 x 18 pixels grey, the clean image is 20 x 22 pixels grey",
        "c: the noisy image is 12 x 14 pixels in colour, the clean image is 16 x 18 pixels grey",
        "g.png: ",
    ):
        assert words in message


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", "no such file or folder"),
        ("nowhere/*.png", "no images there"),
        ("n/*_*.png", "no images there"),
        ("n/*.tif", "no images there"),
        ("empty", "no images there"),
    ],
)
def test_sources_that_are_none(tmp_path, source, words):
    save(tmp_path / "n", a=grey())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=words):
        cases.from_files([str(tmp_path / source), str(tmp_path / "n")], PAIR)


def test_two_files_of_one_name(tmp_path):
    folder = save(tmp_path / "n", a=grey())
    images.write(tmp_path / "n" / "a.tif", grey())
    with pytest.raises(UserError, match="both called a; say which"):
        cases.from_files([folder], ALONE)
    assert len(cases.from_files([f"{folder}/*.tif"], ALONE).cases) == 1


def test_different_types_need_a_range(tmp_path):
    noisy = save(tmp_path / "n", a=grey(dtype=np.uint16))
    clean = save(tmp_path / "c", a=grey())
    with pytest.raises(UserError, match=r"uint16, uint8.*--range LOW HIGH"):
        cases.from_files([noisy, clean], PAIR)
    found = cases.from_files([noisy, clean], PAIR, value_range=(0, 70000))
    assert found.scale == Scale(0, 70000, whole=True)
    with pytest.raises(UserError, match="black first"):
        cases.from_files([noisy, clean], PAIR, value_range=(1, 1))


def test_signed_integers_need_a_range(tmp_path):
    images.write(tmp_path / "a.tif", grey().astype(np.int16))
    with pytest.raises(UserError, match="images of int16: say which values"):
        cases.from_files([str(tmp_path / "a.tif")], ALONE)


def pairs(noisy, clean, scale=None):
    pictures = [*zip(noisy, clean, strict=True)]
    return cases.from_pictures(pictures, PAIR, title="arrays", scale=scale or cases.UNIT)


def test_examine_finds_scenes_and_what_cannot_be_scored():
    truth = RNG.random((2, 8, 8)).astype(np.float32)
    clean = [truth[0], truth[0], truth[1]]
    noisy = [each + np.float32(0.1) for each in clean]
    examined = cases.examine(pairs(noisy, clean))
    scenes = [case.scene for case in examined.cases]
    assert scenes[0] == scenes[1] != scenes[2]
    broken = [noisy[0], np.full((8, 8), np.nan, np.float32), truth[1]]
    with pytest.raises(UserError) as caught:
        cases.examine(pairs(broken, [truth[0] + 1, truth[0], truth[1]]))
    for words in (
        "3 things in arrays",
        "0000: the clean image goes from 1.",
        "beyond the range 0 to 1",
        "0001: 64 values of the noisy image are not finite",
        "0002: the noisy and the clean image are the same",
    ):
        assert words in str(caught.value)


def test_digests_tell_noisy_images_of_one_scene_apart():
    truth = [RNG.random((8, 8)).astype(np.float32)] * 2
    examined = cases.examine(pairs([truth[0] + np.float32(d) for d in (0.1, 0.2)], truth))
    one, two = examined.cases
    assert one.scene == two.scene
    assert one.digest != two.digest


def test_noise_by_the_published_protocol(tmp_path):
    pixels = grey(64)
    clean = cases.from_files([save(tmp_path / "c", a=pixels, b=pixels)], ("clean",))
    noisy = cases.with_noise(clean, Gaussian(25 / 255))
    (first, truth), (again, _) = (case.pictures() for case in noisy.cases)
    expected = pixels / 255 + np.random.default_rng(0).normal(0, 25 / 255, pixels.shape)
    np.testing.assert_allclose(first, expected, atol=1e-6)
    assert first.min() < 0
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(np.rint(truth * 255), pixels)
    for text in ("gaussian:0-55", "poisson:30+gaussian:0-55"):
        with pytest.raises(UserError, match="a score needs one noise level"):
            cases.with_noise(clean, parse(text))
    other = cases.with_noise(clean, Gaussian(25 / 255), seed=1).cases[0].pictures()[0]
    assert not np.array_equal(first, other)
    stored = cases.with_noise(clean, Gaussian(25 / 255), stored=True).cases[0].pictures()[0]
    np.testing.assert_allclose(stored * 255, np.rint(np.clip(expected, 0, 1) * 255), atol=1e-4)


def test_what_a_file_would_hold():
    picture = np.array([-0.2, 0.4999, 1.3])
    np.testing.assert_allclose(Scale(0, 255, True).as_stored(picture), [0, 127 / 255, 1])
    np.testing.assert_allclose(Scale(0, 1, False).as_stored(picture), [0, 0.4999, 1])
    np.testing.assert_allclose(Scale(100, 110, True).as_stored(picture), [0, 0.5, 1])


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint8, Scale(0, 255, True)), (np.float64, None)])
def test_the_file_of_pairs_keeps_its_number_type(tmp_path, dtype, scale):
    path = tmp_path / "pairs.h5"
    with h5py.File(path, "w") as file:
        for name in ("train_ns", "train_gt", "test_ns", "test_gt"):
            values = RNG.random((2, 12, 12)) * (255 if dtype is np.uint8 else 1)
            file[name] = values.astype(dtype)
    found = cases.from_hdf5(path, "test")
    assert found.scale == (scale or Scale(0, 1, False))
    assert found.title == "test arrays of pairs.h5"
    assert len(found.cases) == 2


def test_takes_and_grey(tmp_path):
    source = save(tmp_path / "n", a=colour())
    found = cases.from_files([source, save(tmp_path / "m", a=colour())], TAKES)
    assert cases.is_colour(found)
    made = cases.made_grey(found)
    assert not cases.is_colour(made)
    assert made.title.endswith("made grey")
    weights = np.array([0.2125, 0.7154, 0.0721])
    expected = found.cases[0].pictures()[0] @ weights
    np.testing.assert_allclose(made.cases[0].pictures()[0], expected, atol=1e-6)


def test_the_middle():
    picture = np.arange(35).reshape(5, 7)
    np.testing.assert_array_equal(cases.middle(picture, 3), picture[1:4, 2:5])
    np.testing.assert_array_equal(cases.middle(picture, 6), picture[:, :6])
