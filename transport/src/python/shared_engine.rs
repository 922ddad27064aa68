//! The engine behind its lock, and the thread that turns it.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::{Engine, Event};
use crate::net::poller::{Notifier, Poller};

/// The state that Python and the engine's own thread share.
pub struct State {
    /// The engine.
    pub engine: Engine,
    /// The notifier of an engine with its own thread: readable while events wait.
    pub notifier: Option<Arc<Notifier>>,
    /// Whether the notifier is readable.
    pub is_notified: bool,
    /// Whether Python called `wake` since its last `take`.
    pub is_wake_requested: bool,
}

impl State {
    /// Notify Python if events wait and the notifier is silent.
    pub fn notify(&mut self) {
        if let Some(notifier) = &self.notifier
            && self.engine.has_events()
            && !std::mem::replace(&mut self.is_notified, true)
        {
            notifier.notify();
        }
    }

    /// Take the events, after a turn if the engine has no thread.
    pub fn take(&mut self) -> io::Result<Vec<Event>> {
        match &self.notifier {
            None => self.engine.turn()?,
            Some(notifier) => {
                notifier.clear();
                self.is_notified = false;
            }
        }
        Ok(self.engine.take_events())
    }
}

/// A state shared by threads; `None` once the engine is closed.
pub type Shared = Arc<Mutex<Option<State>>>;

/// Lock the state, and drop an engine that a panic left in an unknown state.
pub fn lock(shared: &Shared) -> MutexGuard<'_, Option<State>> {
    shared.lock().unwrap_or_else(|poisoned| {
        // Dropping the engine closes its descriptors, and `take` reports the failure.
        let mut state = poisoned.into_inner();
        *state = None;
        state
    })
}

/// Lock a value that stays valid if a holder of the lock panics.
pub fn unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A guard that notifies Python when the engine's thread ends, also by a panic.
struct ExitNotice(Arc<Notifier>);

impl Drop for ExitNotice {
    fn drop(&mut self) {
        self.0.notify();
    }
}

/// Turn the engine until it is closed, on a thread that never touches Python.
pub fn run_engine_thread(shared: &Shared, poller: &Poller, notifier: Arc<Notifier>) {
    let _exit_notice = ExitNotice(notifier);
    let mut ready = Vec::new();
    loop {
        ready.clear();
        if poller.wait(&mut ready, None).is_err() {
            return;
        }
        let mut state = lock(shared);
        let Some(state) = state.as_mut() else { return };
        state.engine.turn_with(&ready);
        state.notify();
    }
}
