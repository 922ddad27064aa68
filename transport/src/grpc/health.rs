//! The two messages of `grpc.health.v1`: a string and a small number.

/// Path of the method that answers once.
pub const CHECK: &str = "/grpc.health.v1.Health/Check";
/// Path of the method that answers now and after every change.
pub const WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Status of an unknown service for a watcher.
pub const SERVICE_UNKNOWN: u32 = 3;

/// Read the service of a `HealthCheckRequest`; `None` if the bytes are not such a message.
pub fn read_service(mut message: &[u8]) -> Option<&str> {
    let mut service = "";
    while !message.is_empty() {
        let tag = read_varint(&mut message)?;
        match tag & 7 {
            0 => {
                read_varint(&mut message)?;
            }
            1 => message = message.get(8..)?,
            2 => {
                let length = usize::try_from(read_varint(&mut message)?).ok()?;
                let value = message.get(..length)?;
                message = &message[length..];
                if tag >> 3 == 1 {
                    service = std::str::from_utf8(value).ok()?;
                }
            }
            5 => message = message.get(4..)?,
            _ => return None,
        }
    }
    Some(service)
}

/// Write a `HealthCheckResponse` with a status below 128.
pub fn write_status(status: u32) -> Vec<u8> {
    if status == 0 { Vec::new() } else { vec![0x08, (status & 0x7f) as u8] }
}

fn read_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for position in 0..10 {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << (7 * position);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        assert_eq!(read_service(b""), Some(""));
        assert_eq!(read_service(b"\x0a\x03abc"), Some("abc"));
        assert_eq!(read_service(b"\x10\x05\x0a\x01x\x1d\0\0\0\0"), Some("x"));
        for broken in [&b"\x0a"[..], b"\x0a\x05ab", b"\x0a\x01\xff", b"\x80", b"\x0b"] {
            assert_eq!(read_service(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn answers() {
        assert_eq!(write_status(0), b"");
        assert_eq!(write_status(1), b"\x08\x01");
    }
}
