"""The device of a replica: a GPU if it has one that works, else the CPU."""

import importlib
import importlib.util
import logging
import subprocess
import sys

log = logging.getLogger(__name__)

_PROBE_TIMEOUT_S = 60.0
# A separate process asks the driver, because a process that used CUDA cannot use it in its forks.
_PROBE = """
import ctypes
driver, count = ctypes.CDLL("libcuda.so.1"), ctypes.c_int()
works = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
raise SystemExit(0 if works and count.value > 0 else 1)
"""


def choose_device(gpus: float) -> str:
    """Return the device for the model, in the notation of torch, and cap the memory of torch.

    Args:
        gpus: GPUs that the replica has. Of a fraction, torch gets only that part of the memory; other
            libraries are not limited.
    """
    if not gpus:
        return "cpu"
    if importlib.util.find_spec("torch") is None:
        works = _driver_works()
    else:
        torch = importlib.import_module("torch")
        works = bool(torch.cuda.is_available())
        if works and gpus < 1:
            torch.cuda.set_per_process_memory_fraction(gpus, 0)
    if not works:
        log.warning("GPU reserved but not usable", extra={"gpus": gpus})
    return "cuda:0" if works else "cpu"


def _driver_works() -> bool:
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
