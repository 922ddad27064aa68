"""The echo of the C++ server of gRPC, which needs a compiler and the headers of gRPC."""

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parent / "echo.cpp"
_PROGRAM = Path(__file__).resolve().parents[2] / ".cache" / "echo_cpp"


class NoCompiler(Exception):
    """The compiler or the headers of gRPC are missing or do not fit."""


def build() -> Path:
    """Compile the program if it has changed, and return its path.

    Raises:
        NoCompiler: the program does not compile on this machine.
    """
    if _PROGRAM.exists() and _PROGRAM.stat().st_mtime >= _SOURCE.stat().st_mtime:
        return _PROGRAM
    _PROGRAM.parent.mkdir(exist_ok=True)
    try:
        flags = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "grpc++"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split()
        command = ["g++", "-O2", "-std=c++17", str(_SOURCE), "-o", str(_PROGRAM), *flags]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    except FileNotFoundError as error:
        raise NoCompiler(f"{error.filename} is not installed") from error
    except subprocess.CalledProcessError as error:
        text = f"{str(error.stderr).strip()[:300]} (Debian: g++ pkg-config libgrpc++-dev)"
        raise NoCompiler(text) from error
    return _PROGRAM
