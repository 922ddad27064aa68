//! Reasons for which a call cannot go on.

use crate::grpc::status::Status;

/// A failure of one call, by the side that caused it.
#[derive(Debug)]
pub enum CallError {
    /// A rule of gRPC that the peer broke; the status is sent to it.
    Protocol(Status),
    /// A stream that was reset, or a connection that was lost.
    Disconnected(Status),
}

impl From<Status> for CallError {
    fn from(status: Status) -> Self {
        Self::Protocol(status)
    }
}

impl From<h2::Error> for CallError {
    fn from(error: h2::Error) -> Self {
        Self::Disconnected(Status::from_h2(&error))
    }
}
