"""What `import snowmelt` offers and what it costs."""

import inspect
import resource
import subprocess
import sys

import pytest

import snowmelt


def test_every_public_name_is_there_and_documented() -> None:
    for name in snowmelt.__all__:
        thing = getattr(snowmelt, name)
        if name != "__version__":
            assert inspect.getdoc(thing), name


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'denois'"):
        snowmelt.denois  # noqa: B018


def test_importing_brings_nothing_heavy() -> None:
    code = (
        "import sys, snowmelt.cli;"
        "heavy = {'numpy', 'torch', 'openvino', 'skimage', 'matplotlib', 'h5py', 'PIL'};"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout.strip()) == (0, "", "")


def test_help_answers_at_once() -> None:
    """Processor time, which other work on the machine does not lengthen."""
    times = []
    for _ in range(3):
        before = sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])
        done = subprocess.run(
            [sys.executable, "-m", "snowmelt", "--help"], capture_output=True, check=True, text=True
        )
        times.append(sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2]) - before)
    assert "train" in done.stdout
    assert min(times) < 0.3
