//! A queue of `bytes` objects to release. Large sent messages are not copied, and their last use
//! may end on a thread without the interpreter.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::net::poller::Notifier;

/// Objects to release on a thread that holds the interpreter.
#[derive(Default)]
pub struct ReleaseQueue {
    objects: Mutex<Vec<Py<PyBytes>>>,
    // The notifier of an engine with its own thread, because Python might not call for a long time.
    notifier: Option<Weak<Notifier>>,
}

impl ReleaseQueue {
    /// Create a queue that notifies when an object is added.
    pub fn with_notifier(notifier: Option<&Arc<Notifier>>) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), notifier: notifier.map(Arc::downgrade) })
    }

    /// Release the queued objects.
    pub fn clear(&self, _: Python<'_>) {
        // The objects leave the lock first, because a finalizer may call the engine again.
        let objects =
            std::mem::take(&mut *self.objects.lock().unwrap_or_else(PoisonError::into_inner));
        drop(objects);
    }

    fn push(&self, object: Py<PyBytes>) {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).push(object);
        if let Some(notifier) = self.notifier.as_ref().and_then(Weak::upgrade) {
            notifier.notify();
        }
    }
}

struct SharedBytes {
    bytes: *const [u8],
    // The object is `None` only during the drop.
    object: Option<Py<PyBytes>>,
    release_queue: Arc<ReleaseQueue>,
}

// SAFETY: the pointer is only read, and the memory neither moves nor changes while the `bytes`
// object lives, which this struct keeps alive.
unsafe impl Send for SharedBytes {}

impl AsRef<[u8]> for SharedBytes {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the memory of a `bytes` object stays where it is, unchanged, as long as the
        // object lives, and `object` keeps it alive as long as `self`.
        unsafe { &*self.bytes }
    }
}

impl Drop for SharedBytes {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.release_queue.push(object);
        }
    }
}

/// Share the bytes of an object without a copy.
pub fn share(object: &Bound<'_, PyBytes>, release_queue: &Arc<ReleaseQueue>) -> Bytes {
    let bytes: *const [u8] = object.as_bytes();
    let object = Some(object.clone().unbind());
    Bytes::from_owner(SharedBytes { bytes, object, release_queue: release_queue.clone() })
}
