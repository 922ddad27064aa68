"""Client programs, as users write them."""

import subprocess
import sys
import textwrap


def assert_passes(program: str, *arguments: str) -> None:
    """Run a program in a new process; it must print `passed` at its end."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "passed\n", done.stderr
