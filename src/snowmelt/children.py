"""Child processes for decoders written in C, which no limit within this process can bound.

Such a library may crash, never come to an end, or take all memory on a damaged file, and would take this
process along. So a function of Snowmelt that calls one can run in a child process instead::

    @children.served
    def decode(level: int, payload: Buffer) -> tuple[Any, Buffer]:
        ...
        return {"shape": image.shape}, image

    found, data = children.call(decode, 3, payload=content)

A served function is a public or private function of a module ``snowmelt.*``. Its arguments and the first of
its results travel as JSON; ``payload``, always its last argument, and the second result are bytes (anything
with the buffer protocol that is C-contiguous, so an array needs no copy; they arrive as a ``bytearray``).
Paths among the arguments must be absolute. Whatever else a module remembers, such as open files, it remembers
in the child from call to call.

Every module has one child of its own, which starts at the first call (``prepare`` starts it beforehand and
does not wait), answers one request after another, from any thread, and is started anew after its death.
A child of a forked process is its own.

Limits of one call: ``memory`` bytes beyond what the child has at rest (RLIMIT_AS; on Linux), ``seconds`` of
computing (a timer of the process's time; not on Windows), and on the clock
``limits.CHILD_PATIENCE_SECONDS`` longer than that. Where the library needs more, that is a ``ChildError``
here, or what the library makes of it. An error that the function raises is raised here as UserError, OSError
(with its errno) or, for everything else, ValueError, of which ``ChildError`` is a kind.

A child trusts nothing that lies where the user works: it starts in Python's isolated mode (no current folder,
no ``PYTHON*`` variables), in a folder of Python's own, and imports from Python's own folders before others.
After these come the absolute entries of this process's ``sys.path`` but for the current folder, the folder of
the script that runs, and what a relative ``PYTHONPATH`` means. Snowmelt itself is this very package.
"""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import json
import os
import pickle
import signal
import site
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import Any, TypeVar

from snowmelt import limits
from snowmelt.errors import UserError, printable

Buffer = (
    bytes | bytearray | memoryview
)  # and numpy arrays; `collections.abc.Buffer` came with Python 3.12
Function = TypeVar("Function", bound=Callable[..., tuple[Any, Any]])

_FRAME = struct.Struct("<QQ")
# Isolated mode keeps these imports safe. The package is this very one, wherever another may be installed.
_START = """
import importlib.util, json, sys
folders, package = json.loads(sys.argv[1])
sys.path += folders
spec = importlib.util.spec_from_file_location("snowmelt", package)
sys.modules["snowmelt"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["snowmelt"])
from snowmelt.children import serve
serve(sys.argv[2])
"""


class ChildError(ValueError):
    """The library crashed, or took more time or memory than it may."""


def served(function: Function) -> Function:
    """Mark a function as one that a child may be asked for."""
    function.served = True  # type: ignore[attr-defined]
    return function


def call(
    function: Callable[..., tuple[Any, Any]],
    *arguments: Any,
    payload: Any = b"",
    memory: int | None = None,
    seconds: float | None = None,
) -> tuple[Any, bytearray]:
    """The results of a served function, called in the child of its module.

    Args:
        function: A function marked by `served`.
        arguments: What JSON can hold.
        payload: Bytes, or a C-contiguous array.
        memory: Bytes it may take beyond what its process has at rest; ``limits.CHILD_BYTES`` if not given.
        seconds: Time it may compute; ``limits.CHILD_SECONDS`` if not given.

    Raises:
        ChildError: It crashed, or took more time or memory.
        UserError, OSError, ValueError: As the function raised them.
    """
    assert getattr(function, "served", False), function
    request = {
        "function": function.__name__,
        "arguments": arguments,
        "memory": limits.CHILD_BYTES if memory is None else memory,
        "seconds": limits.CHILD_SECONDS if seconds is None else seconds,
        "patience": limits.CHILD_PATIENCE_SECONDS,
    }
    return _child(function.__module__).ask(request, payload)


def prepare(module: str) -> None:
    """Start the child of a module, such as "snowmelt.images.hdf5", and do not wait for it."""
    _child(module).start()


def stop(module: str) -> None:
    """End the child of a module with all that it remembers; the next call starts another."""
    _child(module).stop()


_children: dict[str, _Child] = {}
_guard = threading.Lock()


def _child(module: str) -> _Child:
    with _guard:
        if not _children:
            atexit.register(_stop_all)
            if hasattr(os, "register_at_fork"):
                os.register_at_fork(after_in_child=_forget_all)
        return _children.setdefault(module, _Child(module))


def _stop_all() -> None:
    for child in _children.values():
        child.stop()


def _forget_all() -> None:
    """In a forked process: the children are its parent's, and locks may be held by threads it lacks."""
    global _guard
    _guard = threading.Lock()
    for child in _children.values():
        child.forget()


class _Child:
    """A process that serves the functions of one module."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any], payload: Any) -> tuple[Any, bytearray]:
        with self._lock:
            try:
                process = self._running()
                _send(process.stdin, request, payload)
                answer, data = _receive(process.stdout)
            except (OSError, EOFError) as error:
                raise ChildError(self._why(request)) from error
            except BaseException:
                self.stop()  # the rest of the answer would be taken for that to the next request
                raise
        kind, value = answer.get("error"), answer.get("value")
        if kind == "user":
            raise UserError(value)
        if kind == "memory":
            raise ChildError(f"decoding it takes more than {request['memory'] >> 20} MiB of memory")
        if kind is not None:  # what libraries say may quote the file
            said = [printable(each) if isinstance(each, str) else each for each in value]
            raise (OSError if kind == "system" else ValueError)(*said)
        return value, data

    def start(self) -> None:
        with self._lock:
            self._running()

    def stop(self) -> int | None:
        """End the process; its exit status."""
        process, self._process = self._process, None
        if process is None:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                pipe.close() if pipe else None
        return process.wait()

    def forget(self) -> None:
        """Leave the process to the parent of this forked one."""
        process, self._process = self._process, None
        self._lock = threading.Lock()
        if process is not None:
            process.returncode = 0  # else its end would be waited for, and warned of
            for pipe in (process.stdin, process.stdout):
                pipe.close() if pipe else None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-c", _START, self._where(), self._module],
                bufsize=0,  # nothing of a request is written twice by a process that forked meanwhile
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=sys.base_prefix,
                env=_environment(),
            )
        return self._process

    @staticmethod
    def _where() -> str:
        return json.dumps([_path(), str(Path(__file__).resolve().with_name("__init__.py"))])

    def _why(self, request: dict[str, Any]) -> str:
        """What ended the process."""
        process = self._process
        with contextlib.suppress(subprocess.TimeoutExpired):
            if process is not None:
                process.wait(1)  # its pipes close a moment before it has ended
        status = self.stop()
        if status is not None and status == -getattr(signal, "SIGPROF", 0):
            return f"decoding it takes more than {request['seconds']:.3g} seconds of computing"
        if status == 1:  # as faulthandler ends it
            seconds = request["seconds"] + request["patience"]
            return f"the library that decodes it comes to no end within {seconds:.3g} seconds"
        return "the library that decodes it crashes on it"


def _path() -> list[str]:
    """Folders to import from after Python's own: none that may be the one in which the user's files lie."""
    user = [site.getusersitepackages()] if site.ENABLE_USER_SITE else []
    left_out = _left_out()
    others = [each for each in sys.path if Path(each).is_absolute() and _real(each) not in left_out]
    return [*user, *others]


def _left_out() -> set[str]:
    script: str | None = getattr(sys.modules.get("__main__"), "__file__", None)
    relative = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    folders = ["", *(each for each in relative if not Path(each).is_absolute())]
    folders += [str(Path(script).parent)] if script else []
    return {_real(each) for each in folders}


def _real(folder: str | Path) -> str:
    with contextlib.suppress(OSError):  # the current folder may be gone
        return os.path.realpath(folder)
    return ""


def _environment() -> dict[str, str]:
    """Of this process, without Python's variables; one thread, for each takes memory from the limit."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return kept | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _send(stream: Any, message: Any, payload: Any) -> None:
    # PickleBuffer gives the plain bytes of arrays of any type, byte order and shape without a copy.
    text, data = json.dumps(message).encode(), pickle.PickleBuffer(payload).raw()
    _write(stream, memoryview(_FRAME.pack(len(text), len(data)) + text))
    _write(stream, data)


def _write(stream: Any, data: memoryview) -> None:
    while data:
        data = data[stream.write(data) :]


def _receive(stream: Any) -> tuple[Any, bytearray]:
    text, payload = _FRAME.unpack(_exactly(stream, _FRAME.size))
    return json.loads(_exactly(stream, text)), _exactly(stream, payload)


def _exactly(stream: Any, count: int) -> bytearray:
    data = bytearray(count)
    rest = memoryview(data)
    while rest:
        got = stream.readinto(rest)
        if not got:
            raise EOFError
        rest = rest[got:]
    return data


def serve(module: str) -> None:
    """Answer requests until nobody asks any more; the other end of `call`."""
    if hasattr(signal, "SIGINT"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    requests, answers = FileIO(os.dup(0)), FileIO(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints must not speak into the answers
    missed: list[Any] = []
    sys.unraisablehook = missed.append  # h5py swallows errors of objects that end
    functions = _functions(module)
    with contextlib.suppress(EOFError):
        while True:
            request, payload = _receive(requests)
            with _limited(**{name: request[name] for name in ("memory", "seconds", "patience")}):
                answer, data = _answer(functions, request, payload, missed)
            _send(answers, answer, data)


def _answer(
    functions: Mapping[str, Any], request: dict[str, Any], payload: bytearray, missed: list[Any]
) -> tuple[dict[str, Any], Any]:
    try:
        value, data = functions[request["function"]](*request["arguments"], payload)
        if missed:
            raise OSError(str(missed.pop().exc_value))
        return {"value": value}, data
    except UserError as error:
        return {"error": "user", "value": str(error)}, b""
    except MemoryError:
        return {"error": "memory"}, b""
    except OSError as error:
        text = os.strerror(error.errno) if error.errno else str(error)
        return {"error": "system", "value": [error.errno, text] if error.errno else [text]}, b""
    except Exception as error:
        return {"error": "value", "value": [str(error) or type(error).__name__]}, b""
    finally:
        missed.clear()


def _functions(module: str) -> dict[str, Callable[..., tuple[Any, Any]]]:
    """The functions of a module of Snowmelt that are marked as served, and nothing else."""
    assert module.startswith("snowmelt."), module
    found = vars(importlib.import_module(module))
    return {name: each for name, each in found.items() if getattr(each, "served", False) is True}


@contextlib.contextmanager
def _limited(memory: int, seconds: float, patience: float) -> Iterator[None]:
    """Bounds of one request. A timer counts it alone, while RLIMIT_CPU counts the life of the process."""
    faulthandler.dump_traceback_later(seconds + patience, exit=True)
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_PROF, seconds)  # SIGPROF ends the process
    _bound_memory(memory)
    try:
        yield
    finally:
        _bound_memory(None)
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def _bound_memory(extra: int | None) -> None:
    """Set the limit of this process's memory to ``extra`` bytes more than it has; None lifts it."""
    with contextlib.suppress(ImportError, FileNotFoundError):  # neither Windows nor macOS can
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        if extra is None:
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            return
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        soft = pages * resource.getpagesize() + extra
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
