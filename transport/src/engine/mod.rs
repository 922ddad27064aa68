//! The engine: sockets and calls driven from one epoll, without Python.
//!
//! ```text
//! turn ── readiness ─► connections and calls ─► timers ─► events
//! ├─ poll         one connection's and one call's part of a turn
//! ├─ server       listeners, accepted connections, requests
//! ├─ client       links: outgoing connections, each with one stream
//! ├─ application  replies, messages and acknowledgements of the application
//! ├─ health       grpc.health.v1, answered from health_table
//! ├─ timers       deadlines, keepalive, age, idleness (rules in lifetime)
//! ├─ teardown     failures, losses, drain
//! └─ fair_share   shares of the memory bounds
//! core ── the state that all of these work on
//! ├─ connection   one socket: routes, h2_config, schedule
//! ├─ calls        all calls, each with its halves recv and send
//! └─ event, payload, wake_list, limits, counters, …
//! ```
//!
//! Each file imports only files further down, and a test keeps it so.

mod application;
mod call_error;
mod calls;
mod client;
mod connection;
mod core;
mod counters;
mod event;
mod fair_share;
mod h2_config;
mod health;
mod health_table;
mod http_failure;
mod lifetime;
mod limits;
mod payload;
mod poll;
mod recv;
mod refusal;
mod routes;
mod schedule;
mod send;
mod server;
mod teardown;
mod timers;
mod turn;
mod wake_list;

pub use self::application::Reply;
pub use self::calls::Id;
pub use self::client::LinkRequest;
pub use self::core::Engine;
pub use self::counters::Counters;
pub use self::event::Event;
pub use self::limits::Limits;
pub use self::routes::Service;
