//! Looks names up away from the event loop, where it may take seconds.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use super::poller::Poller;

/// What became of a name, and whose it was.
pub type Answer = (u64, io::Result<Vec<SocketAddr>>);

/// Answers that came from threads; the poller's bell tells of them.
#[derive(Clone)]
pub struct Resolver {
    answers: Arc<Mutex<Vec<Answer>>>,
    poller: Arc<Poller>,
}

impl Resolver {
    /// A resolver that rings `poller`.
    pub fn new(poller: Arc<Poller>) -> Self {
        Self { answers: Arc::default(), poller }
    }

    /// The addresses of `host:port` at once, if that needs nobody else.
    pub fn resolve_literal(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }

    /// Begins to look up `host:port`; the answer carries `key`.
    pub fn begin(&self, key: u64, text: &str) -> io::Result<()> {
        let (resolver, text) = (self.clone(), text.to_owned());
        std::thread::Builder::new().name("skysail-resolver".into()).spawn(move || {
            let found = text.to_socket_addrs().map(Iterator::collect);
            resolver.lock().push((key, found));
            resolver.poller.notify();
        })?;
        Ok(())
    }

    /// The answers that came since this was last asked.
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
