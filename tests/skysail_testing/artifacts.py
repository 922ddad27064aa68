"""Readers of artifacts: their files, their function, and a process that loads them."""

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from skysail.artifact.build import Artifact


def artifacts_in(data_dir: Path) -> list[str]:
    """Return the names of the artifacts that a management stores in its data directory."""
    return [path.name for path in (data_dir / "artifacts").iterdir() if path.is_file()]


def members_of(artifact: Artifact) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(artifact.content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def contents_in(directory: Path) -> dict[str, bytes]:
    """Return the content of all files below a directory by their paths."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def files_of(artifact: Artifact) -> list[str]:
    """Return the paths of the user's modules and data files."""
    begin = "modules/"
    return sorted(name[len(begin) :] for name in members_of(artifact) if name.startswith(begin))


def function_in(artifact: Artifact) -> Any:
    return pickle.loads(members_of(artifact)["model.pkl"])


_REPLICA = """
import sys
from pathlib import Path

import numpy as np
from skysail_common.artifact_files import unpack_archive
from skysail_model_server.model_loader import load_model

model = load_model(unpack_archive(Path(sys.argv[1]), Path(sys.argv[2])))
print(model.predict([np.ones((1, 2))], 1)[0].tolist())
"""


def run_in_replica(artifact: Artifact, directory: Path, program: str = _REPLICA) -> str:
    """Load an artifact in a process without the user's modules; return the output.

    Args:
        artifact: The program calls its function with an array of ones [1, 2].
        directory: Empty directory for the files of the process.
        program: Python program; its arguments are the artifact and a work directory.
    """
    file, work_dir = directory / "artifact.zip", directory / "work"
    work_dir.mkdir(parents=True)
    file.write_bytes(artifact.content)
    root = Path(__file__).parents[2]
    parts = ("protos", "sdk", "services/common", "services/model_server")
    done = subprocess.run(
        [sys.executable, "-c", program, str(file), str(work_dir)],
        cwd=work_dir,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(root / part) for part in parts)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
