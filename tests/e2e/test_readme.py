"""The commands and the code of the README and of the first guide run as they stand."""

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
DEFAULT_PORTS = (8000, 8001, 8003)


def program(text: str) -> str:
    """Return a shell script that runs every block in order; all Python is one session."""
    blocks = BLOCK.findall(text)
    # The first block of the README is an excerpt that cannot run alone.
    if blocks[0][1].startswith("client.deploy("):
        del blocks[0]
    script = ["set -e"]
    python: list[str] = []
    for language, code in blocks:
        if language == "python":
            python.append(code)
            whole = "\n".join(python)
            script.append(f"{shlex.quote(sys.executable)} -c {shlex.quote(whole)}")
            # Later blocks do not repeat the calls of earlier ones.
            python = [
                re.sub(r"^(client\.(?!predict).*|print\(.*)$", "", p, flags=re.M) for p in python
            ]
        else:
            script.append(code)
    return "\n".join(script)


@pytest.mark.parametrize(
    ("page", "outputs"),
    [
        ("README.md", ['"default":false', '"platform":"python"', "outcome  OK"]),
        ("docs/getting-started.md", ["skysail_dispatches_total{"]),
    ],
)
def test_the_page_runs(page: str, outputs: list[str], tmp_path: Path):
    for port in DEFAULT_PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                pytest.skip(f"port {port}, which the page uses, is in use")
    environment = {
        **os.environ,
        "SKYSAIL_DATA_DIR": str(tmp_path / "data"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    try:
        done = subprocess.run(
            ["bash", "-c", program((ROOT / page).read_text())],
            capture_output=True,
            text=True,
            timeout=110,
            env=environment,
            cwd=tmp_path,
            check=False,
        )
    finally:
        # The script may have failed before its own `down`.
        subprocess.run(
            [sys.executable, "-m", "skysail", "down"],
            env=environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert "Skysail is ready" in done.stdout
    assert "stopped" in done.stdout
    assert [output for output in outputs if output not in done.stdout] == []
