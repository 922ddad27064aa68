//! The Python class `Limits`.

use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::engine::Limits;

/// Largest window of HTTP/2.
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// The class `Limits`; its contract is in the stub.
#[pyclass(frozen, name = "Limits", module = "skysail_transport")]
pub struct PyLimits {
    pub limits: Limits,
}

#[pymethods]
impl PyLimits {
    #[new]
    // The numbers equal `Limits::default`, spelled out for `help()`.
    #[pyo3(signature = (
        *,
        max_message_bytes = 67_108_864,
        max_link_message_bytes = 67_108_864,
        max_header_list_bytes = 16_384,
        max_streams = 1000,
        max_connections = 10_000,
        max_unsent_bytes = 134_217_728,
        max_total_unsent_bytes = 1_073_741_824,
        max_untaken_bytes = 1_073_741_824,
        max_gzip_gain = 100,
        gzip_floor_bytes = 4_194_304,
        message_timeout_s = 120.0,
        stream_high_bytes = 1_048_576,
        stream_window = 1_048_576,
        connection_window = 8_388_608,
        gzip_from_bytes = 0,
        handshake_timeout_s = 10.0,
        keepalive_s = 20.0,
        keepalive_timeout_s = 10.0,
        max_connection_age_s = 0.0,
        max_connection_idle_s = 0.0,
    ))]
    // Each bound is one keyword.
    #[allow(clippy::too_many_arguments)]
    fn new(
        max_message_bytes: usize,
        max_link_message_bytes: usize,
        max_header_list_bytes: u32,
        max_streams: u32,
        max_connections: usize,
        max_unsent_bytes: usize,
        max_total_unsent_bytes: usize,
        max_untaken_bytes: usize,
        max_gzip_gain: usize,
        gzip_floor_bytes: usize,
        message_timeout_s: f64,
        stream_high_bytes: usize,
        stream_window: u32,
        connection_window: u32,
        gzip_from_bytes: usize,
        handshake_timeout_s: f64,
        keepalive_s: f64,
        keepalive_timeout_s: f64,
        max_connection_age_s: f64,
        max_connection_idle_s: f64,
    ) -> PyResult<Self> {
        if stream_window > MAX_WINDOW || connection_window > MAX_WINDOW {
            return Err(PyValueError::new_err("a window must be at most 2**31 - 1 bytes"));
        }
        if max_message_bytes.max(max_link_message_bytes) > u32::MAX as usize {
            return Err(PyValueError::new_err("a message must be at most 2**32 - 1 bytes"));
        }
        let limits = Limits {
            max_message_bytes,
            max_link_message_bytes,
            max_header_list_bytes,
            max_streams,
            max_connections,
            max_unsent_bytes,
            max_total_unsent_bytes,
            max_untaken_bytes,
            max_gzip_gain,
            gzip_floor_bytes,
            message_timeout: duration("message_timeout_s", message_timeout_s)?,
            stream_high_bytes,
            stream_window,
            connection_window,
            gzip_from_bytes,
            handshake_timeout: duration("handshake_timeout_s", handshake_timeout_s)?,
            keepalive: duration("keepalive_s", keepalive_s)?,
            keepalive_timeout: duration("keepalive_timeout_s", keepalive_timeout_s)?,
            max_connection_age: duration("max_connection_age_s", max_connection_age_s)?,
            max_connection_idle: duration("max_connection_idle_s", max_connection_idle_s)?,
        };
        Ok(Self { limits })
    }

    fn __repr__(&self) -> String {
        format!("{:?}", self.limits)
    }
}

fn duration(name: &str, seconds: f64) -> PyResult<Duration> {
    // A year stands for "no limit", and can be added to any instant.
    if (0.0..=3.2e7).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(PyValueError::new_err(format!("{name} must be from 0 to a year")))
}
