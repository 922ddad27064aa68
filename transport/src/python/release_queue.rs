//! Large messages stay in the `bytes` they came in; where the last use of one ends, Python may
//! not be at hand. They are kept here until it is.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::net::poller::Notifier;

/// Objects that are done with, for a thread that holds the interpreter to let go of.
#[derive(Default)]
pub struct ReleaseQueue {
    objects: Mutex<Vec<Py<PyBytes>>>,
    // Of an engine with its own thread: nothing else may bring Python here for a long time.
    notifier: Option<Weak<Notifier>>,
}

impl ReleaseQueue {
    /// A queue that rings when something is put into it.
    pub fn with_notifier(notifier: Option<&Arc<Notifier>>) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), notifier: notifier.map(Arc::downgrade) })
    }

    /// Lets go of what is done with.
    pub fn clear(&self, _: Python<'_>) {
        // Taken out first: a finalizer may come back here.
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
    // `None` only while it is being dropped.
    object: Option<Py<PyBytes>>,
    release_queue: Arc<ReleaseQueue>,
}

// SAFETY: the pointer is read only, and what it points to neither moves nor changes while the
// `bytes` object lives, which this struct keeps alive.
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

/// The bytes of an object, without a copy.
pub fn share(object: &Bound<'_, PyBytes>, release_queue: &Arc<ReleaseQueue>) -> Bytes {
    let bytes: *const [u8] = object.as_bytes();
    let object = Some(object.clone().unbind());
    Bytes::from_owner(SharedBytes { bytes, object, release_queue: release_queue.clone() })
}
