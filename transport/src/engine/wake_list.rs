//! A list of indices to poll, and wakers that add each index once until it is polled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// Indices to poll.
#[derive(Default)]
pub struct WakeList(Mutex<Vec<u32>>);

impl WakeList {
    /// Swap the list with an empty one.
    pub fn swap(&self, empty: &mut Vec<u32>) {
        std::mem::swap(empty, &mut *self.lock());
    }

    /// Return whether no index waits.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        // A list of indices stays valid if a holder of the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Flag {
    index: u32,
    is_set: AtomicBool,
    list: Arc<WakeList>,
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_set.swap(true, Ordering::AcqRel) {
            self.list.lock().push(self.index);
        }
    }
}

/// The waker of one connection or call.
pub struct WakeHandle {
    flag: Arc<Flag>,
    waker: Waker,
}

impl WakeHandle {
    /// Create a waker that adds `index` to the list.
    pub fn new(index: u32, list: &Arc<WakeList>) -> Self {
        let flag = Arc::new(Flag { index, is_set: AtomicBool::new(false), list: list.clone() });
        Self { waker: flag.clone().into(), flag }
    }

    /// Add the index to the list.
    pub fn wake(&self) {
        self.flag.wake_by_ref();
    }

    /// Reset the waker before a poll, so that the index can be added again.
    pub fn reset(&self) {
        self.flag.is_set.store(false, Ordering::Release);
    }

    /// Return the waker for a poll of h2.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}
