"""The tutorial's training as it is written in TensorFlow/Keras; run by `training.py` in a venv of its own.

Prints one JSON line: milliseconds a step (median), seconds of training, held-out PSNR.
"""

import argparse
import json
import os
import statistics
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import h5py
import numpy as np
import tensorflow as tf

BATCH = 8
layers = tf.keras.layers


def make_network():
    image = layers.Input((None, None, 1))
    hidden = image
    for width in (8, 16, 8, 4):
        hidden = layers.Conv2D(width, 3, padding="same", activation="relu")(hidden)
    return tf.keras.Model(image, layers.Conv2D(1, 3, padding="same")(hidden))


def train_eager(network, noisy, clean, epochs, limit):
    """A GradientTape loop, step by step in Python, over every batch."""
    optimizer = tf.keras.optimizers.Adam(3e-4)
    squared_error = tf.keras.losses.MeanSquaredError()
    batches = tf.data.Dataset.from_tensor_slices((noisy, clean)).shuffle(len(noisy)).batch(BATCH)
    times = []
    for _ in range(epochs):
        for inputs, targets in batches:
            began = time.perf_counter()
            with tf.GradientTape() as tape:
                loss = squared_error(targets, network(inputs, training=True))
            gradients = tape.gradient(loss, network.trainable_variables)
            optimizer.apply_gradients(zip(gradients, network.trainable_variables, strict=True))
            loss.numpy()
            times.append(1000 * (time.perf_counter() - began))
            if len(times) == limit:
                return times
    return times


class StepTimes(tf.keras.callbacks.Callback):
    def __init__(self, limit):
        super().__init__()
        self.limit, self.times = limit, []

    def on_train_batch_begin(self, batch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self.times.append(1000 * (time.perf_counter() - self.began))
        self.model.stop_training = len(self.times) == self.limit


def train_fit(network, noisy, clean, epochs, limit):
    """Keras's own compiled loop."""
    steps = StepTimes(limit)
    network.compile(tf.keras.optimizers.Adam(3e-4), "mse")
    network.fit(noisy, clean, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[steps])
    return steps.times


def held_out_psnr(network, noisy, clean):
    denoised = np.clip(network.predict(noisy, batch_size=BATCH, verbose=0), 0, 1)
    errors = ((denoised - clean).astype(np.float64) ** 2).mean((1, 2, 3))
    return float((-10 * np.log10(errors)).mean())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--mode", choices=("eager", "fit"), required=True)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--limit", type=int, help="stop after so many steps")
    options = parser.parse_args()
    with h5py.File(options.data) as file:
        arrays = {name: file[name][...][..., None] for name in file}
    tf.keras.utils.set_random_seed(0)
    network = make_network()
    began = time.perf_counter()
    loop = {"eager": train_eager, "fit": train_fit}[options.mode]
    times = loop(network, arrays["train_ns"], arrays["train_gt"], options.epochs, options.limit)
    seconds = time.perf_counter() - began
    result = {
        "contender": f"Keras {tf.keras.__version__} {options.mode}",
        "ms_per_step": statistics.median(times[len(times) // 5 :]),
        "steps": len(times),
        "seconds": seconds,
        "psnr": held_out_psnr(network, arrays["test_ns"], arrays["test_gt"]),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
