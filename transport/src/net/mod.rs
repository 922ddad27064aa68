//! Interfaces to the operating system: readiness, timers, sockets, names and TLS.

pub mod poller;
pub mod resolver;
pub mod socket_io;
pub mod sockets;
pub mod tls;
