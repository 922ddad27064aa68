//! Metadata: headers of the application, with `-bin` values decoded.

use base64::Engine as _;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose};
use http::{HeaderMap, HeaderName, HeaderValue};

/// Peers send base64 with and without padding; this crate sends it without.
const ANY_PADDING: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A decoded value.
#[derive(Debug, PartialEq, Eq)]
pub enum Value {
    /// Value of a key without the suffix `-bin`.
    Text(String),
    /// Value of a key with the suffix `-bin`.
    Binary(Vec<u8>),
}

/// Return whether a header belongs to the protocol and is hidden from the application.
pub fn is_reserved(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "content-type"
            | "te"
            | "user-agent"
            | "grpc-accept-encoding"
            | "grpc-timeout"
            | "grpc-encoding"
            | "grpc-status"
            | "grpc-message"
            | "accept-encoding"
    )
}

/// Return whether any header is for the application.
pub fn has_any(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| !is_reserved(name))
}

/// Decode the headers for the application, in order; `-bin` values that are not base64 are dropped.
pub fn decode(headers: &HeaderMap) -> Vec<(&str, Value)> {
    let mut pairs = Vec::with_capacity(headers.len());
    for (name, value) in headers.iter().filter(|(name, _)| !is_reserved(name)) {
        let key = name.as_str();
        if !key.ends_with("-bin") {
            pairs.push((
                key,
                Value::Text(value.as_bytes().iter().map(|&b| char::from(b)).collect()),
            ));
            continue;
        }
        // A peer may join several values of one key by commas.
        for part in value.as_bytes().split(|&byte| byte == b',') {
            if let Ok(bytes) = ANY_PADDING.decode(part.trim_ascii()) {
                pairs.push((key, Value::Binary(bytes)));
            }
        }
    }
    pairs
}

/// A reason why a pair cannot be sent.
#[derive(Debug, PartialEq, Eq)]
pub enum EncodeError {
    /// A key that is not lower-case, not a header name, or reserved by the protocol.
    Key,
    /// A value that is not printable ASCII, with a key without the suffix `-bin`.
    Value,
}

/// Encode a pair as a header; the value of a `-bin` key is given raw.
pub fn encode(key: &str, value: &[u8]) -> Result<(HeaderName, HeaderValue), EncodeError> {
    let name = HeaderName::from_lowercase(key.as_bytes()).map_err(|_| EncodeError::Key)?;
    if is_reserved(&name) {
        return Err(EncodeError::Key);
    }
    if key.ends_with("-bin") {
        let text = general_purpose::STANDARD_NO_PAD.encode(value);
        let value = HeaderValue::try_from(text).map_err(|_| EncodeError::Value)?;
        return Ok((name, value));
    }
    if !value.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
        return Err(EncodeError::Value);
    }
    HeaderValue::from_bytes(value).map(|value| (name, value)).map_err(|_| EncodeError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(key, value) in pairs {
            headers.append(HeaderName::from_static(key), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn reserved_headers_are_hidden() {
        let own = [("te", "trailers"), ("grpc-timeout", "1S"), ("user-agent", "x")];
        assert!(!has_any(&headers(&own)));
        assert!(has_any(&headers(&[("te", "trailers"), ("x-a", "1")])));
        assert_eq!(decode(&headers(&own)), []);
    }

    #[test]
    fn binary_values_with_and_without_padding_and_joined() {
        let pairs =
            headers(&[("a-bin", "AP8B"), ("b-bin", "AA=="), ("c-bin", "AA,AQ"), ("d-bin", "*")]);
        let decoded = decode(&pairs);
        let expected = [
            ("a-bin", Value::Binary(vec![0, 255, 1])),
            ("b-bin", Value::Binary(vec![0])),
            ("c-bin", Value::Binary(vec![0])),
            ("c-bin", Value::Binary(vec![1])),
        ];
        assert_eq!(decoded, expected);
    }

    #[test]
    fn encoded_pairs_are_decoded() {
        for (key, value) in [("x-a", &b"text"[..]), ("x-b-bin", &[0, 255, 1, 7][..])] {
            let (name, sent) = encode(key, value).unwrap();
            let mut map = HeaderMap::new();
            map.insert(name, sent);
            match &decode(&map)[0].1 {
                Value::Text(text) => assert_eq!(text.as_bytes(), value),
                Value::Binary(bytes) => assert_eq!(bytes, value),
            }
        }
    }

    #[test]
    fn invalid_pairs_are_refused() {
        assert_eq!(encode("X-A", b""), Err(EncodeError::Key));
        assert_eq!(encode("grpc-status", b"0"), Err(EncodeError::Key));
        assert_eq!(encode("x y", b""), Err(EncodeError::Key));
        assert_eq!(encode("x", "ü".as_bytes()), Err(EncodeError::Value));
        assert_eq!(encode("x", b"a\r\nb: c"), Err(EncodeError::Value));
    }
}
