"""Training the tutorial network: Keras's eager loop, Keras's fit and Snowmelt on one machine in one run.

`make bench` times steps, interleaved, and prints medians and ratios as JSON lines; `make bench FULL=1` also
trains each to the end of its 200 epochs for the held-out PSNR, which takes half an hour.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from snowmelt import recipe, training
from snowmelt.shapes import write_dataset

HERE = Path(__file__).parent
EPOCHS, STEPS_PER_EPOCH = 200, 64
KERAS = {"keras eager": "eager", "keras fit": "fit"}
SNOWMELT = {"snowmelt tutorial": "tutorial", "snowmelt fast": "fast"}


def run_keras(python: Path, data: Path, mode: str, *more: str) -> dict[str, Any]:
    """Run the Keras script in its own environment."""
    command = [str(python), str(HERE / "keras_tutorial.py"), str(data), "--mode", mode, *more]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def make_run(name: str, data: Path, folder: Path) -> training.Run:
    """A run of a shipped recipe on these data, not yet begun."""
    chosen = recipe.read(name)
    chosen = replace(chosen, data=recipe.Data(source=str(data)))
    return training.Run.prepare(chosen, folder, quiet=True)


def time_steps(name: str, data: Path, steps: int) -> dict[str, Any]:
    """Median milliseconds of a step of Snowmelt's own loop."""
    times = []
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(name, data, Path(folder))
        for step in range(steps):
            began = time.perf_counter()
            run.step(run.samples.batch(step, run.share))
            times.append(1000 * (time.perf_counter() - began))
    return {"ms_per_step": statistics.median(times[steps // 5 :]), "bf16": run.bf16}


def train_whole(name: str, data: Path) -> dict[str, Any]:
    """A whole training with its scores, state, pictures and model file."""
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(name, data, Path(folder))
        began = time.perf_counter()
        run.go()
        seconds = time.perf_counter() - began
    last = run.state.rows[-1]
    return {"contender": name, "epochs": last["epoch"], "seconds": seconds, "psnr": last["psnr"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keras", type=Path, required=True, help="python with TensorFlow")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=60, help="of each contender in a round")
    parser.add_argument("--full", action="store_true", help="train each to its end")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "demo-dataset.h5"
        write_dataset(data)
        medians = interleave(options, data)
        for name, step in medians.items():
            ratios = {f"{keras} / it": round(medians[keras] / step, 2) for keras in KERAS}
            whole = {"seconds_200_epochs": round(step * EPOCHS * STEPS_PER_EPOCH / 1000, 1)}
            print(json.dumps({"contender": name, "ms_per_step": round(step, 2)} | whole | ratios))
        if options.full:
            for name in SNOWMELT.values():
                print(json.dumps(train_whole(name, data)), flush=True)
            for mode in ("fit", "eager"):
                print(json.dumps(run_keras(options.keras, data, mode)), flush=True)


def interleave(options: argparse.Namespace, data: Path) -> dict[str, float]:
    """Median over the rounds of each contender's median step."""
    times: dict[str, list[float]] = {name: [] for name in (*KERAS, *SNOWMELT)}
    for number in range(options.rounds):
        print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
        for name, mode in KERAS.items():
            result = run_keras(options.keras, data, mode, "--limit", str(options.steps))
            times[name].append(result["ms_per_step"])
        for name, chosen in SNOWMELT.items():
            times[name].append(time_steps(chosen, data, options.steps)["ms_per_step"])
    return {name: statistics.median(values) for name, values in times.items()}


if __name__ == "__main__":
    main()
