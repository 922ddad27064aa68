"""Fitted pipelines of Spark, on a session in the replica."""

import shutil
from collections.abc import Sequence
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from typing_extensions import override

from skysail_common.errors import ModelFailed
from skysail_common.loaders.base import Loader, ModelContext
from skysail_common.loaders.tables import as_table
from skysail_common.model_functions import Function

MODEL_DATA = "model"
_USUAL_OUTPUTS = ("prediction", "probability")


class SparkLoader(Loader):
    """The loader of a model of `pyspark.ml`.

    Options:
        class: Full name of its class.
    """

    _session: Any = None
    _scratch: TemporaryDirectory[str] | None = None

    @override
    def load(self, context: ModelContext) -> Function:
        from pyspark.sql import SparkSession

        self._scratch = TemporaryDirectory()
        settings = {
            "spark.ui.enabled": "false",
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": "1",
            "spark.local.dir": self._scratch.name,
            "spark.sql.warehouse.dir": self._scratch.name,
        }
        builder = SparkSession.builder.master(f"local[{context.num_threads}]")
        try:
            self._session = builder.config(map=settings).getOrCreate()
        except Exception as error:
            if shutil.which("java") is not None:
                raise
            raise ModelFailed(
                "cannot start Spark: Java is not installed here; use a machine or an image of "
                "replicas that has it"
            ) from error
        module, _, name = self.options["class"].rpartition(".")
        model = getattr(import_module(module), name).load(context.data(MODEL_DATA).as_uri())
        return pipeline_function(model, self._session)

    @override
    def close(self) -> None:
        if self._session is not None:
            self._session.stop()
        if self._scratch is not None:
            self._scratch.cleanup()


def pipeline_function(model: Any, session: Any) -> Function:
    """Return the function of a data frame that answers with the columns that a model adds.

    A model with a column `prediction` answers with that and `probability`, without the columns of
    its stages.
    """

    def predict(X: Any) -> Any:
        frame = session.createDataFrame(as_table(X))
        answers = model.transform(frame)
        added = [name for name in answers.columns if name not in frame.columns]
        outputs = [name for name in _USUAL_OUTPUTS if name in added] or added
        collected = answers.select(*outputs).toPandas()
        return {name: _array(collected[name].tolist()) for name in outputs}

    return predict


def _array(values: Sequence[Any]) -> Any:
    """Return the values of a column, of which vectors become rows."""
    if all(hasattr(each, "toArray") for each in values):
        return np.stack([each.toArray() for each in values])
    return values
