"""The echo of gRPC's C++ server, where its headers and a compiler are installed."""

import subprocess
from pathlib import Path

_SOURCE = Path(__file__).parent / "echo.cpp"
_PROGRAM = Path(__file__).resolve().parents[2] / ".cache" / "echo_cpp"


class NoCompiler(Exception):
    """g++ or gRPC's headers are missing, or do not fit."""


def build() -> Path:
    """Compile the program, if need be, and return its path.

    Raises:
        NoCompiler: it does not compile here.
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
