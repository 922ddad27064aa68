//! The engine: sockets and calls driven from one epoll. No Python in here.
//!
//! ```text
//! core        the engine and its turn: readiness → connections → calls → events
//! ├─ serving  listeners, accepted connections, requests       ├─ receiving  one call's body
//! ├─ linking  outgoing connections, each with one stream      ├─ sending    one call's answer
//! ├─ answering  what the application says                     ├─ connection one socket's stages
//! ├─ checking   grpc.health.v1 from a table                   └─ calls      ids and slots
//! ├─ timing     deadlines, keepalive, age, idleness
//! └─ ending     drain, close, losses
//! ```

mod answering;
mod calls;
mod checking;
mod connection;
mod core;
mod counters;
mod ending;
mod event;
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
