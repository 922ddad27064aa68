//! The Python class `Metadata`: headers, decoded on demand.

use http::HeaderMap;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::grpc::metadata::{Value, decode};

static EMPTY: PyOnceLock<Py<Metadata>> = PyOnceLock::new();

/// The class `Metadata`; its contract is in the stub.
#[pyclass(frozen, module = "skysail_transport")]
pub struct Metadata {
    headers: HeaderMap,
}

/// Wrap headers in a Python object; all empty ones share one.
pub fn wrap<'py>(py: Python<'py>, headers: Option<HeaderMap>) -> PyResult<Bound<'py, PyAny>> {
    let Some(headers) = headers else {
        let empty =
            EMPTY.get_or_try_init(py, || Py::new(py, Metadata { headers: HeaderMap::new() }))?;
        return Ok(empty.bind(py).clone().into_any());
    };
    Ok(Bound::new(py, Metadata { headers })?.into_any())
}

#[pymethods]
impl Metadata {
    fn pairs<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let pairs = decode(&self.headers);
        PyList::new(py, pairs.iter().map(|(key, value)| (*key, to_object(py, value))))
    }

    fn as_dict<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let dict = PyDict::new(py);
        for (key, value) in decode(&self.headers) {
            dict.set_item(key, to_object(py, &value))?;
        }
        Ok(dict)
    }

    #[pyo3(signature = (key, default = None))]
    fn get<'py>(
        &self,
        py: Python<'py>,
        key: &str,
        default: Option<Bound<'py, PyAny>>,
    ) -> Option<Bound<'py, PyAny>> {
        let pairs = decode(&self.headers);
        let found = pairs.iter().rev().find(|(name, _)| *name == key);
        found.map(|(_, value)| to_object(py, value)).or(default)
    }

    fn __len__(&self) -> usize {
        decode(&self.headers).len()
    }

    fn __repr__(&self) -> String {
        format!("Metadata({:?})", decode(&self.headers))
    }
}

fn to_object<'py>(py: Python<'py>, value: &Value) -> Bound<'py, PyAny> {
    match value {
        Value::Text(text) => PyString::new(py, text).into_any(),
        Value::Binary(bytes) => PyBytes::new(py, bytes).into_any(),
    }
}
