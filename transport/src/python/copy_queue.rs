//! A queue of large messages that are copied to `bytes` over several turns, so that the event loop
//! runs between.

use std::collections::VecDeque;
use std::ptr;

use bytes::{Buf, Bytes};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::{Event, Id};
use crate::grpc::message::Message;

/// Largest message that is copied at once.
const LARGE_BYTES: usize = 1 << 20;
/// Bytes of larger messages that one turn copies, in about 2 ms.
pub const COPIED_BYTES_PER_TURN: usize = 4 << 20;

struct PendingEvent {
    event: Event,
    chunks: VecDeque<Bytes>,
    // The `bytes` object of a message. Only its first `num_copied` bytes are initialized.
    object: Option<Py<PyBytes>>,
    num_copied: usize,
}

/// Events with messages in copy, and later events of the same calls, in order.
#[derive(Default)]
pub struct CopyQueue {
    pending: VecDeque<PendingEvent>,
}

impl CopyQueue {
    /// Return whether no event waits.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Queue an event if its message is large or an earlier event of its call waits; else return
    /// it.
    pub fn enqueue(&mut self, py: Python<'_>, mut event: Event) -> PyResult<Option<Event>> {
        let mut held = None;
        if let Event::Call { message, .. } | Event::Message(_, message, _) = &mut event
            && message.len() > LARGE_BYTES
        {
            let object = uninitialized(py, message.len())?;
            let whole = std::mem::replace(message, Message::Many(Vec::new()));
            held = Some((object, whole.into_chunks()));
        }
        if held.is_none() && !self.is_pending(event.id()) {
            return Ok(Some(event));
        }
        let (object, chunks) = held.unzip();
        let chunks = chunks.unwrap_or_default();
        self.pending.push_back(PendingEvent { event, chunks, object, num_copied: 0 });
        Ok(None)
    }

    /// Copy up to `allowance` bytes. Return the events that are complete.
    pub fn advance(
        &mut self,
        py: Python<'_>,
        mut allowance: usize,
    ) -> Vec<(Event, Option<Py<PyBytes>>)> {
        let mut done = Vec::new();
        while let Some(first) = self.pending.front_mut() {
            first.copy(py, &mut allowance);
            if !first.chunks.is_empty() {
                break;
            }
            done.extend(self.pending.pop_front().map(|whole| (whole.event, whole.object)));
        }
        done
    }

    fn is_pending(&self, id: Id) -> bool {
        self.pending.iter().any(|pending| pending.event.id() == id)
    }
}

impl PendingEvent {
    fn copy(&mut self, py: Python<'_>, allowance: &mut usize) {
        let Some(object) = &self.object else { return };
        while let Some(chunk) = self.chunks.front_mut()
            && (*allowance > 0 || chunk.is_empty())
        {
            let count = chunk.len().min(*allowance);
            // SAFETY: the object has room for all chunks, its first `num_copied` bytes are filled,
            // and no other code has a reference to it. The interpreter is held.
            unsafe {
                let start = ffi::PyBytes_AsString(object.bind(py).as_ptr()).cast::<u8>();
                ptr::copy_nonoverlapping(chunk.as_ptr(), start.add(self.num_copied), count);
            }
            self.num_copied += count;
            *allowance -= count;
            chunk.advance(count);
            // Each copied chunk is freed, so that the message is held about once.
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

// `PyBytes::new_with` zeroes the memory first, which would fault in all of its pages in one turn.
fn uninitialized(py: Python<'_>, size: usize) -> PyResult<Py<PyBytes>> {
    // SAFETY: without a source, Python creates an object of that size for its caller to fill. No
    // other code gets the object before it is full.
    let object = unsafe {
        let pointer = ffi::PyBytes_FromStringAndSize(ptr::null(), size as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, pointer)?
    };
    Ok(object.cast_into::<PyBytes>()?.unbind())
}
