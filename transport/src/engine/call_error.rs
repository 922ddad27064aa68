//! Reasons for which a call cannot go on.

use crate::grpc::status::Status;

/// A failure of one call, by its blame.
#[derive(Debug)]
pub enum CallError {
    /// The peer broke a rule of gRPC; the status is sent to it.
    Protocol(Status),
    /// The stream was reset or the connection is lost.
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
