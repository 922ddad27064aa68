//! A message as the chunks in which it arrived.

use std::collections::VecDeque;
use std::io::Read;

use bytes::{Buf, Bytes};

/// A whole message, in the pieces it came in.
#[derive(Debug)]
pub enum Message {
    /// In one piece: nearly every message of a query.
    One(Bytes),
    /// In several.
    Many(Vec<Bytes>),
}

impl Message {
    /// Its size in bytes.
    pub fn len(&self) -> usize {
        self.chunks().iter().map(Bytes::len).sum()
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its pieces, in order.
    pub fn chunks(&self) -> &[Bytes] {
        match self {
            Self::One(chunk) => std::slice::from_ref(chunk),
            Self::Many(chunks) => chunks,
        }
    }

    /// Its pieces, to be let go of one by one.
    pub fn into_chunks(self) -> VecDeque<Bytes> {
        match self {
            Self::One(chunk) => VecDeque::from([chunk]),
            Self::Many(chunks) => chunks.into(),
        }
    }

    /// Reads through it.
    pub fn reader(&self) -> Chain {
        Chain(self.chunks().iter().cloned().collect())
    }
}

/// Reads through the pieces of a message.
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
