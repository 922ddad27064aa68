//! The interface to Python: the only files that touch the interpreter.
//!
//! No Python object is touched while the engine is locked. Any allocation of an object may run a
//! finalizer that calls the engine again, and the engine's own thread must never wait for the
//! interpreter.

mod arguments;
mod copy_queue;
mod engine;
mod errors;
mod event_tuples;
mod limits;
mod metadata;
mod release_queue;
mod shared_engine;
mod tls;

use pyo3::prelude::*;

/// The compiled part of `skysail_transport`.
#[pymodule]
fn _engine(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<engine::PyEngine>()?;
    module.add_class::<limits::PyLimits>()?;
    module.add_class::<metadata::Metadata>()?;
    module.add_class::<tls::PyServerTls>()?;
    module.add_class::<tls::PyClientTls>()?;
    for (name, kind) in event_tuples::KINDS {
        module.add(name, kind)?;
    }
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
