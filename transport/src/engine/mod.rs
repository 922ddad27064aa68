//! The engine: sockets and calls driven from one epoll. No Python in here.
//!
//! ```text
//! core ── the engine and its turn: readiness ─► connections ─► calls ─► events
//! ├─ driving      one connection's and one call's part of a turn
//! ├─ serving      listeners, accepted connections, requests (http_failure: those that are none)
//! ├─ linking      our connections, each with one stream
//! ├─ answering    what the application says
//! ├─ checking     grpc.health.v1 from a table
//! ├─ timing       deadlines, keepalive, age, idleness
//! ├─ ending       losses, drain
//! └─ connection, calls (receiving, sending), payload, wakers: what they are made of
//! ```

mod answering;
mod calls;
mod checking;
mod connection;
mod core;
mod counters;
mod driving;
mod ending;
mod event;
mod http_failure;
mod limits;
mod linking;
mod payload;
mod receiving;
mod sending;
mod serving;
mod timing;
mod wakers;

pub use self::answering::Reply;
pub use self::calls::Id;
pub use self::core::Engine;
pub use self::counters::Counters;
pub use self::event::Event;
pub use self::limits::Limits;
pub use self::linking::Opening;
pub use self::serving::Service;
