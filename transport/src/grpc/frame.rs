//! Message frames: a flag, a length of four bytes, and the message.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};

use super::compression::{Encoding, Inflater};
use super::message::Message;
use super::status::{Status, code};

/// Bytes of the flag and the length.
pub const PREFIX_BYTES: usize = 5;
/// Chunks below this size are copied together, so that a message in frames of one byte costs about
/// its own size rather than a shared slice for each.
const SMALL_BYTES: usize = 1024;

/// Bounds on the size of messages.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Largest message, compressed or not.
    pub max_bytes: usize,
    /// Largest ratio of decompression, beyond the floor.
    pub max_gzip_gain: usize,
    /// Decompressed size that any message may have.
    pub gzip_floor_bytes: usize,
}

impl Bounds {
    /// Return the largest decompressed size of a compressed message.
    ///
    /// Repeated text compresses a thousandfold, and parsing it costs time for every byte.
    fn plain_bytes(&self, packed_bytes: usize) -> usize {
        let gained = packed_bytes.saturating_mul(self.max_gzip_gain);
        gained.max(self.gzip_floor_bytes).min(self.max_bytes)
    }
}

/// An assembler of messages from the DATA frames of a body.
#[derive(Default)]
pub struct Assembler {
    // Chunks in order: front, rest, tail. The front is empty only if all three are.
    front: Bytes,
    rest: VecDeque<Bytes>,
    tail: BytesMut,
    num_bytes: usize,
    head: Option<Head>,
    inflater: Option<Inflater>,
}

#[derive(Clone, Copy)]
struct Head {
    length: usize,
    is_compressed: bool,
}

impl Assembler {
    /// Return the bytes of incomplete messages.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes + self.inflater.as_ref().map_or(0, Inflater::num_bytes)
    }

    /// Return whether a complete message waits to be decompressed.
    pub fn is_inflating(&self) -> bool {
        self.inflater.is_some()
    }

    /// Return whether no bytes are held, so that the body may end.
    pub fn is_between_messages(&self) -> bool {
        self.num_bytes == 0 && self.head.is_none() && self.inflater.is_none()
    }

    /// Append a DATA frame.
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

    /// Return the next message, decompressed. `None` means that more bytes, or more allowance for a
    /// decompression, are needed.
    ///
    /// An error ends the call, because the rest of the body cannot be read.
    pub fn next(
        &mut self,
        encoding: Encoding,
        bounds: &Bounds,
        allowance: &mut usize,
    ) -> Result<Option<Message>, Status> {
        if let Some(inflater) = &mut self.inflater {
            let is_whole = inflater.inflate(allowance)?;
            let whole = if is_whole { self.inflater.take() } else { None };
            return Ok(whole.map(Inflater::into_plain));
        }
        let head = match self.head {
            Some(head) => head,
            None if self.num_bytes < PREFIX_BYTES => return Ok(None),
            None => {
                let head = self.read_head(encoding, bounds.max_bytes)?;
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
            self.inflater = Some(Inflater::new(&message, bounds.plain_bytes(message.len())));
            return self.next(encoding, bounds, allowance);
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

/// A message frame for a body: the prefix, and the message in it or after it.
#[derive(Debug)]
pub struct MessageFrame {
    /// The prefix, and the message if it is small.
    pub head: Bytes,
    /// The message, if it is too large to copy.
    pub body: Option<Bytes>,
}

impl MessageFrame {
    /// Copy a small message after its prefix.
    pub fn copy_from_slice(message: &[u8]) -> Self {
        let mut head = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        put_prefix(&mut head, 0, message.len());
        head.put_slice(message);
        Self { head: head.freeze(), body: None }
    }

    /// Frame a large message without a copy.
    pub fn from_bytes(message: Bytes) -> Self {
        let mut head = BytesMut::with_capacity(PREFIX_BYTES);
        put_prefix(&mut head, 0, message.len());
        Self { head: head.freeze(), body: Some(message) }
    }

    /// Return the same message as gzip.
    pub fn to_gzip(&self) -> Self {
        let packed = super::compression::gzip(&[
            &self.head[PREFIX_BYTES..],
            self.body.as_deref().unwrap_or(b""),
        ]);
        let mut head = BytesMut::with_capacity(PREFIX_BYTES);
        put_prefix(&mut head, 1, packed.len());
        Self { head: head.freeze(), body: Some(packed.into()) }
    }

    /// Return the number of bytes, prefix included.
    pub fn num_bytes(&self) -> usize {
        self.head.len() + self.body.as_ref().map_or(0, Bytes::len)
    }
}

fn put_prefix(target: &mut BytesMut, flag: u8, length: usize) {
    target.put_u8(flag);
    // Messages of 4 GiB are refused at the Python interface.
    target.put_u32(length as u32);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Bounds = Bounds { max_bytes: 1 << 20, max_gzip_gain: 10, gzip_floor_bytes: 1 << 10 };

    fn next(assembler: &mut Assembler, encoding: Encoding) -> Result<Option<Message>, Status> {
        assembler.next(encoding, &MAX, &mut usize::MAX.clone())
    }

    fn whole(message: Message) -> Vec<u8> {
        message.chunks().concat()
    }

    fn body(messages: &[&[u8]]) -> Vec<u8> {
        messages
            .iter()
            .flat_map(|message| MessageFrame::copy_from_slice(message).head.to_vec())
            .collect()
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
                while let Some(message) = next(&mut assembler, Encoding::Identity).unwrap() {
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
        let Some(Message::One(message)) = next(&mut assembler, Encoding::Identity).unwrap() else {
            panic!("not in one piece");
        };
        assert_eq!(message.as_ptr(), frame[PREFIX_BYTES..].as_ptr());
    }

    #[test]
    fn an_incomplete_message_is_held() {
        let mut assembler = Assembler::default();
        assembler.push(Bytes::from_static(b"\0\0\0\0\x05ab"));
        assert!(next(&mut assembler, Encoding::Identity).unwrap().is_none());
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
            assert_eq!(next(&mut assembler, encoding).unwrap_err().code, expected, "{bytes:?}");
        }
    }

    #[test]
    fn compressed_messages_are_read() {
        for frame in [
            MessageFrame::copy_from_slice(b"hello"),
            MessageFrame::from_bytes(Bytes::from_static(b"hello")),
        ] {
            let packed = frame.to_gzip();
            let mut assembler = Assembler::default();
            assembler.push(packed.head);
            assembler.push(packed.body.unwrap());
            let message = next(&mut assembler, Encoding::Gzip).unwrap().unwrap();
            assert_eq!(whole(message), b"hello");
        }
    }

    #[test]
    fn the_gain_of_gzip_is_bounded_beyond_a_floor() {
        // gzip gains a thousandfold: 64 KiB decompress to 64 MiB.
        for (size, is_taken) in [(1 << 10, true), (1 << 19, false)] {
            let packed = MessageFrame::copy_from_slice(&vec![0; size]).to_gzip();
            let mut assembler = Assembler::default();
            assembler.push(packed.head);
            assembler.push(packed.body.unwrap());
            let found = next(&mut assembler, Encoding::Gzip);
            assert_eq!(found.is_ok(), is_taken, "{size} bytes");
        }
    }

    #[test]
    fn a_message_is_decompressed_in_parts() {
        let packed = MessageFrame::copy_from_slice(&[7; 1000]).to_gzip();
        let mut assembler = Assembler::default();
        assembler.push(packed.head);
        assembler.push(packed.body.unwrap());
        for part in 1..=3 {
            let mut allowance = 300;
            assert!(assembler.next(Encoding::Gzip, &MAX, &mut allowance).unwrap().is_none());
            assert!(assembler.is_inflating() && !assembler.is_between_messages());
            assert_eq!((allowance, assembler.num_bytes()), (0, 300 * part));
        }
        let message = next(&mut assembler, Encoding::Gzip).unwrap().unwrap();
        assert_eq!(whole(message), [7; 1000]);
        assert!(assembler.is_between_messages());
    }
}
