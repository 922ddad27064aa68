//! gRPC over HTTP/2 from one epoll, handed to Python in batches.

pub mod engine;
pub mod grpc;
pub mod net;
#[cfg(feature = "python")]
mod python;
