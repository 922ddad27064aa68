//! The parts of gRPC above HTTP/2, without sockets: message frames, statuses, metadata.

pub mod compression;
pub mod frame;
pub mod health;
pub mod message;
pub mod metadata;
pub mod status;
pub mod timeout;
