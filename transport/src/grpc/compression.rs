//! gzip, with a bound on the decompressed size.

use std::io::{Read, Write};

use bytes::Bytes;
use http::HeaderName;

use super::message::{Chain, Message};
use super::status::{Status, code};

/// Header that names the compression of a side's messages.
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// Header that names the encodings that a peer can read.
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Encodings that this crate can read.
pub const ACCEPTED: &str = "identity,gzip";

/// An encoding named by `grpc-encoding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Plain messages.
    Identity,
    /// gzip for messages with the compressed flag.
    Gzip,
    /// An encoding that this crate cannot read.
    Unknown,
}

impl Encoding {
    /// Return the encoding that a header value names.
    pub fn from_header(value: Option<&[u8]>) -> Self {
        match value {
            None | Some(b"identity") => Self::Identity,
            Some(b"gzip") => Self::Gzip,
            Some(_) => Self::Unknown,
        }
    }
}

/// Return whether a `grpc-accept-encoding` names gzip.
pub fn accepts_gzip(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|name| name.trim_ascii() == b"gzip")
}

/// A decompression in progress, in parts of any size.
pub struct Inflater {
    decoder: flate2::read::GzDecoder<Chain>,
    // Parts are kept as they were made, because one growing buffer would be moved and freed at
    // once.
    parts: Vec<Bytes>,
    num_bytes: usize,
    num_packed: usize,
    max_bytes: usize,
}

impl Inflater {
    /// Begin to decompress a message to at most `max_bytes`.
    pub fn new(message: &Message, max_bytes: usize) -> Self {
        Self {
            decoder: flate2::read::GzDecoder::new(message.reader()),
            parts: Vec::new(),
            num_bytes: 0,
            num_packed: message.len(),
            max_bytes,
        }
    }

    /// Return the number of decompressed bytes.
    pub fn num_bytes(&self) -> usize {
        self.num_bytes
    }

    /// Decompress as far as the allowance goes and subtract from it. Return true at the end.
    pub fn inflate(&mut self, allowance: &mut usize) -> Result<bool, Status> {
        // An extra byte tells a message at the bound from one beyond it.
        let wanted = (self.max_bytes + 1 - self.num_bytes).min(*allowance);
        let mut part = Vec::with_capacity(wanted.min(self.num_packed * 3));
        let count = Read::by_ref(&mut self.decoder)
            .take(wanted as u64)
            .read_to_end(&mut part)
            .map_err(|_| Status::new(code::INTERNAL, "the message is not gzip"))?;
        *allowance -= count;
        self.num_bytes += count;
        if count > 0 {
            self.parts.push(part.into());
        }
        if self.num_bytes > self.max_bytes {
            let text = format!("the message is decompressed to more than {} bytes", self.max_bytes);
            return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        Ok(count < wanted)
    }

    /// Return the decompressed message.
    pub fn into_plain(mut self) -> Message {
        match self.parts.len() {
            1 => Message::One(self.parts.swap_remove(0)),
            _ => Message::Many(self.parts),
        }
    }
}

/// Compress bytes, fast rather than small.
pub fn gzip(plain: &[&[u8]]) -> Vec<u8> {
    let total = plain.iter().map(|part| part.len()).sum::<usize>();
    let sink = Vec::with_capacity(total / 2 + 64);
    let mut encoder = flate2::write::GzEncoder::new(sink, flate2::Compression::fast());
    for part in plain {
        encoder.write_all(part).expect("writing to memory does not fail");
    }
    encoder.finish().expect("writing to memory does not fail")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gunzip(message: &Message, max_bytes: usize, step: usize) -> Result<Vec<u8>, Status> {
        let mut inflater = Inflater::new(message, max_bytes);
        while !inflater.inflate(&mut { step })? {}
        Ok(inflater.into_plain().chunks().concat())
    }

    #[test]
    fn gzip_round_trips_over_several_chunks() {
        let plain: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        let packed = Bytes::from(gzip(&[&plain[..10], &plain[10..]]));
        let chunks: Vec<Bytes> = packed.chunks(97).map(Bytes::copy_from_slice).collect();
        let message = Message::Many(chunks);
        for step in [1, 1000, 100_000, 200_000] {
            assert_eq!(gunzip(&message, plain.len(), step).unwrap(), plain, "steps of {step}");
        }
    }

    #[test]
    fn the_bound_is_exact() {
        let packed = Message::One(gzip(&[&[0; 1000]]).into());
        assert_eq!(gunzip(&packed, 1000, 300).unwrap().len(), 1000);
        assert_eq!(gunzip(&packed, 999, 300).unwrap_err().code, code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_bound() {
        let packed = Message::One(gzip(&[&vec![0; 64 << 20]]).into());
        assert!(packed.len() < 1 << 20);
        let mut inflater = Inflater::new(&packed, 1 << 20);
        let mut allowance = 64 << 20;
        assert_eq!(inflater.inflate(&mut allowance).unwrap_err().code, code::RESOURCE_EXHAUSTED);
        assert_eq!(allowance, (63 << 20) - 1);
    }

    #[test]
    fn invalid_gzip_is_refused() {
        assert_eq!(gunzip(&Message::One("abc".into()), 9, 9).unwrap_err().code, code::INTERNAL);
    }

    #[test]
    fn accepted_encodings() {
        assert!(accepts_gzip(b"identity, deflate, gzip"));
        assert!(!accepts_gzip(b"identity,gzipped"));
    }
}
