"""Models that travel as their library saves them."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged
from skysail.packaging.pins import pinned_for
from skysail.packaging.saved_files import opened_by, temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.base import Loader


def chosen_method(
    source: Any, given: str | None, usual: Sequence[str], known: Collection[str] | None = None
) -> str:
    """Return the name of the method that answers.

    Args:
        source: The object.
        given: Name that the caller gave; None for the first of the usual ones that there is.
        usual: Names in the order of preference.
        known: Names that the format allows; None for every public method.

    Raises:
        InvalidInput: the object has no such method.
    """
    names = (name for name in dir(type(source)) if not name.startswith("_"))
    # Some methods of estimators exist only with the right settings, such as predict_proba.
    found = [
        name
        for name in names
        if (known is None or name in known) and callable(getattr(source, name, None))
    ]
    for name in usual if given is None else [given]:
        if name in found:
            return name
    wanted = " or ".join(map(repr, usual if given is None else [given]))
    raise InvalidInput(
        f"cannot deploy the {type(source).__name__}: it has no method {wanted} that answers "
        f"batches; give method= one of {', '.join(found) or 'none'}"
    )


def package_saved(
    source: Any,
    save: Callable[[str], object],
    file: str,
    loader: type[Loader],
    name: str,
    options: Mapping[str, Any],
    modules: Collection[str],
) -> Packaged:
    """Return how a model travels that its library saves as one file.

    Args:
        source: The model.
        save: Saves it at a path.
        file: Name of the file.
        loader: Class that loads the file, here and in replicas.
        name: Name of the loader.
        options: Options of the loader.
        modules: Modules that the loader needs, whose packages are pinned.

    Raises:
        InvalidInput: the library cannot save the model, such as one that is not fitted.
    """
    with temporary_directory() as directory:
        path = Path(directory.name, file)
        try:
            save(str(path))
        # The classes of these errors are of the library.
        except Exception as error:
            raise InvalidInput(
                f"cannot save the {type(source).__name__}: {error}; deploy a fitted model"
            ) from error
    return Packaged(
        open=opened_by(loader(options), path.parent),
        loader=name,
        options=options,
        data={file: path},
        requirements=pinned_for(modules),
        temporary=(directory,),
    )
