"""A scan of a pickle for the modules to which it refers; nothing of the pickle runs."""

import bz2
import contextlib
import gzip
import io
import lzma
import math
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar, cast

import numpy as np

_MAX_READ = 1 << 20
"""Longest read that is kept. Longer ones are texts and arrays, in which nothing is looked for."""
_MAX_READS = 256 << 20
"""Most bytes of instructions that are read: the modules are named long before."""


@dataclass
class PickleScan:
    """The names in a pickle."""

    names: set[str] = field(default_factory=set)
    """Classes and functions, as `module.name`."""
    is_joblib: bool = False
    """True if only joblib can load it."""
    is_compressed: bool = False
    sklearn_version: str = ""
    """Version of scikit-learn that saved its estimators; empty if there are none."""

    @property
    def from_main(self) -> tuple[str, ...]:
        """Names of the program that saved the pickle, which no other program can look up."""
        return tuple(sorted(name for name in self.names if name.startswith("__main__.")))


def scan_pickle(path: Path) -> PickleScan:
    """Return the names in a file of pickle or joblib, compressed or not.

    The pickle's instructions are followed with inert objects in place of all that it would create.
    Where the file ends early or is no pickle, the names that came before are the result.
    """
    scan = PickleScan()
    # The file is anything that a user named, and its names are only hints.
    with contextlib.suppress(Exception), _opened(path, scan) as file:
        _Scanner(_Bounded(file), scan).load()
    return scan


@contextlib.contextmanager
def _opened(path: Path, scan: PickleScan) -> Iterator[IO[bytes]]:
    with path.open("rb") as file:
        begin = file.read(6)
        file.seek(0)
        for magic, opened in _COMPRESSIONS.items():
            if begin.startswith(magic):
                scan.is_joblib = scan.is_compressed = True
                yield opened(file)
                return
        yield file


class _ZlibReader(io.RawIOBase):
    """A stream of the decompressed content of a zlib file."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompress = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        while not data and not self._decompress.eof:
            chunk = self._decompress.unconsumed_tail or self._file.read(1 << 16)
            if not chunk:
                break
            data = self._decompress.decompress(chunk, len(buffer))
        buffer[: len(data)] = data
        return len(data)


_COMPRESSIONS: dict[bytes, Any] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZ": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"\x5d\x00": lzma.LZMAFile,
    b"\x78": lambda file: io.BufferedReader(_ZlibReader(file)),
}


class _Bounded:
    """A file whose long reads are skipped."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._left = _MAX_READS

    def read(self, size: int) -> bytes:
        if size > _MAX_READ:
            self.skip(size)
            return b""
        self._count(size)
        return self._file.read(size)

    def readline(self) -> bytes:
        line = self._file.readline(_MAX_READ)
        self._count(len(line))
        if len(line) < _MAX_READ:
            return line
        while line and not line.endswith(b"\n"):
            line = self._file.readline(_MAX_READ)
        return b"\n"

    def skip(self, size: int) -> None:
        while size > 0:
            read = len(self._file.read(min(size, _MAX_READ)))
            if read == 0:
                raise EOFError
            size -= read

    def _count(self, size: int) -> None:
        self._left -= size
        if self._left < 0:
            raise EOFError


class _Inert:
    """Something that a pickle creates, of which only the arguments are known."""

    name = ""
    scan: PickleScan
    arguments: tuple[Any, ...]

    def __new__(cls, *arguments: Any, **_: Any) -> "_Inert":
        made = super().__new__(cls)
        made.arguments = arguments
        return made

    def __init__(self, *_: Any, **__: Any) -> None:
        self.state: dict[str, Any] = {}

    def __call__(self, *_: Any, **__: Any) -> "_Inert":
        return _Inert()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, dict) else {}

    def __setitem__(self, *_: object) -> None:
        pass

    def append(self, *_: object) -> None:
        pass

    extend = add = update = append


# The unpickler in Python, whose steps a subclass can change.
_Unpickler: Any = pickle._Unpickler


class _Scanner(_Unpickler):  # type: ignore[misc]
    """An unpickler that creates inert objects."""

    dispatch: ClassVar[dict[int, Any]] = dict(_Unpickler.dispatch)

    def __init__(self, file: _Bounded, scan: PickleScan) -> None:
        super().__init__(file)
        self._bounded = file
        self._scan = scan

    def find_class(self, module: str, name: str) -> type[_Inert]:
        full = f"{module}.{name}"
        self._scan.names.add(full)
        return type(name, (_Inert,), {"name": full})

    def persistent_load(self, pid: Any) -> _Inert:
        return _Inert()

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if not isinstance(target, _Inert):
            return
        target.__setstate__(state)
        if target.name == "joblib.numpy_pickle.NumpyArrayWrapper":
            self._scan.is_joblib = True
            self._skip_array(target.state)
        version = target.state.get("_sklearn_version")
        if isinstance(version, str):
            self._scan.sklearn_version = version

    def load_bytearray8(self) -> None:
        size = int.from_bytes(self.read(8), "little")
        # A short one is in a frame, which only the unpickler reads.
        self.append(self.read(size))

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def _skip_array(self, state: dict[str, Any]) -> None:
        """Skip the elements that joblib wrote between two instructions."""
        dtype = np.dtype(cast(_Inert, state["dtype"]).arguments[0])
        if dtype.hasobject:
            _Scanner(self._bounded, self._scan).load()
            return
        if state.get("numpy_array_alignment_bytes") is not None:
            self._bounded.skip(self._bounded.read(1)[0])
        self._bounded.skip(math.prod(state["shape"]) * dtype.itemsize)
