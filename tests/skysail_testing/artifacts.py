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
from skysail.packaging.base import BlobSource
from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.artifacts import MANIFEST_FILE


def artifacts_in(data_dir: Path) -> list[str]:
    """Return the names of the artifacts that a management stores in its data directory."""
    return [path.name for path in (data_dir / "artifacts").iterdir() if path.is_file()]


def bytes_of(source: BlobSource) -> bytes:
    """Return the content of a file of an artifact."""
    return source.read_bytes() if isinstance(source, Path) else bytes(source)


def members_of(artifact: Artifact) -> dict[str, bytes]:
    """Return the content of each file by its path, the manifest first."""
    files = {path: bytes_of(artifact.files[path]) for path in sorted(artifact.files)}
    return {MANIFEST_FILE: artifact.manifest_bytes, **files}


def lay_out(artifact: Artifact, directory: Path) -> UnpackedArtifact:
    """Write the files of an artifact into a directory, as replicas get them."""
    for path, content in members_of(artifact).items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
    return UnpackedArtifact(directory, artifact.sha256)


def zip_of(artifact: Artifact) -> bytes:
    """Return the artifact as earlier clients sent it: an archive of format 1."""
    manifest = artifact.manifest.model_copy(update={"format": 1, "blobs": ()})
    members = {**members_of(artifact), MANIFEST_FILE: manifest.model_dump_json().encode()}
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path, member in members.items():
            archive.writestr(zipfile.ZipInfo(path), member)
    return content.getvalue()


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
from skysail_common.artifact_files import UnpackedArtifact
from skysail_model_server.model_loader import load_model

model = load_model(UnpackedArtifact(Path(sys.argv[1]), "0" * 64))
print(model.predict([np.ones((1, 2))], 1)[0].tolist())
"""


def run_in_replica(artifact: Artifact, directory: Path, program: str = _REPLICA) -> str:
    """Load an artifact in a process without the user's modules; return the output.

    Args:
        artifact: The program calls its function with an array of ones [1, 2].
        directory: Empty directory for the files of the process.
        program: Python program; its arguments are the directory of the artifact and a work
            directory.
    """
    files, work_dir = directory / "artifact", directory / "work"
    work_dir.mkdir(parents=True)
    lay_out(artifact, files)
    root = Path(__file__).parents[2]
    parts = ("protos", "sdk", "services/common", "services/model_server")
    done = subprocess.run(
        [sys.executable, "-c", program, str(files), str(work_dir)],
        cwd=work_dir,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(str(root / part) for part in parts)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip()
