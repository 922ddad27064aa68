"""The GPUs of this machine, which replicas reserve, whole or in part.

A replica sees its devices only. A fraction is on the first device with so much left; whole GPUs are
on devices that nobody uses.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from skysail_common.errors import Unsupported

VISIBLE_DEVICES = "CUDA_VISIBLE_DEVICES"
"""Variable with the devices that a process sees."""

_LIST_TIMEOUT_S = 20.0
_DEVICE = re.compile(r"^(?P<indent>\s*).*\(UUID: (?P<uuid>[^)]+)\)")
# Floats such as 0.1 have no exact sum.
_SMALLEST_PART = 1000


@dataclass(frozen=True)
class GpuReservation:
    """The devices of one replica."""

    devices: tuple[str, ...] = ()
    share: Fraction = Fraction(0)
    """Part of each device, from 0 to 1."""

    def to_label(self) -> str:
        """Return the reservation as a text for a label or record."""
        return json.dumps({"devices": self.devices, "share": str(self.share)})

    @classmethod
    def from_label(cls, label: str) -> "GpuReservation":
        """Return the reservation of a label; an empty one is of a replica without GPUs.

        Raises:
            ValueError, KeyError, TypeError: the label is damaged.
        """
        if not label:
            return cls()
        found = json.loads(label)
        return cls(tuple(map(str, found["devices"])), Fraction(found["share"]))


NO_GPUS = GpuReservation()
"""The reservation of a replica without GPUs."""


class Gpus:
    """The devices and their reservations; the sum of the shares of a device is at most 1."""

    def __init__(self, devices: Sequence[str]) -> None:
        """Let replicas reserve these devices."""
        self._devices = tuple(dict.fromkeys(devices))
        self._held: dict[str, GpuReservation] = {}

    def check(self, gpus: float) -> None:
        """Check that a replica can ever have so many GPUs.

        Raises:
            Unsupported: this machine has fewer.
        """
        if not gpus:
            return
        if not self._devices:
            raise Unsupported(
                "cannot reserve a GPU: `nvidia-smi -L` finds none on this machine; name the devices "
                "in the setting gpu-devices, or leave out gpus="
            )
        if gpus > len(self._devices):
            raise Unsupported(
                f"cannot reserve {gpus:g} GPUs: this machine has {len(self._devices)} "
                f"({', '.join(self._devices)}); ask for fewer, or add devices to the setting "
                "gpu-devices"
            )

    def take(self, holder: str, gpus: float) -> GpuReservation | None:
        """Reserve GPUs for a container; None if too few are free now."""
        number, share = 1, Fraction(1)
        if gpus < 1:
            share = Fraction(gpus).limit_denominator(_SMALLEST_PART)
        else:
            number = int(gpus)
        free = [each for each in self._devices if self._left(each) >= share]
        if gpus and len(free) < number:
            return None
        reservation = GpuReservation(tuple(free[:number]), share) if gpus else NO_GPUS
        self.hold(holder, reservation)
        return reservation

    def hold(self, holder: str, reservation: GpuReservation) -> None:
        """Record a reservation that an earlier management made."""
        self._held[holder] = reservation

    def release(self, holder: str) -> None:
        """Free the GPUs of a container that ended."""
        self._held.pop(holder, None)

    def _left(self, device: str) -> Fraction:
        return 1 - sum(
            (each.share for each in self._held.values() if device in each.devices), Fraction(0)
        )

    def why_waiting(self, gpus: float) -> str:
        """Return why a replica waits for GPUs, for people."""
        holders = sorted(name for name, each in self._held.items() if each.devices)
        return (
            f"no GPU is free: it needs {gpus:g}, and this machine has {len(self._devices)}, used by "
            f"{', '.join(holders)}; it starts when one of them ends"
        )

    def visible_to(
        self, reservation: GpuReservation, environment: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the variable with the devices of a replica.

        A replica without a reservation sees none, so that it cannot fill the memory of a GPU that
        others reserved, unless its operator names devices. If no devices are known, it sees those of
        management.
        """
        if not self._devices or (not reservation.devices and VISIBLE_DEVICES in environment):
            return {}
        return {VISIBLE_DEVICES: ",".join(reservation.devices)}


def find_devices(setting: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the devices that replicas may reserve.

    Args:
        setting: The devices with commas between them; `auto` for those that the environment names, or
            else those that `nvidia-smi -L` lists.
        environment: Variables of management.
    """
    if setting == "auto" and VISIBLE_DEVICES in environment:
        setting = environment[VISIBLE_DEVICES]
    if setting != "auto":
        # A -1 stands for none.
        return tuple(each for each in map(str.strip, setting.split(",")) if each not in ("", "-1"))
    program = shutil.which("nvidia-smi", path=environment.get("PATH"))
    if program is None:
        return ()
    try:
        listed = subprocess.run(
            [program, "-L"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            timeout=_LIST_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(_listed_devices(listed.stdout)) if listed.returncode == 0 else ()


def _listed_devices(text: str) -> Iterator[str]:
    """Yield the devices in the output of `nvidia-smi -L`; the parts of a GPU in place of the GPU."""
    found = [match for line in text.splitlines() if (match := _DEVICE.match(line)) is not None]
    for match, following in zip(found, [*found[1:], None], strict=True):
        has_parts = following is not None and not match["indent"] and bool(following["indent"])
        if not has_parts:
            yield match["uuid"]
