"""A pipeline on data frames, asked through every door."""

import datetime

import httpx
import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skysail.errors import InvalidInput
from skysail_testing.client_programs import assert_passes

UTC = datetime.timezone.utc


def people() -> pd.DataFrame:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 80, 60),
            "height": rng.normal(1.7, 0.1, 60),
            "city": rng.choice(["Oslo", "Rome", "Paris"], 60),
            "member": rng.choice([True, False], 60),
            "plan": pd.Categorical(rng.choice(["basic", "gold"], 60)),
        }
    )
    frame.loc[3, "height"] = np.nan
    frame.loc[4, "city"] = None
    frame.loc[5, "plan"] = None
    return frame


def fitted(frame: pd.DataFrame):
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "height"]),
            ("texts", OneHotEncoder(handle_unknown="ignore"), ["city", "plan"]),
            ("flags", "passthrough", ["member"]),
        ]
    )
    label = (frame.age > 40) & (frame.city != "Oslo")
    return make_pipeline(columns, LogisticRegression()).fit(frame, label)


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return people()


@pytest.fixture(scope="module")
def expected(cluster, frame):
    """Deploy the pipeline, and return its own answers."""
    pipeline = fitted(frame)
    with cluster.client() as client:
        client.deploy(
            pipeline.predict_proba,
            name="people",
            version=1,
            example=frame[:5],
            application="people",
        )
    return pipeline.predict_proba(frame)


def test_a_data_frame_is_one_query(client, frame, expected):
    prediction = client.predict("people", frame)
    np.testing.assert_allclose(prediction.output, expected)
    assert len(prediction.frame()) == len(frame)
    shuffled = frame[["plan", "member", "age", "city", "height"]].sample(frac=1, random_state=7)
    np.testing.assert_allclose(client.predict("people", shuffled).output, expected[shuffled.index])


def test_each_row_may_be_a_query(client, frame, expected):
    answers = [each.output for each in client.predict_batch("people", frame)]
    np.testing.assert_allclose(answers, expected)


@pytest.mark.parametrize("row", [0, 3, 4, 5])
def test_a_row_is_a_query(client, frame, expected, row):
    for value in (frame.iloc[row], frame.iloc[row].to_dict(), frame[row : row + 1]):
        output = np.reshape(client.predict("people", value).output, -1)
        np.testing.assert_allclose(output, expected[row])


def test_many_dictionaries_are_rows(client, frame, expected):
    rows = [each.to_dict() for _, each in frame.iterrows()]
    np.testing.assert_allclose(client.predict("people", rows).output, expected)


def test_http_takes_rows_with_null(cluster, frame, expected):
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in frame[:6].to_dict("records")
    ]
    url = f"http://{cluster.http}/people/predict"
    answer = httpx.post(url, json={"input_batch": rows}).json()
    np.testing.assert_allclose(
        [each["output"] for each in answer["batch_predictions"]], expected[:6]
    )
    answer = httpx.post(url, json={"input": rows[4]}).json()
    np.testing.assert_allclose(answer["output"], expected[4])


def test_tritonclient_takes_tensors_by_column(cluster, frame, expected, tmp_path):
    frame[:3].to_pickle(tmp_path / "frame")
    np.save(tmp_path / "expected.npy", expected[:3])
    assert_passes(
        """
        import sys, numpy as np, pandas as pd, tritonclient.grpc as triton

        frame = pd.read_pickle(sys.argv[2] + "/frame")
        expected = np.load(sys.argv[2] + "/expected.npy")
        types = {"age": "INT64", "height": "FP64", "city": "BYTES", "member": "BOOL", "plan": "BYTES"}
        inputs = []
        for name, datatype in types.items():
            inputs.append(triton.InferInput(name, [3], datatype))
            dtype = object if datatype == "BYTES" else None
            inputs[-1].set_data_from_numpy(frame[name].to_numpy(dtype))
        with triton.InferenceServerClient(sys.argv[1]) as client:
            for _ in range(3):
                output = client.infer("people", inputs).as_numpy("output")
                np.testing.assert_allclose(output, expected)
        print("passed")
        """,
        cluster.grpc,
        str(tmp_path),
    )


def test_wrong_columns_are_named(client, frame, expected):
    with pytest.raises(InvalidInput, match=r"missing required input\(s\) \['city'\]"):
        client.predict("people", frame.drop(columns="city"))
    with pytest.raises(
        InvalidInput, match="unexpected column 'weight'; the model takes age, height"
    ):
        client.predict("people", frame.assign(weight=70))
    with pytest.raises(InvalidInput, match="unexpected inference input 'job'"):
        client.predict("people", {**frame.iloc[0].to_dict(), "job": "cook"})
    with pytest.raises(InvalidInput, match="tensor 'age' has datatype FP64, which cannot become"):
        client.predict("people", frame.assign(age=frame.age + 0.5))
    with pytest.raises(InvalidInput, match="input 'age' takes no missing value"):
        client.predict("people", {**frame.iloc[0].to_dict(), "age": None})


def test_the_version_says_that_it_takes_a_data_frame(client, expected):
    (version,) = client.describe_model("people").versions
    assert version.signature.frame == "pandas"
    assert "takes a data frame of pandas with age INT64, height FP64, city" in repr(version)


def next_day(frame):
    after = frame["when"] + pd.Timedelta(days=1)
    late = frame["note"].where(frame["when"] > pd.Timestamp("2031-01-01"))
    return pd.DataFrame({"when": after, "note": late, "count": frame["count"] * 2})


def test_times_texts_and_missing_values_come_back(client, cluster):
    example = pd.DataFrame(
        {
            "when": pd.to_datetime(["2030-05-17", None]),
            "note": ["early", None],
            "count": pd.array([1, None], "Int64"),
        }
    )
    client.deploy(next_day, name="days", version=1, example=example, application="days")
    query = example.assign(when=pd.to_datetime(["2031-05-17T12:30", None]))
    answer = client.predict("days", query).frame()
    wanted = next_day(query).astype({"when": "datetime64[ns]"})
    pd.testing.assert_frame_equal(answer, wanted)
    moment = datetime.datetime(2031, 5, 17, 12, 30, tzinfo=UTC)
    outputs = client.predict("days", {"when": moment, "note": None, "count": None}).outputs
    assert outputs == {"when": np.datetime64("2031-05-18T12:30", "ns"), "note": None, "count": None}
    row = {"when": "2031-05-17T12:30:00Z", "note": "x", "count": 4}
    answer = httpx.post(f"http://{cluster.http}/days/predict", json={"input": row}).json()
    assert answer["output"] == {"when": "2031-05-18T12:30:00", "note": "x", "count": 8}
    row = {"when": None, "note": None, "count": None}
    answer = httpx.post(f"http://{cluster.http}/days/predict", json={"input": row}).json()
    assert answer["output"] == {"when": None, "note": None, "count": None}


def longest(frame):
    return frame.select(pl.col("city").str.to_uppercase(), total=pl.col("n") * 2)


def test_polars(client):
    frame = pl.DataFrame({"n": [1, 2], "city": ["Oslo", None]})
    client.deploy(longest, name="longest", version=1, example=frame)
    answer = client.predict("longest", frame).frame()
    assert answer.equals(pl.DataFrame({"city": ["OSLO", None], "total": [2, 4]}))
    assert client.predict("longest", {"n": 3, "city": "Rome"}).outputs == {
        "city": "ROME",
        "total": 6,
    }
