"""The code of the pages of docs/formats runs as it stands."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from skysail_testing.clusters import RunningCluster

FOLDER = Path(__file__).parents[2] / "docs/formats"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
PROGRAMS = {
    page.stem: "\n".join(blocks)
    for page in sorted(FOLDER.glob("*.md"))
    if (blocks := BLOCK.findall(page.read_text()))
}


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_page_runs(page: str, cluster: RunningCluster, tmp_path: Path):
    program = PROGRAMS[page]
    modules = set(re.findall(r"^(?:import|from) (\w+)", program, re.MULTILINE))
    missing = [each for each in sorted(modules) if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True, text=True, timeout=100, cwd=tmp_path,
        env={**os.environ, "SKYSAIL_DATA_DIR": str(cluster.data_dir)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip(), "a page shows an answer"
