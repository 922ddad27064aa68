//! What gRPC adds to HTTP/2: message frames, statuses, metadata. No sockets in here.

pub mod compression;
pub mod frame;
pub mod health;
pub mod message;
pub mod metadata;
pub mod status;
pub mod timeout;
