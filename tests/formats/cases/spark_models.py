"""Fitted pipelines of Spark."""

from pathlib import Path
from typing import Any

import numpy as np

from formats.case import Case
from formats.cases.scikit_learn import labels_of, people


def session() -> Any:
    from pyspark.sql import SparkSession

    return (
        SparkSession.builder.master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.driver.extraJavaOptions", "-XX:TieredStopAtLevel=1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.sql.shuffle.partitions", "1")
        .getOrCreate()
    )


def end() -> None:
    """Stop Spark and its Java process, which would wait for the end of this one."""
    from pyspark import SparkContext

    session().stop()
    gateway = SparkContext._gateway
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)
    SparkContext._gateway = SparkContext._jvm = None


def pipeline(number: int, directory: Path) -> Any:
    from pyspark.ml import Pipeline
    from pyspark.ml.classification import LogisticRegression
    from pyspark.ml.feature import StringIndexer, VectorAssembler

    spark = session()
    frame = people(40)
    frame["label"] = (labels_of(frame) == "yes").astype(float)
    stages = [
        StringIndexer(inputCol="city", outputCol="place", handleInvalid="keep"),
        VectorAssembler(inputCols=["age", "visits", "place"], outputCol="features"),
        LogisticRegression(maxIter=2 + number),
    ]
    return Pipeline(stages=stages).fit(spark.createDataFrame(frame))


def ask(model: Any, batch: Any) -> Any:
    answers = model.transform(session().createDataFrame(batch)).toPandas()
    return {
        "prediction": answers["prediction"].to_numpy(),
        "probability": np.stack([each.toArray() for each in answers["probability"]]),
    }


CASES = [
    Case(
        "spark-pipeline",
        pipeline,
        lambda: people()[:4],
        ask,
        needs=["pyspark", "pandas"],
        programs=["java"],
        needs_same_python=False,
        module="pyspark",
        timeout_s=240.0,
        finish=end,
    )
]
