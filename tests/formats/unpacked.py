"""Loading of a model as a replica would, where its surroundings differ.

`python -m formats.unpacked DIRECTORY MODULE PACKAGE…` loads the artifact in a directory as if the packages
and their module were not installed, and writes the error.
"""

import importlib.abc
import importlib.metadata
import shutil
import sys
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from skysail.artifact.build import Artifact
from skysail_common.artifact_files import UnpackedArtifact
from skysail_common.artifacts import MANIFEST_FILE, Manifest, to_json
from skysail_model_server.model import Model
from skysail_model_server.model_loader import LoadFailed, load_model


def write(artifact: Artifact, directory: Path, **changes: Any) -> None:
    """Write the files of an artifact, with a manifest in which some fields differ."""
    for name, source in artifact.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(source, Path):
            shutil.copyfile(source, path)
        else:
            path.write_bytes(source)
    write_manifest(artifact.manifest, directory, **changes)


def write_manifest(manifest: Manifest, directory: Path, **changes: Any) -> None:
    content = manifest.model_copy(update=changes).model_dump(mode="json")
    (directory / MANIFEST_FILE).write_text(to_json(content))


def load(directory: Path) -> Model:
    """Load the model of an artifact, without a warm-up."""
    return load_model(UnpackedArtifact(directory, "0" * 64), limits=None)


class _Hidden(importlib.abc.MetaPathFinder):
    def __init__(self, module: str) -> None:
        self._module = module

    def find_spec(self, name: str, path: Any, target: Any = None) -> None:
        if name.partition(".")[0] == self._module:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def _main(directory: str, module: str, *packages: str) -> None:
    known = importlib.metadata.version

    def version(name: str) -> str:
        if canonicalize_name(name) in packages:
            raise importlib.metadata.PackageNotFoundError(name)
        return known(name)

    importlib.metadata.version = version
    sys.meta_path.insert(0, _Hidden(module))
    try:
        load(Path(directory))
    except LoadFailed as error:
        print(error.message)
    else:
        sys.exit("the model does not need the package")


if __name__ == "__main__":
    _main(*sys.argv[1:])
