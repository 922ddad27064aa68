//! Errors of the engine as exceptions of Python.

use std::io;

use pyo3::exceptions::{PyOSError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;

/// The error of an engine whose thread has panicked.
pub fn internal_error() -> io::Error {
    io::Error::other("internal error: the engine has panicked")
}

/// The exception of a method that needs an open engine.
pub fn closed_error() -> PyErr {
    PyRuntimeError::new_err("the engine is closed")
}

/// Convert an error of the system to `OSError`, and one of an argument to `ValueError`.
pub fn to_py_error(error: io::Error) -> PyErr {
    match error.raw_os_error() {
        // Python picks the subclass by the number.
        Some(number) => PyOSError::new_err((number, error.to_string())),
        None if error.kind() == io::ErrorKind::InvalidInput => {
            PyValueError::new_err(error.to_string())
        }
        None => PyOSError::new_err(error.to_string()),
    }
}
