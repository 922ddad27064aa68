//! Messages, metadata, timeouts and texts of gRPC, without a socket.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use transport::grpc::compression::{Encoding, Inflater, accepts_gzip};
use transport::grpc::frame::{Assembler, Bounds, MessageFrame};
use transport::grpc::message::Message;
use transport::grpc::metadata::{Value, decode, encode};
use transport::grpc::status::{Status, percent_decode, percent_encode};
use transport::grpc::{health, timeout};

const MAX_BYTES: usize = 4096;
const BOUNDS: Bounds = Bounds { max_bytes: MAX_BYTES, max_gzip_gain: 20, gzip_floor_bytes: 1024 };

/// Check a property of the input; its first byte chooses which.
pub fn check(input: &[u8]) {
    let Some((&kind, rest)) = input.split_first() else { return };
    match kind % 6 {
        0 => check_messages(rest),
        1 => check_gzip(rest),
        2 => check_timeout(rest),
        3 => check_metadata(rest),
        4 => check_texts(rest),
        _ => check_small(rest),
    }
}

// Cut a body into pieces of the given sizes. Return its messages, whether it ended in an error, and
// whether it ended between messages.
fn assemble(body: &[u8], sizes: &[u8], encoding: Encoding) -> (Vec<Vec<u8>>, bool, bool) {
    let mut assembler = Assembler::default();
    let mut found = Vec::new();
    let mut rest = body;
    let mut sizes = sizes.iter().cycle();
    while !rest.is_empty() {
        let size = sizes.next().map_or(rest.len(), |&size| usize::from(size) * 16 + 1);
        let (piece, others) = rest.split_at(size.min(rest.len()));
        rest = others;
        assembler.push(Bytes::copy_from_slice(piece));
        loop {
            let mut allowance = size;
            match assembler.next(encoding, &BOUNDS, &mut allowance) {
                Ok(Some(message)) => {
                    assert!(message.len() <= MAX_BYTES);
                    assert_eq!(message.is_empty(), message.chunks().concat().is_empty());
                    found.push(message.chunks().concat());
                }
                Ok(None) if assembler.is_inflating() => assert_eq!(allowance, 0),
                Ok(None) => break,
                Err(_) => return (found, true, false),
            }
        }
        assert!(assembler.num_bytes() <= MAX_BYTES + piece.len());
    }
    (found, false, assembler.is_between_messages())
}

fn check_messages(input: &[u8]) {
    let Some((&count, rest)) = input.split_first() else { return };
    let count = usize::from(count & 7).min(rest.len());
    let (sizes, body) = rest.split_at(count);
    for encoding in [Encoding::Identity, Encoding::Gzip, Encoding::Unknown] {
        let whole = assemble(body, &[], encoding);
        assert_eq!(whole, assemble(body, sizes, encoding));
        assert_eq!(whole, assemble(body, &[0], encoding));
    }
    if body.len() <= MAX_BYTES {
        let frame = MessageFrame::from_bytes(Bytes::copy_from_slice(body));
        for (frame, encoding) in [(frame.to_gzip(), Encoding::Gzip), (frame, Encoding::Identity)] {
            let mut sent = frame.head.to_vec();
            sent.extend_from_slice(frame.body.as_deref().unwrap_or(b""));
            assert_eq!(sent.len(), frame.num_bytes());
            // Bytes that do not compress grow a little.
            let gained = BOUNDS.gzip_floor_bytes.max(BOUNDS.max_gzip_gain * (sent.len() - 5));
            let is_small = encoding == Encoding::Identity || body.len() <= gained;
            if sent.len() <= MAX_BYTES && is_small {
                assert_eq!(assemble(&sent, sizes, encoding), (vec![body.to_vec()], false, true));
            }
        }
    }
}

fn gunzip(message: &Message, step: usize) -> Result<Vec<u8>, Status> {
    let mut inflater = Inflater::new(message, MAX_BYTES);
    while !inflater.inflate(&mut { step })? {}
    Ok(inflater.into_plain().chunks().concat())
}

fn check_gzip(input: &[u8]) {
    let whole = gunzip(&Message::One(Bytes::copy_from_slice(input)), usize::MAX);
    let pieces = input.chunks(3).map(Bytes::copy_from_slice).collect();
    let cut = gunzip(&Message::Many(pieces), 7);
    assert_eq!(whole, cut);
    assert!(whole.map_or(0, |plain| plain.len()) <= MAX_BYTES);
}

fn check_timeout(input: &[u8]) {
    let is_form = matches!(input, [digits @ .., b'H' | b'M' | b'S' | b'm' | b'u' | b'n']
        if (1..=8).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit));
    assert_eq!(timeout::parse(input).is_some(), is_form);
}

fn check_metadata(input: &[u8]) {
    let mut headers = HeaderMap::new();
    for pair in input.split(|&byte| byte == b'\n') {
        let (key, value) = pair.split_at(pair.len().min(6));
        if let Ok(text) = std::str::from_utf8(key)
            && let Ok((name, header)) = encode(text, value)
        {
            let mut sent = HeaderMap::new();
            sent.insert(name, header);
            let expected = if text.ends_with("-bin") {
                Value::Binary(value.to_vec())
            } else {
                Value::Text(String::from_utf8(value.to_vec()).expect("ASCII"))
            };
            assert_eq!(decode(&sent), [(text, expected)]);
        }
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(key), HeaderValue::from_bytes(value))
        {
            headers.append(name, value);
        }
    }
    decode(&headers);
}

fn check_texts(input: &[u8]) {
    percent_decode(input);
    let text = String::from_utf8_lossy(input);
    let value = percent_encode(&text);
    assert_eq!(percent_decode(value.as_bytes()), text.as_bytes());
    let mut headers = HeaderMap::new();
    for name in ["grpc-status", "grpc-message"] {
        if let Ok(value) = HeaderValue::from_bytes(input) {
            headers.insert(name, value);
        }
    }
    if let Some(status) = Status::read(&headers) {
        let again = Status::read(&status.to_headers()).expect("there is one");
        assert_eq!(again, status);
    }
}

fn check_small(input: &[u8]) {
    accepts_gzip(input);
    let _ = Encoding::from_header(Some(input));
    if let Some(service) = health::read_service(input) {
        assert!(service.len() <= input.len());
    }
}
