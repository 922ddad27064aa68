//! gzip, with a bound on what a message may grow to.

use std::io::{Read, Write};

use bytes::Bytes;
use http::HeaderName;

use super::frame::Message;
use super::status::{Status, code};

/// How the messages of one side are compressed.
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
/// What the peer can read.
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// What this crate can read.
pub const ACCEPTED: &str = "identity,gzip";

/// What `grpc-encoding` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// Messages are as they are.
    Identity,
    /// Messages with the flag are gzip.
    Gzip,
    /// Something this crate cannot read.
    Unknown,
}

impl Encoding {
    /// The encoding a header value names.
    pub fn of(value: Option<&[u8]>) -> Self {
        match value {
            None | Some(b"identity") => Self::Identity,
            Some(b"gzip") => Self::Gzip,
            Some(_) => Self::Unknown,
        }
    }
}

/// Whether a `grpc-accept-encoding` names gzip.
pub fn accepts_gzip(value: &[u8]) -> bool {
    value.split(|&byte| byte == b',').any(|name| name.trim_ascii() == b"gzip")
}

/// The message behind compressed bytes, of at most `max_bytes`.
pub fn gunzip(message: &Message, max_bytes: usize) -> Result<Bytes, Status> {
    let mut plain = Vec::with_capacity((message.len() * 3).min(max_bytes));
    // One byte more than allowed, to tell a message at the bound from one beyond it.
    let bound = max_bytes as u64 + 1;
    flate2::read::GzDecoder::new(message.reader())
        .take(bound)
        .read_to_end(&mut plain)
        .map_err(|_| Status::new(code::INTERNAL, "the message is not gzip"))?;
    if plain.len() > max_bytes {
        let text = format!("the message is larger than {max_bytes} bytes when decompressed");
        return Err(Status::new(code::RESOURCE_EXHAUSTED, text));
    }
    Ok(plain.into())
}

/// The bytes, compressed quickly rather than well.
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

    #[test]
    fn there_and_back_over_several_chunks() {
        let plain: Vec<u8> = (0..100_000u32).map(|i| (i / 7) as u8).collect();
        let packed = Bytes::from(gzip(&[&plain[..10], &plain[10..]]));
        let chunks = packed.chunks(97).map(Bytes::copy_from_slice).collect();
        assert_eq!(gunzip(&Message::Many(chunks), plain.len()).unwrap(), plain);
    }

    #[test]
    fn the_bound_is_exact() {
        let packed = Message::One(gzip(&[&[0; 1000]]).into());
        assert_eq!(gunzip(&packed, 1000).unwrap().len(), 1000);
        assert_eq!(gunzip(&packed, 999).unwrap_err().code, code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn a_bomb_costs_no_more_than_the_bound() {
        let packed = Message::One(gzip(&[&vec![0; 64 << 20]]).into());
        assert!(packed.len() < 1 << 20);
        assert_eq!(gunzip(&packed, 1 << 20).unwrap_err().code, code::RESOURCE_EXHAUSTED);
    }

    #[test]
    fn what_is_not_gzip() {
        assert_eq!(gunzip(&Message::One("abc".into()), 9).unwrap_err().code, code::INTERNAL);
    }

    #[test]
    fn accepted_encodings() {
        assert!(accepts_gzip(b"identity, deflate, gzip"));
        assert!(!accepts_gzip(b"identity,gzipped"));
    }
}
