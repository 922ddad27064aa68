//! Large messages on their way into `bytes`: some MiB a turn, so that the loop has its turns
//! between.

use std::collections::VecDeque;
use std::ptr;

use bytes::{Buf, Bytes};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::engine::{Event, Id};
use crate::grpc::message::Message;

/// Messages up to this size are copied at once.
const LARGE_BYTES: usize = 1 << 20;
/// What one turn copies of larger ones, in about 2 ms.
pub const COPIED_BYTES_PER_TURN: usize = 4 << 20;

struct PendingEvent {
    event: Event,
    chunks: VecDeque<Bytes>,
    // Of a message: the part behind the first `num_copied` bytes is not initialized yet.
    object: Option<Py<PyBytes>>,
    num_copied: usize,
}

/// Events whose messages are being copied, and those behind them of the same calls, in order.
#[derive(Default)]
pub struct CopyQueue {
    pending: VecDeque<PendingEvent>,
}

impl CopyQueue {
    /// Whether there is more to copy.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Takes an event in if its message is large, or waits behind such a one; else gives it back.
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

    /// Copies as much as the allowance says. Returns the events that wait no longer.
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
            // SAFETY: the object has room for all chunks, `num_copied` bytes of it are filled, and
            // nobody else knows of it. The interpreter is held.
            unsafe {
                let start = ffi::PyBytes_AsString(object.bind(py).as_ptr()).cast::<u8>();
                ptr::copy_nonoverlapping(chunk.as_ptr(), start.add(self.num_copied), count);
            }
            self.num_copied += count;
            *allowance -= count;
            chunk.advance(count);
            // Its memory goes as that of the object comes: together they hold the message once.
            if chunk.is_empty() {
                self.chunks.pop_front();
            }
        }
    }
}

// `PyBytes::new_with` writes zeros first, which has the system find all the memory in one turn.
fn uninitialized(py: Python<'_>, size: usize) -> PyResult<Py<PyBytes>> {
    // SAFETY: without a source, Python makes an object of that size for its caller to fill; it is
    // given to nobody before it is full.
    let object = unsafe {
        let pointer = ffi::PyBytes_FromStringAndSize(ptr::null(), size as ffi::Py_ssize_t);
        Bound::from_owned_ptr_or_err(py, pointer)?
    };
    Ok(object.cast_into::<PyBytes>()?.unbind())
}
