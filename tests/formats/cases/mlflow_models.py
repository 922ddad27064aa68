"""Models of MLflow: folders, and URIs of a local tracking store."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case
from formats.cases.scikit_learn import column_pipeline, forest, numbers, people


def folder(number: int, directory: Path) -> Path:
    import mlflow.sklearn
    from mlflow.models import infer_signature

    model, frame = column_pipeline(number, directory), people()[:4]
    mlflow.sklearn.save_model(
        model,
        directory / "saved",
        signature=infer_signature(frame, model.predict(frame)),
        input_example=frame,
        pip_requirements=_requirements(),
    )
    return directory / "saved"


def alias(number: int, directory: Path) -> str:
    """Return the URI of a registered model, in a tracking store below the directory."""
    import mlflow.sklearn
    from mlflow.models import infer_signature

    mlflow.set_tracking_uri(f"sqlite:///{directory}/mlflow.db")
    mlflow.set_experiment(
        experiment_id=mlflow.create_experiment("trees", f"file://{directory}/runs")
    )
    model, rows = forest(number, directory), numbers()[0][:4]
    with mlflow.start_run():
        mlflow.sklearn.log_model(
            model,
            name="model",
            registered_model_name="forest",
            signature=infer_signature(rows, model.predict(rows)),
            pip_requirements=_requirements(),
            # The default format does not know every version of numpy.
            serialization_format="cloudpickle",
        )
    mlflow.MlflowClient().set_registered_model_alias("forest", "best", 1)
    return "models:/forest@best"


def with_parameters(number: int, directory: Path) -> Path:
    import mlflow.pyfunc
    from mlflow.models import infer_signature

    class Scaled(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context, model_input, params=None):
            return {"scaled": model_input["age"].to_numpy() * params["factor"] + number}

    frame = people()[["age"]][:4]
    mlflow.pyfunc.save_model(
        directory / "saved",
        python_model=Scaled(),
        signature=infer_signature(frame, params={"factor": 2.0}),
        input_example=(frame, {"factor": 2.0}),
        pip_requirements=_requirements(),
    )
    return directory / "saved"


def _requirements() -> list[str]:
    from importlib.metadata import version

    return [f"{name}=={version(name)}" for name in ("scikit-learn", "pandas", "numpy")]


def ask(uri: Any, batch: Any) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(uri)).predict(batch)


def lengths() -> Any:
    return people()[["age"]][:4].astype(np.float64)


NEEDS = ["mlflow", "pandas", "sklearn"]
CASES = [
    Case("mlflow-folder", folder, lambda: people()[:4], ask, needs=NEEDS, module="mlflow"),
    Case("mlflow-alias", alias, lambda: numbers()[0][:4], ask, needs=NEEDS, module="mlflow"),
    Case("mlflow-parameters", with_parameters, lengths, ask, needs=NEEDS, module="mlflow"),
]
