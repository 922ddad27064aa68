"""The packager of SavedModel folders of TensorFlow."""

from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions
from skysail.packaging.pins import has_distribution, is_installed, pinned
from skysail.packaging.saved_files import path_of
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import ModelContext
from skysail_common.loaders.saved_model import SavedModelLoader

_FILE = "saved_model.pb"


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a SavedModel travels: as its folder.

    Raises:
        InvalidInput: TensorFlow cannot load it, or it lacks the signature that `method` names.
    """
    path = path_of(source)
    if path is None or not (path / _FILE).is_file():
        return None
    chosen = {"method": options.method} if options.method else {}
    distribution = "tensorflow-cpu" if has_distribution("tensorflow-cpu") else "tensorflow"
    requirements = pinned(distribution)
    data = {SavedModelLoader.folder: path}
    if not is_installed("tensorflow"):
        return Packaged(None, "saved-model", chosen, data=data, requirements=requirements)
    loader = SavedModelLoader(chosen)
    try:
        function = loader.open(path, ModelContext())
    except (OSError, ValueError) as error:
        raise InvalidInput(f"cannot deploy {path}: {error}; save the model again") from error
    return Packaged(
        open=lambda context: function,
        loader="saved-model",
        options=chosen,
        data=data,
        requirements=requirements,
        signature=loader.signature(),
    )
