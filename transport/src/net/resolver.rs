//! A resolver that looks names up on threads, because a lookup may take seconds.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};

use super::poller::Poller;

/// The key of a lookup and its result.
pub type Answer = (u64, io::Result<Vec<SocketAddr>>);

/// Answers of the threads, announced through the poller.
#[derive(Clone)]
pub struct Resolver {
    answers: Arc<Mutex<Vec<Answer>>>,
    poller: Arc<Poller>,
}

impl Resolver {
    /// Create a resolver that notifies `poller`.
    pub fn new(poller: Arc<Poller>) -> Self {
        Self { answers: Arc::default(), poller }
    }

    /// Parse an address `host:port` that needs no lookup.
    pub fn resolve_literal(text: &str) -> Option<SocketAddr> {
        text.parse().ok()
    }

    /// Begin a lookup of `host:port`; its answer carries `key`.
    pub fn begin(&self, key: u64, text: &str) -> io::Result<()> {
        let (resolver, text) = (self.clone(), text.to_owned());
        std::thread::Builder::new().name("skysail-resolver".into()).spawn(move || {
            let found = text.to_socket_addrs().map(Iterator::collect);
            resolver.lock().push((key, found));
            resolver.poller.notify();
        })?;
        Ok(())
    }

    /// Take the answers since the last take.
    pub fn take(&self) -> Vec<Answer> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Answer>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
