//! Statuses with which the engine refuses calls.

use http::{HeaderMap, HeaderValue};

use crate::grpc::compression::{ACCEPTED, GRPC_ACCEPT_ENCODING};
use crate::grpc::status::{Status, code};

/// The status of a call that fails because the application takes messages too slowly.
pub fn too_much_untaken() -> Status {
    Status::new(code::RESOURCE_EXHAUSTED, "too many received messages wait for the application")
}

/// The status of a call that fails because its peer reads too slowly.
pub fn too_much_unsent() -> Status {
    Status::new(code::RESOURCE_EXHAUSTED, "too many bytes wait for the peer to read them")
}

/// Return a status as trailers, with the known encodings if an encoding may be the cause.
pub fn failure_headers(status: &Status) -> HeaderMap {
    let mut headers = status.to_headers();
    if status.code == code::UNIMPLEMENTED {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    }
    headers
}
