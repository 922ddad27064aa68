import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(program: str, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    """Run a program in a separate process with replaced streams."""
    head = (
        "import os, sys\nfrom skysail_model_server.output_streams import open_output_streams\n"
        "open_output_streams()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program), *arguments],
        capture_output=True,
        timeout=30,
        check=True,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_printing_to_a_full_disk_never_raises_and_reports_lost_bytes():
    done = run(
        """
        pipe = os.dup(1)
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)
        print("x" * 9)
        sys.stdout.write("ä\\n")
        os.dup2(pipe, 1)
        print("room again")
        print("and more")
        """
    )
    assert done.stdout.decode().splitlines() == [
        "13 bytes of output were dropped: No space left on device", "room again", "and more",
    ]  # fmt: skip


def test_a_closed_pipe_never_raises():
    done = run(
        """
        reading, writing = os.pipe()
        os.dup2(writing, 2)
        os.close(reading)
        print("lost", file=sys.stderr, flush=True)
        print("kept")
        """
    )
    assert done.stdout == b"kept\n"


def test_every_text_and_bytes_can_be_printed_unbuffered():
    done = run(
        """
        print("half a pair: \\ud800, ü", end="")
        sys.stdout.buffer.write(b"|bytes|")
        sys.__stdout__.write("end")
        sys.stderr.write("error")
        os._exit(0)
        """
    )
    assert done.stdout.decode() == "half a pair: \\ud800, ü|bytes|end"
    assert done.stderr == b"error"


def test_the_streams_have_their_descriptors():
    done = run("print(sys.stdout.fileno(), sys.stderr.fileno(), sys.stdout.isatty())")
    assert done.stdout.split() == [b"1", b"2", b"False"]


def test_many_bytes_are_written_completely(tmp_path: Path):
    path = tmp_path / "out"
    run(
        "os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1); print('x' * 5_000_000)",
        str(path),
    )
    assert os.path.getsize(path) == 5_000_001
