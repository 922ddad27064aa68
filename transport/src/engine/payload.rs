//! Bytes for a peer, counted until the socket's buffer has taken them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Buf, Bytes};

/// A counter of bytes, which also count for its parent.
#[derive(Default)]
pub struct Gauge {
    num_bytes: AtomicUsize,
    parent: Option<Arc<Gauge>>,
}

impl Gauge {
    /// Create a gauge whose bytes also count for `parent`.
    pub fn below(parent: &Arc<Gauge>) -> Arc<Self> {
        Arc::new(Self { num_bytes: AtomicUsize::new(0), parent: Some(parent.clone()) })
    }

    /// Return the number of bytes.
    pub fn get(&self) -> usize {
        self.num_bytes.load(Ordering::Relaxed)
    }

    fn add(&self, count: usize) {
        self.num_bytes.fetch_add(count, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.add(count);
        }
    }

    fn subtract(&self, count: usize) {
        self.num_bytes.fetch_sub(count, Ordering::Relaxed);
        if let Some(parent) = &self.parent {
            parent.subtract(count);
        }
    }
}

/// Body bytes that h2 carries. They leave their gauge when they are written or dropped.
pub struct Payload {
    data: Bytes,
    gauge: Arc<Gauge>,
}

impl Payload {
    /// Count bytes in a gauge.
    pub fn new(data: Bytes, gauge: &Arc<Gauge>) -> Self {
        gauge.add(data.len());
        Self { data, gauge: gauge.clone() }
    }

    /// Return the number of remaining bytes.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Return whether no bytes remain.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Split off the first bytes, which stay counted.
    pub fn split_to(&mut self, count: usize) -> Self {
        Self { data: self.data.split_to(count), gauge: self.gauge.clone() }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.data.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.data
    }

    fn advance(&mut self, count: usize) {
        self.data.advance(count);
        self.gauge.subtract(count);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if !self.data.is_empty() {
            self.gauge.subtract(self.data.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_they_are_written_or_dropped() {
        let whole = Arc::new(Gauge::default());
        let part = Gauge::below(&whole);
        let mut payload = Payload::new(Bytes::from_static(b"0123456789"), &part);
        assert_eq!((part.get(), whole.get()), (10, 10));
        let head = payload.split_to(4);
        payload.advance(1);
        assert_eq!((part.get(), whole.get()), (9, 9));
        drop(head);
        assert_eq!(whole.get(), 5);
        drop(payload);
        assert_eq!((part.get(), whole.get()), (0, 0));
    }
}
