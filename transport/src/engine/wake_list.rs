//! Wakers that put an index on a list, once until it is polled.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Wake, Waker};

/// What is to be polled.
#[derive(Default)]
pub struct WakeList(Mutex<Vec<u32>>);

impl WakeList {
    /// Swaps the list for `empty`, which becomes the list.
    pub fn swap(&self, empty: &mut Vec<u32>) {
        std::mem::swap(empty, &mut *self.lock());
    }

    /// Whether nothing is to be polled.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<u32>> {
        // Whatever panicked, a list of indices is whole.
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
    /// A waker that lists `index`.
    pub fn new(index: u32, list: &Arc<WakeList>) -> Self {
        let flag = Arc::new(Flag { index, is_set: AtomicBool::new(false), list: list.clone() });
        Self { waker: flag.clone().into(), flag }
    }

    /// Lists it.
    pub fn wake(&self) {
        self.flag.wake_by_ref();
    }

    /// Lets it be listed again: it is about to be polled.
    pub fn reset(&self) {
        self.flag.is_set.store(false, Ordering::Release);
    }

    /// What h2 calls.
    pub fn waker(&self) -> &Waker {
        &self.waker
    }
}
