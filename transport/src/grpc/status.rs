//! Status codes, their text on the wire, and the statuses of other failures.

use std::borrow::Cow;

use h2::Reason;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Header `grpc-status`, a number in digits.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// Header `grpc-message`, percent-encoded UTF-8.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// The codes that this crate itself uses.
#[allow(missing_docs)]
pub mod code {
    pub const OK: u32 = 0;
    pub const CANCELLED: u32 = 1;
    pub const UNKNOWN: u32 = 2;
    pub const INVALID_ARGUMENT: u32 = 3;
    pub const DEADLINE_EXCEEDED: u32 = 4;
    pub const NOT_FOUND: u32 = 5;
    pub const PERMISSION_DENIED: u32 = 7;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
    pub const UNAVAILABLE: u32 = 14;
    pub const UNAUTHENTICATED: u32 = 16;
}

/// The end of a call: a code and, unless it is `OK`, a text for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Status code, 0 to 16.
    pub code: u32,
    /// Text for people; may be empty.
    pub text: Cow<'static, str>,
}

impl Status {
    /// Create a status with its text.
    pub fn new(code: u32, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, text: text.into() }
    }

    /// Return the status as trailers.
    pub fn to_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(4);
        self.write(&mut headers);
        headers
    }

    /// Add the status to headers or trailers.
    pub fn write(&self, headers: &mut HeaderMap) {
        let value = match self.code {
            code::OK => HeaderValue::from_static("0"),
            code => HeaderValue::from(code),
        };
        headers.insert(GRPC_STATUS, value);
        if !self.text.is_empty() {
            headers.insert(GRPC_MESSAGE, percent_encode(&self.text));
        }
    }

    /// Read the status of trailers; `None` if they carry none.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(GRPC_STATUS)?;
        let code = value.to_str().ok().and_then(|digits| digits.parse().ok());
        let text = headers.get(GRPC_MESSAGE).map_or(Cow::Borrowed(""), |value| {
            Cow::Owned(String::from_utf8_lossy(&percent_decode(value.as_bytes())).into_owned())
        });
        Some(Self { code: code.unwrap_or(code::UNKNOWN), text })
    }

    /// Convert an HTTP status other than 200.
    ///
    /// Source: gRPC, "HTTP to gRPC Status Code Mapping".
    pub fn from_http(http: http::StatusCode) -> Self {
        let code = match http.as_u16() {
            400 => code::INTERNAL,
            401 => code::UNAUTHENTICATED,
            403 => code::PERMISSION_DENIED,
            404 => code::UNIMPLEMENTED,
            429 | 502 | 503 | 504 => code::UNAVAILABLE,
            _ => code::UNKNOWN,
        };
        Self::new(code, format!("the peer answered with HTTP status {}", http.as_u16()))
    }

    /// Convert an error of h2: a reset stream or a lost connection.
    ///
    /// Source: gRPC over HTTP/2, "Errors".
    pub fn from_h2(error: &h2::Error) -> Self {
        let code = match error.reason() {
            Some(Reason::CANCEL) => code::CANCELLED,
            Some(Reason::ENHANCE_YOUR_CALM) => code::RESOURCE_EXHAUSTED,
            Some(Reason::INADEQUATE_SECURITY) => code::PERMISSION_DENIED,
            Some(Reason::REFUSED_STREAM | Reason::NO_ERROR) | None => code::UNAVAILABLE,
            Some(_) => code::INTERNAL,
        };
        Self::new(code, error.to_string())
    }
}

/// Encode a text for `grpc-message`: printable ASCII except `%` stays, other bytes become `%XX`.
pub fn percent_encode(text: &str) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    let mut encoded = Vec::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if matches!(byte, 0x20..=0x7e) && byte != b'%' {
            encoded.push(byte);
        } else {
            let digits = [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
            encoded.extend_from_slice(&[b'%', digits[0], digits[1]]);
        }
    }
    HeaderValue::from_bytes(&encoded).unwrap_or(HeaderValue::from_static(""))
}

/// Decode a percent-encoded text; invalid escapes stay.
pub fn percent_decode(encoded: &[u8]) -> Vec<u8> {
    let digit = |at: usize| encoded.get(at).and_then(|&byte| char::from(byte).to_digit(16));
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut at = 0;
    while at < encoded.len() {
        if let (b'%', Some(high), Some(low)) = (encoded[at], digit(at + 1), digit(at + 2)) {
            decoded.push((high * 16 + low) as u8);
            at += 3;
        } else {
            decoded.push(encoded[at]);
            at += 1;
        }
    }
    decoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_the_wire() {
        for text in ["", "plain", "100% naïve\nline two ✓", "%41", "a\u{7f}b"] {
            let value = percent_encode(text);
            assert!(value.as_bytes().iter().all(|byte| matches!(byte, 0x20..=0x7e)));
            assert_eq!(percent_decode(value.as_bytes()), text.as_bytes());
        }
    }

    #[test]
    fn broken_escapes_stay() {
        assert_eq!(percent_decode(b"50% of %4"), b"50% of %4");
        assert_eq!(percent_decode(b"%zz%"), b"%zz%");
    }

    #[test]
    fn a_status_is_read_as_it_was_written() {
        let status = Status::new(code::NOT_FOUND, "no 'ß'");
        assert_eq!(Status::read(&status.to_headers()), Some(status));
        assert_eq!(Status::read(&HeaderMap::new()), None);
    }

    #[test]
    fn a_status_that_is_no_number_is_unknown() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_STATUS, HeaderValue::from_static("x"));
        assert_eq!(Status::read(&headers).map(|status| status.code), Some(code::UNKNOWN));
    }
}
