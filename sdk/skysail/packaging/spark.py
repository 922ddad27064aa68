"""The packager of fitted pipelines of Spark."""

import json
import re
from pathlib import Path
from typing import Any

from skysail.packaging.base import Packaged, PackagingOptions, type_modules
from skysail.packaging.pins import pinned_for
from skysail.packaging.saved_files import temporary_directory
from skysail_common.errors import InvalidInput
from skysail_common.loaders.spark import MODEL_DATA, pipeline_function

_PART = re.compile(r"part-(\d+)-[-0-9a-f]+(?:-c\d+)?")


def package(source: Any, options: PackagingOptions) -> Packaged | None:
    """Return how a fitted pipeline or another model of `pyspark.ml` travels: as Spark saves it.

    Raises:
        InvalidInput: Spark cannot save it, or a method is given.
    """
    if "pyspark" not in type_modules(source) or not hasattr(source, "transform"):
        return None
    kind = type(source)
    if options.method not in (None, "transform") or not hasattr(source, "write"):
        raise InvalidInput(
            f"cannot deploy the {kind.__name__}: only a fitted model that Spark can save answers, by "
            "its transform; leave method out"
        )
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession() or SparkSession.builder.getOrCreate()
    function = pipeline_function(source, session)
    with temporary_directory() as directory:
        folder = Path(directory.name, MODEL_DATA)
        source.write().save(folder.as_uri())
        _make_repeatable(folder)
    return Packaged(
        open=lambda context: function,
        loader="spark",
        options={"class": f"{kind.__module__}.{kind.__name__}"},
        data={MODEL_DATA: folder},
        requirements=pinned_for({"numpy", "pandas", "pyspark"}),
        temporary=(directory,),
    )


def _make_repeatable(folder: Path) -> None:
    """Remove from the files of a model what differs each time that Spark saves it."""
    for path in [*folder.rglob("*")]:
        if path.suffix == ".crc" or path.name == "_SUCCESS":
            path.unlink()
        elif path.is_file():
            path = path.rename(path.with_name(_PART.sub(r"part-\1", path.name)))
            if path.parent.name == "metadata":
                lines = [_without_time(line) for line in path.read_text().splitlines()]
                path.write_text("".join(f"{line}\n" for line in lines))


def _without_time(line: str) -> str:
    metadata = json.loads(line)
    return json.dumps({**metadata, "timestamp": 0} if "timestamp" in metadata else metadata)
