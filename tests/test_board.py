"""What is told to TensorBoard: by a stand-in, and by the real one where it is installed."""

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from snowmelt import board, training
from snowmelt.cli import main
from snowmelt.samples import Batch


class Recorder:
    """Keeps what it is told; one list for all, as event files are."""

    told: ClassVar[list[tuple[int, Mapping[str, float] | str]]] = []
    closed = 0

    def __init__(self, run: Path, *, after: int) -> None:
        assert run.is_dir()
        kept = [each for each in Recorder.told if each[0] <= after] if after else []
        Recorder.told[:] = kept

    def numbers(self, epoch: int, row: Mapping[str, float]) -> None:
        Recorder.told.append((epoch, row))

    def picture(self, epoch: int, path: Path) -> None:
        assert path.is_file()
        Recorder.told.append((epoch, path.name))

    def close(self) -> None:
        Recorder.closed += 1


def train(data: Path, folder: Path) -> int:
    words = (
        f"tutorial --data {data} --epochs 3 --every 2 --widths 4 -o {folder} --quiet --tensorboard"
    )
    return main(["train", *words.split()])


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(board, "TensorBoard", Recorder)
    monkeypatch.setattr(board, "need_tensorboard", lambda: None)
    Recorder.told.clear()
    Recorder.closed = 0
    return Recorder


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def numbers(recorded: type[Recorder]) -> list[Mapping[str, float]]:
    return [told for _, told in recorded.told if not isinstance(told, str)]


def test_each_epoch_is_told_once(
    pairs_file: Path, tmp_path: Path, recorded: type[Recorder]
) -> None:
    folder = tmp_path / "run"
    assert train(pairs_file, folder) == 0
    told = numbers(recorded)
    assert [{key: row[key] for key in row if key != "lr"} for row in told] == rows(folder)
    assert all(row["lr"] == 3e-4 for row in told)
    pictures = [each for each in recorded.told if isinstance(each[1], str)]
    assert pictures == [(0, "epoch-000.png"), (2, "epoch-002.png"), (3, "epoch-003.png")]
    assert recorded.closed == 1


def test_a_run_that_was_cut_off_goes_on_where_it_was(
    pairs_file: Path, tmp_path: Path, recorded: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    ordinary = training.Run.step

    def step(self: training.Run, batch: Batch) -> None:
        if self.state.step == self.samples.steps:  # the first of the second epoch
            raise RuntimeError("the power is cut")
        ordinary(self, batch)

    with monkeypatch.context() as patched:
        patched.setattr(training.Run, "step", step)
        with pytest.raises(RuntimeError, match="power"):
            train(pairs_file, folder)
    assert main(["train", "--resume", "-o", str(folder), "--quiet"]) == 0
    assert [row["epoch"] for row in numbers(recorded)] == [1, 2, 3]


def test_without_it_nothing_begins(
    pairs_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "tensorboard" else found(name)
    )
    assert train(pairs_file, tmp_path / "run") == 2
    assert "pip install tensorboard" in capsys.readouterr().err
    assert not (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own
def test_the_event_files_hold_the_log(pairs_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = tmp_path / "run"
    assert train(pairs_file, folder) == 0
    events = EventAccumulator(str(folder / board.FOLDER)).Reload()
    for name in ("loss", "psnr"):
        told = [each.value for each in events.Scalars(board.TAGS[name])]
        assert told == pytest.approx([row[name] for row in rows(folder)])
    assert [each.step for each in events.Images("pictures")] == [0, 2, 3]
