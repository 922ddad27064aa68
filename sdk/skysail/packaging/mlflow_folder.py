"""A reader of the folder in which MLflow saved a model: signature, example and requirements."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from skysail.artifact.requirements import read_requirements
from skysail.packaging.pins import is_installed
from skysail_common.errors import InvalidInput

DESCRIPTION = "MLmodel"

_FLAVOR = "python_function"
_DTYPES = {
    "boolean": "bool",
    "datetime": "datetime64[ns]",
    "double": "float64",
    "float": "float32",
    "integer": "int32",
    "long": "int64",
}


class MlflowFolder:
    """The folder of a model, with its file `MLmodel`."""

    def __init__(self, folder: Path) -> None:
        """Read the description.

        Raises:
            InvalidInput: PyYAML is not installed here, or the description is not one of a model with
                the flavor `python_function`.
        """
        self.folder = folder
        self._content = _read_yaml(folder / DESCRIPTION)
        flavors = self._content.get("flavors") or {}
        if _FLAVOR not in flavors:
            raise InvalidInput(
                f"cannot deploy {folder}: the model has no flavor {_FLAVOR!r}, only "
                f"{', '.join(map(repr, flavors)) or 'none'}; log it by mlflow.pyfunc"
            )
        self._flavor: Mapping[str, Any] = flavors[_FLAVOR]

    @property
    def python_version(self) -> str | None:
        """Python that saved the model; None if it is unknown."""
        version = self._flavor.get("python_version")
        return None if version is None else str(version)

    @property
    def has_params(self) -> bool:
        """True if queries may have parameters."""
        return bool(self._parts("params"))

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages of the model, as MLflow recorded them.

        Raises:
            InvalidInput: the file with them is unreadable.
        """
        file = self.folder / "requirements.txt"
        if file.is_file():
            return read_requirements((), file)
        conda = self.folder / "conda.yaml"
        dependencies = _read_yaml(conda).get("dependencies") if conda.is_file() else None
        by_pip = [
            each["pip"] for each in dependencies or () if isinstance(each, dict) and "pip" in each
        ]
        return tuple(str(line) for lines in by_pip for line in lines)

    def example(self) -> Any:
        """Return the input example of the model; None if it has none, or one of unknown form."""
        info = self._content.get("saved_input_example_info") or {}
        file = self.folder / str(info.get("artifact_path", ""))
        if not file.is_file():
            return None
        try:
            content = json.loads(file.read_bytes())
        except ValueError:
            return None
        kind = info.get("type")
        if kind == "dataframe" and "inputs" in content:
            # The example has parameters beside its inputs.
            content = content["inputs"]
        if kind == "dataframe" and "columns" in content and is_installed("pandas"):
            return self._data_frame(content)
        if kind == "ndarray" and "inputs" in content:
            return self._arrays(content["inputs"])
        return None

    def _data_frame(self, content: Mapping[str, Any]) -> Any:
        import pandas

        frame = pandas.DataFrame(content["data"], columns=content["columns"])
        types = {each.get("name"): _DTYPES.get(str(each.get("type"))) for each in self._inputs}
        # A column with missing values keeps the type that pandas finds.
        known = {
            name: dtype
            for name, dtype in types.items()
            if dtype is not None and name in frame and not frame[name].isna().any()
        }
        return frame.astype(known)

    def _arrays(self, inputs: Any) -> Any:
        dtypes = {
            each.get("name"): each["tensor-spec"]["dtype"]
            for each in self._inputs
            if "tensor-spec" in each
        }
        if isinstance(inputs, dict):
            return {name: np.array(each, dtypes.get(name)) for name, each in inputs.items()}
        return np.array(inputs, next(iter(dtypes.values()), None))

    @cached_property
    def _inputs(self) -> list[dict[str, Any]]:
        return self._parts("inputs")

    def _parts(self, name: str) -> list[dict[str, Any]]:
        """Return a part of the signature, which is JSON inside of YAML."""
        text = (self._content.get("signature") or {}).get(name)
        return list(json.loads(text)) if text else []


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        import yaml
    except ImportError as error:
        raise InvalidInput(
            f"cannot read {path}: PyYAML is not installed here; install pyyaml"
        ) from error
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidInput(f"cannot read {path}: {error}; save the model again") from error
    if not isinstance(content, dict):
        raise InvalidInput(f"cannot read {path}: it is no description; save the model again")
    return content
