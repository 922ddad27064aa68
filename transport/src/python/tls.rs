//! The Python classes `ServerTls` and `ClientTls`.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::net::tls::{ClientTls, ServerTls, TlsError};

/// A class for TLS; its contract is in the stub.
#[pyclass(frozen, name = "ServerTls", module = "skysail_transport")]
pub struct PyServerTls {
    pub tls: ServerTls,
}

#[pymethods]
impl PyServerTls {
    #[new]
    #[pyo3(signature = (cert_pem, key_pem, client_ca_pem = None))]
    fn new(cert_pem: &[u8], key_pem: &[u8], client_ca_pem: Option<&[u8]>) -> PyResult<Self> {
        Ok(Self { tls: ServerTls::new(cert_pem, key_pem, client_ca_pem).map_err(unusable)? })
    }

    #[pyo3(signature = (cert_pem, key_pem, client_ca_pem = None))]
    fn renew(&self, cert_pem: &[u8], key_pem: &[u8], client_ca_pem: Option<&[u8]>) -> PyResult<()> {
        self.tls.renew(cert_pem, key_pem, client_ca_pem).map_err(unusable)
    }
}

/// A class for TLS; its contract is in the stub.
#[pyclass(frozen, name = "ClientTls", module = "skysail_transport")]
pub struct PyClientTls {
    pub tls: ClientTls,
}

#[pymethods]
impl PyClientTls {
    #[new]
    #[pyo3(signature = (ca_pem, cert_pem = None, key_pem = None, server_name = None))]
    fn new(
        ca_pem: &[u8],
        cert_pem: Option<&[u8]>,
        key_pem: Option<&[u8]>,
        server_name: Option<String>,
    ) -> PyResult<Self> {
        let own = match (cert_pem, key_pem) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                return Err(PyValueError::new_err(
                    "a certificate needs its key, and a key needs its certificate",
                ));
            }
        };
        Ok(Self { tls: ClientTls::new(ca_pem, own, server_name).map_err(unusable)? })
    }
}

fn unusable(error: TlsError) -> PyErr {
    PyValueError::new_err(format!("unusable certificate or key: {error}"))
}
