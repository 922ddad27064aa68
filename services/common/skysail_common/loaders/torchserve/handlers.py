"""The base class of handlers, with the names that TorchServe documents.

Source: TorchServe, "Custom service" and "Default handlers". Changed: no profiler, no explanations,
no compilation by `model-config.yaml`, and neither ONNX nor AOTInductor files.
"""

import importlib
import inspect
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from skysail_common.errors import InvalidInput
from skysail_common.loaders.torchserve.context import Context

_LABELS_FILE = "index_to_name.json"


class BaseHandler:
    """A handler of tensors: `preprocess`, `inference` and `postprocess`, each to be overridden."""

    def __init__(self) -> None:
        """Begin without a model; `initialize` loads it."""
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: Any = None
        self.map_location: str | None = None
        self.initialized = False
        self.context: Context | None = None
        self.manifest: dict[str, Any] = {}
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.target = 0

    def initialize(self, context: Context) -> None:
        """Load the model of the archive: a module with its weights, or TorchScript.

        Raises:
            InvalidInput: the archive has neither.
        """
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self.map_location = "cpu" if gpu is None else "cuda"
        self.device = torch.device("cpu" if gpu is None else f"cuda:{gpu}")
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        folder = Path(properties["model_dir"])
        described = self.manifest["model"]
        serialized, source = described.get("serializedFile"), described.get("modelFile")
        self.model_pt_path = str(folder / serialized) if serialized else None
        if source:
            self.model = self._load_pickled_model(str(folder), source, self.model_pt_path)
        elif self.model_pt_path is not None and self.model_pt_path.endswith((".pt", ".pth")):
            self.model = self._load_torchscript_model(self.model_pt_path)
        else:
            raise InvalidInput(
                f"cannot load the model of the archive: {serialized or 'no file'} is neither "
                "TorchScript (.pt) nor has a model file with its class; override initialize()"
            )
        self.model.to(self.device).eval()
        self.mapping = load_label_mapping(str(folder / _LABELS_FILE))
        self.initialized = True

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> Any:
        module = importlib.import_module(Path(model_file).stem)
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            names = ", ".join(each.__name__ for each in classes) or "none"
            raise InvalidInput(
                f"cannot load the model of the archive: {model_file} must define one class and "
                f"defines {names}; override initialize()"
            )
        model = classes[0]()
        if model_pt_path is not None:
            model.load_state_dict(torch.load(model_pt_path, map_location=self.device))
        return model

    def preprocess(self, data: Any) -> Any:
        """Return the tensor of the requests."""
        return torch.as_tensor(data, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the model answers, without gradients."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> Any:
        """Return the rows of a tensor as lists."""
        return data.tolist()

    def handle(self, data: Any, context: Context) -> Any:
        """Return an answer for each request."""
        self.context = context
        return self.postprocess(self.inference(self.preprocess(data)))


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Return the classes that a module defines, and does not import."""
    found = inspect.getmembers(module, inspect.isclass)
    own = [each for _, each in found if each.__module__ == module.__name__]
    return [each for each in own if parent_class is None or issubclass(each, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, Any] | None:
    """Return the labels of classes by their index as text; None without the file."""
    path = Path(mapping_file_path)
    if not path.is_file():
        return None
    mapping = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(mapping, dict):
        raise InvalidInput(f"cannot read {path.name}: it is no JSON object; check the file")
    nested = mapping.get("object_type_names")
    return dict(nested) if isinstance(nested, dict) else mapping


def map_class_to_label(
    probs: list[list[float]], mapping: dict[str, Any] | None = None, lbl_classes: Any = None
) -> list[dict[str, float]]:
    """Return the probabilities of each row by label."""
    classes = lbl_classes or [[str(index) for index in range(len(row))] for row in probs]
    return [
        {
            _label(mapping, index): probability
            for index, probability in zip(indices, row, strict=True)
        }
        for indices, row in zip(classes, probs, strict=True)
    ]


def _label(mapping: dict[str, Any] | None, index: Any) -> str:
    label = str(index) if mapping is None else mapping.get(str(index), str(index))
    # The file of ImageNet has the identifier and the name.
    return str(label[1] if isinstance(label, list) else label)
