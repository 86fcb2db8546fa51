"""Child processes: what they trust, how they are bounded, and what comes back."""

import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path

import h5py
import numpy as np
import pytest

import snowmelt
from snowmelt import children, limits
from snowmelt.errors import UserError

MODULE = "snowmelt.trial"
SOURCE = """
import ctypes, os, time
import numpy as np
from snowmelt.children import served
from snowmelt.errors import UserError

count = 0

@served
def echo(*values):
    return list(values[:-1]), values[-1]

@served
def big(size, payload):
    return None, np.full((2, size // 4), 7, ">u2")

@served
def counted(payload):
    global count
    count += 1
    return [count, os.getpid()], b""

@served
def crash(payload):
    ctypes.string_at(0)

@served
def spin(payload):
    ctypes.pythonapi.PyRun_SimpleString(b"while True: pass")

@served
def wait(payload):
    time.sleep(100)

@served
def take(size, payload):
    return len(np.zeros(size, "u1")), b""

@served
def speak(payload):
    os.write(1, b"a library that prints")
    return os.getcwd(), b""

@served
def where(payload):
    import snowmelt
    return [snowmelt.__file__, UserError.__module__], b""

@served
def fail(kind, payload):
    raise {"user": UserError("a"), "os": OSError(28, "x"), "key": RuntimeError("k\x1b")}[kind]

def private(payload):
    return None, b""
"""
START = children._START.replace(
    "serve(sys.argv[2])",
    f"""
import types
sys.modules[{MODULE!r}] = module = types.ModuleType({MODULE!r})
exec({SOURCE!r}, vars(module))
serve(sys.argv[2])
""",
)


@pytest.fixture
def trial(monkeypatch):
    """A module of Snowmelt that serves all that may go wrong."""
    module = types.ModuleType(MODULE)
    exec(SOURCE, vars(module))
    monkeypatch.setattr(children, "_START", START)
    yield module
    children.stop(MODULE)


def test_values_and_bytes_travel(trial):
    value, data = children.call(trial.echo, 1.5, None, ["ä", "\udc80"], payload=b"\0\xff")
    assert value == [1.5, None, ["ä", "\udc80"]]
    assert data == b"\0\xff"
    _, data = children.call(trial.big, 2**22)
    assert (np.frombuffer(data, ">u2") == 7).all()
    assert len(data) == 2**22
    array = np.arange(6, dtype=">f2").reshape(2, 3)
    assert children.call(trial.echo, payload=array)[1] == array.tobytes()
    assert children.call(trial.echo, payload=array[:0])[1] == b""


def test_only_served_functions(trial):
    with pytest.raises(AssertionError):
        children.call(trial.private)
    trial.private.served = True
    with pytest.raises(ValueError, match="private"):
        children.call(trial.private)


def test_a_child_lives_from_call_to_call_and_after_its_death(trial):
    first, second = (children.call(trial.counted)[0] for _ in range(2))
    assert second == [2, first[1]]
    with pytest.raises(children.ChildError, match="crashes on it"):
        children.call(trial.crash)
    third, _ = children.call(trial.counted)
    assert third[0] == 1
    assert third[1] != first[1]


def test_errors_come_back_as_what_they_are(trial):
    with pytest.raises(UserError, match="a"):
        children.call(trial.fail, "user")
    with pytest.raises(OSError, match="No space left") as error:
        children.call(trial.fail, "os")
    assert error.value.errno == 28
    with pytest.raises(ValueError, match=r"k\\x1b"):  # shown harmlessly
        children.call(trial.fail, "key")


def test_time_is_bounded(trial, monkeypatch):
    with pytest.raises(children.ChildError, match=r"more than 0\.3 seconds of computing"):
        children.call(trial.spin, seconds=0.3)
    monkeypatch.setattr(limits, "CHILD_PATIENCE_SECONDS", 0.2)
    with pytest.raises(children.ChildError, match=r"no end within 0\.4 seconds"):
        children.call(trial.wait, seconds=0.2)


def test_memory_is_bounded_call_by_call(trial):
    assert children.call(trial.take, 2**26) == (2**26, b"")
    with pytest.raises(children.ChildError, match="more than 32 MiB of memory"):
        children.call(trial.take, 2**26, memory=2**25)
    assert children.call(trial.take, 2**26)[0] == 2**26


def test_what_a_library_prints_is_no_answer_and_paths_are_not_relative(
    trial, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert children.call(trial.speak)[0] == sys.base_prefix


def test_the_package_is_the_same_even_where_another_is_installed(trial, tmp_path, monkeypatch):
    shutil.copytree(Path(snowmelt.__file__).parent, tmp_path / "snowmelt")
    monkeypatch.setattr(children, "__file__", str(tmp_path / "snowmelt" / "children.py"))
    found, _ = children.call(trial.where)
    assert found == [str(tmp_path / "snowmelt" / "__init__.py"), "snowmelt.errors"]


def test_threads_take_turns(trial):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(children.call(trial.counted)[0][0]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == list(range(1, 9))


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_a_child_of_its_own(trial):
    ours = children.call(trial.counted)[0]
    with multiprocessing.get_context("fork").Pool(1) as pool:
        count, there = pool.apply(lambda_free_call)
    assert count == 1
    assert there != ours[1]
    assert children.call(trial.counted)[0] == [2, ours[1]]


def lambda_free_call():
    module = types.ModuleType(MODULE)
    exec(SOURCE, vars(module))
    return children.call(module.counted)[0]


TRAPS = ("json", "numpy", "snowmelt", "h5py", "struct", "encodings", "hdf5plugin", "sitecustomize")


@pytest.fixture
def trapped(tmp_path):
    """A folder with an image, and modules that leave a mark when they run."""
    folder = tmp_path / "images"
    folder.mkdir()
    for name in TRAPS:
        (folder / f"{name}.py").write_text(
            f"open({str(tmp_path / 'mark')!r}, 'a').write({name!r} + ' ')"
        )
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"] = np.full((40, 40), 3, "u2")
    return folder


SHOW = ("inspect", "a.h5")


@pytest.mark.parametrize("command", [
    [str(Path(sys.executable).with_name("snowmelt")), *SHOW],
    [sys.executable, "-P", "-m", "snowmelt", *SHOW],
])  # fmt: skip
def test_nothing_beside_the_images_runs(trapped, tmp_path, command):
    done = subprocess.run(command, cwd=trapped, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()


def test_with_m_python_alone_looks_into_the_current_folder(trapped, tmp_path):
    """It looks for the package there, and for nothing that the package then imports."""
    for name in ("snowmelt", "struct", "encodings"):  # on the way to the package
        (trapped / f"{name}.py").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "snowmelt", *SHOW], cwd=trapped, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("variables", [{}, {"PYTHONPATH": "."}, {"PYTHONPATH": os.pathsep}])
def test_a_child_imports_nothing_from_the_current_folder(trapped, tmp_path, variables):
    """Even where this process would: all is imported here before the folder is entered."""
    code = (
        "import os, sys; import snowmelt.images as images, numpy, json, struct\n"
        f"os.chdir({str(trapped)!r}); sys.path[:0] = ['', os.getcwd()]\n"
        f"os.environ.update({variables!r})\n"
        "assert images.read('a.h5').sum() == 4800"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert not (tmp_path / "mark").exists()
