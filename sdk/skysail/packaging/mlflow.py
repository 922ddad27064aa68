"""The packager of models of MLflow: folders, and URIs of a tracking store."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.mlflow_folder import DESCRIPTION, MlflowFolder
from skysail.packaging.pins import is_installed
from skysail.packaging.saved_files import path_of, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.mlflow import MODEL_DATA, function_of_folder

_SCHEMES = ("models:/", "runs:/", "mlflow-artifacts:/")
_NAMED_AS = "registered_model_meta"


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a model of MLflow travels: as its folder.

    Replicas load its flavor `python_function`. The folder has the packages, the version of Python,
    and often an example.

    Args:
        source: Path of the folder, URI (`models:/name@alias`, `models:/name/3`, `runs:/id/model`), or
            what `log_model` returned.
        options: Choices of the caller.

    Raises:
        InvalidInput: MLflow is needed here and is not installed, or the model cannot be read.
    """
    uri = getattr(source, "model_uri", None) if _is_logged(source) else source
    if isinstance(uri, str) and uri.startswith(_SCHEMES):
        with temporary_directory() as directory:
            packaged = _packaged(_fetched(uri, directory.name), options)
            return replace(packaged, temporary=(directory,))
    path = path_of(source)
    if path is None or not (path / DESCRIPTION).is_file():
        return None
    return _packaged(path, options)


def _packaged(folder: Path, options: PackagingOptions) -> Packaged:
    if options.method is not None:
        raise InvalidInput(
            f"cannot deploy the model of MLflow by method={options.method!r}: its flavor "
            "python_function has one function; leave method out"
        )
    described = MlflowFolder(folder)
    has_params = described.has_params
    is_here = is_installed("mlflow")
    return Packaged(
        open=(lambda context: function_of_folder(folder, has_params=has_params))
        if is_here
        else None,
        loader="mlflow",
        options={"params": has_params},
        data={MODEL_DATA: folder},
        requirements=described.requirements,
        python_version=described.python_version,
        example=described.example(),
        no_example=(
            "the model was logged without an input example that Skysail can read; give "
            "example=frame[:2], a batch that it can answer"
        ),
    )


def _is_logged(source: Any) -> bool:
    """Return whether an object is what `mlflow.<flavor>.log_model` returned."""
    return type(source).__module__.startswith("mlflow.") and hasattr(source, "model_uri")


def _fetched(uri: str, directory: str) -> Path:
    """Fetch a model from the tracking store, and return its folder."""
    try:
        from mlflow.artifacts import download_artifacts
    except ImportError as error:
        raise InvalidInput(
            f"cannot fetch {uri}: MLflow is not installed here; install mlflow-skinny, or give the "
            "path of a folder"
        ) from error
    try:
        folder = Path(download_artifacts(artifact_uri=uri, dst_path=directory))
    # The classes of these errors are of MLflow and its stores.
    except Exception as error:
        raise InvalidInput(
            f"cannot fetch {uri}: {error}; check the URI, and the tracking store by "
            "mlflow.set_tracking_uri or MLFLOW_TRACKING_URI"
        ) from error
    # The file says how the version was named, by an alias or a number, which is no part of the model.
    (folder / _NAMED_AS).unlink(missing_ok=True)
    return folder
