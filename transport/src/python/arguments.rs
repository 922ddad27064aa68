//! Arguments of Python: replies, messages and metadata.

use std::borrow::Cow;
use std::sync::Arc;

use http::HeaderMap;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use super::release_queue::{ReleaseQueue, share};
use crate::engine::{Id, Reply};
use crate::grpc::frame::MessageFrame;
use crate::grpc::metadata::{EncodeError, encode};
use crate::grpc::status::{Status, code};

/// Largest message that is copied, because keeping its object would cost more.
const COPIED_BYTES: usize = 64 << 10;

/// Convert `(id, bytes)` or `(id, status, text, trailers, bytes)`.
pub fn to_reply(item: &Bound<'_, PyAny>, release_queue: &Arc<ReleaseQueue>) -> PyResult<Reply> {
    let tuple = item.cast::<PyTuple>()?;
    let id = tuple.get_borrowed_item(0)?.extract()?;
    match tuple.len() {
        2 => Ok(Reply {
            id,
            status: Status { code: code::OK, text: Cow::Borrowed("") },
            trailers: None,
            message: Some(to_framed(&tuple.get_item(1)?, release_queue)?),
        }),
        5 => {
            let text: Option<String> = tuple.get_borrowed_item(2)?.extract()?;
            let code = tuple.get_borrowed_item(1)?.extract()?;
            let status = Status { code, text: text.unwrap_or_default().into() };
            let (trailers, message) = (tuple.get_item(3)?, tuple.get_item(4)?);
            let trailers = if trailers.is_none() { None } else { Some(to_headers(&trailers)?) };
            let message =
                if message.is_none() { None } else { Some(to_framed(&message, release_queue)?) };
            Ok(Reply { id, status, trailers, message })
        }
        count => Err(PyTypeError::new_err(format!("a reply must have 2 or 5 parts, not {count}"))),
    }
}

/// Convert `(id, bytes)`.
pub fn to_message(
    item: &Bound<'_, PyAny>,
    release_queue: &Arc<ReleaseQueue>,
) -> PyResult<(Id, MessageFrame)> {
    let tuple = item.cast::<PyTuple>()?;
    let id = tuple.get_borrowed_item(0)?.extract()?;
    Ok((id, to_framed(&tuple.get_item(1)?, release_queue)?))
}

/// Convert metadata to send: an iterable of pairs.
pub fn to_headers(pairs: &Bound<'_, PyAny>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::new();
    for pair in pairs.try_iter()? {
        let (key, value): (String, Bound<'_, PyAny>) = pair?.extract()?;
        let encoded = match value.cast::<PyString>() {
            Ok(text) => encode(&key, text.to_cow()?.as_bytes()),
            Err(_) => encode(&key, value.cast::<PyBytes>()?.as_bytes()),
        };
        let (name, value) = encoded.map_err(|problem| {
            PyValueError::new_err(match problem {
                EncodeError::Key => format!("{key:?} is not a metadata key"),
                EncodeError::Value => format!("the value of {key:?} is not printable ASCII"),
            })
        })?;
        headers.append(name, value);
    }
    Ok(headers)
}

fn to_framed(
    object: &Bound<'_, PyAny>,
    release_queue: &Arc<ReleaseQueue>,
) -> PyResult<MessageFrame> {
    let object = object.cast::<PyBytes>()?;
    let bytes = object.as_bytes();
    if bytes.len() <= COPIED_BYTES {
        return Ok(MessageFrame::copy_from_slice(bytes));
    }
    if bytes.len() > u32::MAX as usize {
        return Err(PyValueError::new_err("a message must be at most 2**32 - 1 bytes"));
    }
    Ok(MessageFrame::from_bytes(share(object, release_queue)))
}
