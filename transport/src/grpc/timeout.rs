//! `grpc-timeout`: at most eight digits and a unit.

use std::time::Duration;

use http::HeaderName;

/// Header of the timeout.
pub const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Parse the timeout of a caller; `None` if the value is invalid.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let amount = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(amount * 3600),
        b'M' => Duration::from_secs(amount * 60),
        b'S' => Duration::from_secs(amount),
        b'm' => Duration::from_millis(amount),
        b'u' => Duration::from_micros(amount),
        b'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit() {
        let cases = [("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("4m", 0.004), ("5u", 5e-6)];
        for (text, seconds) in cases {
            assert_eq!(parse(text.as_bytes()).unwrap().as_secs_f64(), seconds, "{text}");
        }
        assert_eq!(parse(b"99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse(b"99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
    }

    #[test]
    fn invalid_timeouts_are_refused() {
        for text in ["", "1", "S", "1x", "-1S", "1.5S", "123456789S", " 1S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }
}
