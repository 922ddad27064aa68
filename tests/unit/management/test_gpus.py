import stat
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skysail_common.errors import Unsupported
from skysail_management.containers.gpus import NO_GPUS, GpuReservation, Gpus, find_devices

AMOUNTS = st.one_of(
    st.integers(0, 3).map(float),
    st.floats(0.01, 0.999),
    st.sampled_from([0.1, 0.25, 0.3, 1 / 3, 0.5]),
)


@given(
    devices=st.integers(1, 3),
    steps=st.lists(st.tuples(st.integers(0, 5), st.none() | AMOUNTS), max_size=60),
)
def test_reservations_never_exceed_a_device(devices: int, steps: list[tuple[int, float | None]]):
    names = [str(index) for index in range(devices)]
    gpus = Gpus(names)
    held: dict[str, GpuReservation] = {}
    for number, (slot, amount) in enumerate(steps):
        if amount is None:
            for holder in list(held)[slot : slot + 1]:
                gpus.release(holder)
                del held[holder]
            continue
        taken = gpus.take(str(number), amount)
        if taken is not None:
            held[str(number)] = taken
            assert (
                len(set(taken.devices))
                == len(taken.devices)
                == (max(1, int(amount)) if amount else 0)
            )
            # The next management reads the reservation from the record of the replica.
            assert GpuReservation.from_label(taken.to_label()) == taken
        for name in names:
            assert sum(each.share for each in held.values() if name in each.devices) <= 1


@pytest.mark.parametrize(("gpus", "number"), [(0.1, 10), (1 / 3, 3), (0.25, 4), (0.3, 3), (1, 1)])
def test_equal_fractions_fill_a_device(gpus: float, number: int):
    shared = Gpus(["0"])
    taken = [shared.take(str(index), gpus) for index in range(number + 1)]
    assert [each is not None for each in taken] == [True] * number + [False]


def test_fractions_share_a_device_and_whole_gpus_do_not():
    gpus = Gpus(["a", "b"])
    assert gpus.take("1", 0.5) == GpuReservation(("a",), Fraction(1, 2))
    assert gpus.take("2", 0.5) == GpuReservation(("a",), Fraction(1, 2))
    assert gpus.take("3", 1) == GpuReservation(("b",), Fraction(1))
    assert gpus.take("4", 0.25) is None
    assert gpus.take("5", 0) == NO_GPUS
    reason = gpus.why_waiting(0.25)
    assert reason == (
        "no GPU is free: it needs 0.25, and this machine has 2, used by 1, 2, 3; it starts when one "
        "of them ends"
    )
    gpus.release("1")
    assert gpus.take("4", 0.25) == GpuReservation(("a",), Fraction(1, 4))


def test_what_never_fits_is_rejected():
    Gpus([]).check(0)
    Gpus(["a"]).check(1)
    with pytest.raises(Unsupported, match="in the setting gpu-devices"):
        Gpus([]).check(0.5)
    with pytest.raises(Unsupported, match=r"this machine has 1 \(a\)"):
        Gpus(["a"]).check(2)


def test_a_replica_without_gpus_sees_none_if_devices_are_known():
    gpus, half = Gpus(["a", "b"]), GpuReservation(("b",), Fraction(1, 2))
    assert gpus.visible_to(half, {}) == {"CUDA_VISIBLE_DEVICES": "b"}
    assert gpus.visible_to(half, {"CUDA_VISIBLE_DEVICES": "a"}) == {"CUDA_VISIBLE_DEVICES": "b"}
    assert gpus.visible_to(NO_GPUS, {}) == {"CUDA_VISIBLE_DEVICES": ""}
    assert gpus.visible_to(NO_GPUS, {"CUDA_VISIBLE_DEVICES": "a"}) == {}
    assert Gpus([]).visible_to(NO_GPUS, {}) == {}


@pytest.mark.parametrize(
    ("setting", "environment", "devices"),
    [
        ("0, 1", {"CUDA_VISIBLE_DEVICES": "5"}, ("0", "1")),
        ("", {"CUDA_VISIBLE_DEVICES": "5"}, ()),
        ("auto", {"CUDA_VISIBLE_DEVICES": "2,3"}, ("2", "3")),
        ("auto", {"CUDA_VISIBLE_DEVICES": "-1"}, ()),
        ("auto", {"PATH": "/nowhere"}, ()),
    ],
)
def test_devices_of_the_setting_or_of_management(setting, environment, devices):
    assert find_devices(setting, environment) == devices


def listed(tmp_path: Path, *lines: str) -> tuple[str, ...]:
    program = tmp_path / "nvidia-smi"
    program.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return find_devices("auto", {"PATH": str(tmp_path)})


def test_devices_that_nvidia_smi_lists(tmp_path: Path):
    found = listed(
        tmp_path,
        "echo 'GPU 0: NVIDIA H200 (UUID: GPU-aa)'",
        "echo 'GPU 1: NVIDIA H200 (UUID: GPU-bb)'",
        "echo '  MIG 1g.18gb Device 0: (UUID: MIG-cc)'",
        "echo '  MIG 1g.18gb Device 1: (UUID: MIG-dd)'",
    )
    assert found == ("GPU-aa", "MIG-cc", "MIG-dd")


def test_a_driver_that_does_not_answer_means_no_devices(tmp_path: Path):
    assert listed(tmp_path, "echo 'NVIDIA-SMI has failed'", "exit 9") == ()
