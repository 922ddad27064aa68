//! Conversion of events to tuples.

use std::time::Instant;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString, PyTuple};

use super::copy_queue::CopyQueue;
use super::metadata::wrap;
use crate::engine::Event;
use crate::grpc::message::Message;

const OPENED: u8 = 0;
const MESSAGE: u8 = 1;
const HALF_CLOSED: u8 = 2;
const CANCELLED: u8 = 3;
const ACCEPTED: u8 = 4;
const CLOSED: u8 = 5;
const WRITABLE: u8 = 6;

/// Kinds of events by their names in the module.
pub const KINDS: [(&str, u8); 7] = [
    ("OPENED", OPENED),
    ("MESSAGE", MESSAGE),
    ("HALF_CLOSED", HALF_CLOSED),
    ("CANCELLED", CANCELLED),
    ("ACCEPTED", ACCEPTED),
    ("CLOSED", CLOSED),
    ("WRITABLE", WRITABLE),
];

/// The two lists that `take` returns.
pub type Batch<'py> = (Bound<'py, PyList>, Bound<'py, PyList>);

/// An instant on Rust's clock and on that of `time.monotonic`.
pub struct Clock {
    instant: Instant,
    seconds: f64,
}

impl Clock {
    /// Read both clocks.
    pub fn new() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self { instant: Instant::now(), seconds: time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9 }
    }

    fn to_monotonic_s(&self, at: Instant) -> f64 {
        let later = at.saturating_duration_since(self.instant).as_secs_f64();
        let earlier = self.instant.saturating_duration_since(at).as_secs_f64();
        self.seconds + later - earlier
    }
}

/// Convert calls and other events, each in order; at most `copied_bytes` of large messages are
/// copied.
pub fn build_batch<'py>(
    py: Python<'py>,
    events: Vec<Event>,
    (copy_queue, copied_bytes): (&mut CopyQueue, usize),
    paths: &[Py<PyString>],
    clock: &Clock,
) -> PyResult<Batch<'py>> {
    let calls = PyList::empty(py);
    let others = PyList::empty(py);
    let none = py.None().into_bound(py);
    let seconds = |at: Instant| clock.to_monotonic_s(at).into_pyobject(py).map(Bound::into_any);
    let instant = |deadline: Option<Instant>| deadline.map_or(Ok(none.clone()), seconds);
    let path_of = |path: u32| match paths.get(path as usize) {
        Some(path) => path.bind(py).clone().into_any(),
        None => none.clone(),
    };
    let add = |event: Event, copied: Option<Py<PyBytes>>| -> PyResult<()> {
        let to_bytes = |message: &Message| match copied {
            Some(bytes) => Ok(bytes.into_bound(py)),
            None => to_bytes(py, message),
        };
        match event {
            Event::Call { id, path, message, arrival, deadline, metadata } => {
                calls.append(PyTuple::new(
                    py,
                    [
                        id.into_pyobject(py)?.into_any(),
                        path_of(path),
                        to_bytes(&message)?.into_any(),
                        instant(deadline)?,
                        wrap(py, metadata)?,
                        seconds(arrival)?,
                    ],
                )?)?;
            }
            Event::Opened { id, path, deadline, metadata } => {
                let deadline = instant(deadline)?;
                others.append((OPENED, id, path_of(path), deadline, wrap(py, metadata)?))?;
            }
            Event::Message(id, message, at) => {
                others.append((MESSAGE, id, to_bytes(&message)?, seconds(at)?))?;
            }
            Event::HalfClosed(id) => others.append((HALF_CLOSED, id))?,
            Event::Cancelled(id, reason) => others.append((CANCELLED, id, reason.as_ref()))?,
            Event::Accepted(id, headers) => others.append((ACCEPTED, id, wrap(py, headers)?))?,
            Event::Closed(id, status, trailers) => {
                let text = status.text.as_ref();
                others.append((CLOSED, id, status.code, text, wrap(py, trailers)?))?;
            }
            Event::Writable(id) => others.append((WRITABLE, id))?,
        }
        Ok(())
    };
    for event in events {
        if let Some(event) = copy_queue.enqueue(py, event)? {
            add(event, None)?;
        }
    }
    for (event, copied) in copy_queue.advance(py, copied_bytes) {
        add(event, copied)?;
    }
    Ok((calls, others))
}

fn to_bytes<'py>(py: Python<'py>, message: &Message) -> PyResult<Bound<'py, PyBytes>> {
    match message {
        Message::One(bytes) => Ok(PyBytes::new(py, bytes)),
        Message::Many(chunks) => PyBytes::new_with(py, message.len(), |mut target| {
            for chunk in chunks {
                let (part, rest) = target.split_at_mut(chunk.len());
                part.copy_from_slice(chunk);
                target = rest;
            }
            Ok(())
        }),
    }
}
