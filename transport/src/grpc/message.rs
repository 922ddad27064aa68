//! A message as the chunks in which it arrived.

use std::collections::VecDeque;
use std::io::Read;

use bytes::{Buf, Bytes};

/// A complete message.
#[derive(Debug)]
pub enum Message {
    /// A message in one chunk, as nearly every message of a query.
    One(Bytes),
    /// A message in several chunks.
    Many(Vec<Bytes>),
}

impl Message {
    /// Return the size in bytes.
    pub fn len(&self) -> usize {
        self.chunks().iter().map(Bytes::len).sum()
    }

    /// Return whether the message has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Return the chunks in order.
    pub fn chunks(&self) -> &[Bytes] {
        match self {
            Self::One(chunk) => std::slice::from_ref(chunk),
            Self::Many(chunks) => chunks,
        }
    }

    /// Return the chunks, so that each can be freed by itself.
    pub fn into_chunks(self) -> VecDeque<Bytes> {
        match self {
            Self::One(chunk) => VecDeque::from([chunk]),
            Self::Many(chunks) => chunks.into(),
        }
    }

    /// Return a reader over the chunks.
    pub fn reader(&self) -> Chain {
        Chain(self.chunks().iter().cloned().collect())
    }
}

/// A reader over the chunks of a message.
pub struct Chain(VecDeque<Bytes>);

impl Read for Chain {
    fn read(&mut self, target: &mut [u8]) -> std::io::Result<usize> {
        while let Some(front) = self.0.front_mut() {
            if front.is_empty() {
                self.0.pop_front();
                continue;
            }
            let count = front.len().min(target.len());
            front.copy_to_slice(&mut target[..count]);
            return Ok(count);
        }
        Ok(0)
    }
}
