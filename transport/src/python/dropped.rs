//! Large messages stay in the `bytes` they came in; where the last use of one ends, Python may
//! not be at hand. They are kept here until it is.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::net::poller::Bell;

/// Objects that are done with, for a thread that holds the interpreter to let go of.
#[derive(Default)]
pub struct Dropped {
    objects: Mutex<Vec<Py<PyBytes>>>,
    // Of an engine with its own thread: nothing else may bring Python here for a long time.
    bell: Option<Weak<Bell>>,
}

impl Dropped {
    /// A queue that rings when something is put into it.
    pub fn ringing(bell: Option<&Arc<Bell>>) -> Arc<Self> {
        Arc::new(Self { objects: Mutex::default(), bell: bell.map(Arc::downgrade) })
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
        if let Some(bell) = self.bell.as_ref().and_then(Weak::upgrade) {
            bell.ring();
        }
    }
}

struct Borrowed {
    bytes: *const [u8],
    // `None` only while it is being dropped.
    object: Option<Py<PyBytes>>,
    dropped: Arc<Dropped>,
}

// SAFETY: the pointer is read only, and what it points to neither moves nor changes while the
// `bytes` object lives, which this struct keeps alive.
unsafe impl Send for Borrowed {}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: the memory of a `bytes` object stays where it is, unchanged, as long as the
        // object lives, and `object` keeps it alive as long as `self`.
        unsafe { &*self.bytes }
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        if let Some(object) = self.object.take() {
            self.dropped.push(object);
        }
    }
}

/// The bytes of an object, without a copy.
pub fn share(object: &Bound<'_, PyBytes>, dropped: &Arc<Dropped>) -> Bytes {
    let bytes: *const [u8] = object.as_bytes();
    let object = Some(object.clone().unbind());
    Bytes::from_owner(Borrowed { bytes, object, dropped: dropped.clone() })
}
