//! Messages in a body: a flag, a length of four bytes, and the message.

use std::collections::VecDeque;
use std::io::Read;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::compression::{Encoding, gunzip};
use super::status::{Status, code};

/// Bytes of flag and length.
pub const PREFIX_BYTES: usize = 5;
/// Chunks below this are copied together, so that a message sent in frames of one byte costs
/// about its own size and not a shared slice for each.
const SMALL_BYTES: usize = 1024;

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

    /// Reads through it.
    pub fn reader(&self) -> impl Read {
        Chain(self.chunks().iter().cloned().collect())
    }
}

struct Chain(VecDeque<Bytes>);

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

/// Cuts messages out of the frames of a body.
#[derive(Default)]
pub struct Assembler {
    // In order: front, rest, tail. Front is empty only when all three are.
    front: Bytes,
    rest: VecDeque<Bytes>,
    tail: BytesMut,
    num_bytes: usize,
    head: Option<Head>,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    is_compressed: bool,
}

impl Assembler {
    /// Bytes held of messages that are not whole yet.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Whether nothing is held: the body may end here.
    pub fn is_between_messages(&self) -> bool {
        self.num_bytes == 0 && self.head.is_none()
    }

    /// Takes the next frame.
    pub fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        self.num_bytes += data.len();
        if self.front.is_empty() {
            self.front = data;
        } else if data.len() < SMALL_BYTES {
            self.tail.extend_from_slice(&data);
        } else {
            if !self.tail.is_empty() {
                self.rest.push_back(self.tail.split().freeze());
            }
            self.rest.push_back(data);
        }
    }

    /// The next whole message, decompressed, or `None` until more bytes come.
    ///
    /// An error ends the call: nothing sensible can follow in this body.
    pub fn next(
        &mut self,
        encoding: Encoding,
        max_bytes: usize,
    ) -> Result<Option<Message>, Status> {
        let head = match self.head {
            Some(head) => head,
            None if self.num_bytes < PREFIX_BYTES => return Ok(None),
            None => {
                let head = self.read_head(encoding, max_bytes)?;
                self.head = Some(head);
                head
            }
        };
        if self.num_bytes < head.length {
            return Ok(None);
        }
        self.head = None;
        let message = self.take(head.length);
        if head.is_compressed {
            return Ok(Some(Message::One(gunzip(&message, max_bytes)?)));
        }
        Ok(Some(message))
    }

    fn read_head(&mut self, encoding: Encoding, max_bytes: usize) -> Result<Head, Status> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut filled = 0;
        for chunk in self.take(PREFIX_BYTES).chunks() {
            prefix[filled..filled + chunk.len()].copy_from_slice(chunk);
            filled += chunk.len();
        }
        let is_compressed = match (prefix[0], encoding) {
            (0, _) => false,
            (1, Encoding::Gzip) => true,
            (1, Encoding::Identity) => {
                return Err(Status::new(code::INTERNAL, "compressed flag without grpc-encoding"));
            }
            (1, Encoding::Unknown) => {
                return Err(Status::new(code::UNIMPLEMENTED, "unknown grpc-encoding"));
            }
            _ => return Err(Status::new(code::INTERNAL, "unknown flag before a message")),
        };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > max_bytes {
            let text = format!("the message of {length} bytes is larger than {max_bytes} bytes");
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        Ok(Head { length, is_compressed })
    }

    fn take(&mut self, count: usize) -> Message {
        self.num_bytes -= count;
        if self.front.len() >= count {
            let message = Message::One(self.front.split_to(count));
            self.refill();
            return message;
        }
        let mut chunks = Vec::with_capacity(self.rest.len() + 2);
        let mut missing = count;
        while missing > 0 {
            let part = self.front.len().min(missing);
            chunks.push(self.front.split_to(part));
            missing -= part;
            self.refill();
        }
        Message::Many(chunks)
    }

    fn refill(&mut self) {
        if self.front.is_empty() {
            self.front = self.rest.pop_front().unwrap_or_else(|| self.tail.split().freeze());
        }
    }
}

/// A message ready for a body: its prefix, and with it or behind it the bytes.
#[derive(Debug)]
pub struct Framed {
    /// The prefix, and the message where it is small.
    pub head: Bytes,
    /// The message, where it is large enough that not copying it pays.
    pub body: Option<Bytes>,
}

impl Framed {
    /// A small message, copied behind its prefix.
    pub fn copied(message: &[u8]) -> Self {
        let mut head = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        put_prefix(&mut head, 0, message.len());
        head.put_slice(message);
        Self { head: head.freeze(), body: None }
    }

    /// A large message, left where it is.
    pub fn shared(message: Bytes) -> Self {
        let mut head = BytesMut::with_capacity(PREFIX_BYTES);
        put_prefix(&mut head, 0, message.len());
        Self { head: head.freeze(), body: Some(message) }
    }

    /// The same message as gzip.
    pub fn compressed(&self) -> Self {
        let packed = super::compression::gzip(&[
            &self.head[PREFIX_BYTES..],
            self.body.as_deref().unwrap_or(b""),
        ]);
        let mut head = BytesMut::with_capacity(PREFIX_BYTES);
        put_prefix(&mut head, 1, packed.len());
        Self { head: head.freeze(), body: Some(packed.into()) }
    }

    /// Bytes with the prefix.
    pub fn num_bytes(&self) -> usize {
        self.head.len() + self.body.as_ref().map_or(0, Bytes::len)
    }
}

fn put_prefix(target: &mut BytesMut, flag: u8, length: usize) {
    target.put_u8(flag);
    // Checked where Python hands messages over: nothing of 4 GiB comes this far.
    target.put_u32(length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1 << 20;

    fn whole(message: Message) -> Vec<u8> {
        message.chunks().concat()
    }

    fn body(messages: &[&[u8]]) -> Vec<u8> {
        messages.iter().flat_map(|message| Framed::copied(message).head.to_vec()).collect()
    }

    #[test]
    fn any_cut_gives_the_same_messages() {
        let large = vec![7; 5000];
        let messages: [&[u8]; 4] = [b"one", b"", &large, b"four"];
        let body = body(&messages);
        for size in [1, 2, 3, 4, 5, 6, 7, 1023, 1024, 4096, body.len()] {
            let mut assembler = Assembler::default();
            let mut found = Vec::new();
            for chunk in body.chunks(size) {
                assembler.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = assembler.next(Encoding::Identity, MAX).unwrap() {
                    found.push(whole(message));
                }
            }
            assert_eq!(found, messages, "cut into {size}");
            assert!(assembler.is_between_messages());
        }
    }

    #[test]
    fn a_message_in_one_frame_is_not_copied() {
        let frame = Bytes::from(body(&[b"whole"]));
        let mut assembler = Assembler::default();
        assembler.push(frame.clone());
        let Some(Message::One(message)) = assembler.next(Encoding::Identity, MAX).unwrap() else {
            panic!("not in one piece");
        };
        assert_eq!(message.as_ptr(), frame[PREFIX_BYTES..].as_ptr());
    }

    #[test]
    fn a_message_that_is_not_whole_is_noticed() {
        let mut assembler = Assembler::default();
        assembler.push(Bytes::from_static(b"\0\0\0\0\x05ab"));
        assert!(assembler.next(Encoding::Identity, MAX).unwrap().is_none());
        assert!(!assembler.is_between_messages());
        assert_eq!(assembler.num_bytes(), 2);
    }

    #[test]
    fn prefixes_that_end_a_call() {
        let cases: [(&[u8], Encoding, u32); 5] = [
            (b"\0\xff\xff\xff\xff", Encoding::Identity, code::RESOURCE_EXHAUSTED),
            (b"\x07\0\0\0\0", Encoding::Identity, code::INTERNAL),
            (b"\x01\0\0\0\0", Encoding::Identity, code::INTERNAL),
            (b"\x01\0\0\0\0", Encoding::Unknown, code::UNIMPLEMENTED),
            (b"\x01\0\0\0\x03abc", Encoding::Gzip, code::INTERNAL),
        ];
        for (bytes, encoding, expected) in cases {
            let mut assembler = Assembler::default();
            assembler.push(Bytes::from_static(bytes));
            assert_eq!(assembler.next(encoding, MAX).unwrap_err().code, expected, "{bytes:?}");
        }
    }

    #[test]
    fn compressed_messages_are_read() {
        for framed in [Framed::copied(b"hello"), Framed::shared(Bytes::from_static(b"hello"))] {
            let packed = framed.compressed();
            let mut assembler = Assembler::default();
            assembler.push(packed.head);
            assembler.push(packed.body.unwrap());
            let message = assembler.next(Encoding::Gzip, MAX).unwrap().unwrap();
            assert_eq!(whole(message), b"hello");
        }
    }
}
