//! Events that the engine reports to the application.

use std::borrow::Cow;
use std::time::Instant;

use http::HeaderMap;

use super::calls::Id;
use crate::grpc::message::Message;
use crate::grpc::status::Status;

/// An event.
pub enum Event {
    /// A complete unary call.
    Call {
        /// Id for the reply.
        id: Id,
        /// Index among the engine's paths.
        path: u32,
        /// The request message.
        message: Message,
        /// Instant of the connection's last read before the call was complete.
        arrival: Instant,
        /// Deadline of the caller.
        deadline: Option<Instant>,
        /// Headers for the application, if any.
        metadata: Option<HeaderMap>,
    },
    /// A stream opened by a peer; its messages follow.
    Opened {
        /// Id for messages and the reply.
        id: Id,
        /// Index among the engine's paths.
        path: u32,
        /// Deadline of the caller.
        deadline: Option<Instant>,
        /// Headers for the application, if any.
        metadata: Option<HeaderMap>,
    },
    /// A message on a stream of either role, and the instant of the connection's last read.
    Message(Id, Message, Instant),
    /// The end of a peer's messages on a stream that it opened.
    HalfClosed(Id),
    /// A peer's call that ended before its reply, with a reason; nothing can be sent.
    Cancelled(Id, Cow<'static, str>),
    /// A link that its server accepted, with the response headers.
    Accepted(Id, Option<HeaderMap>),
    /// A link that has ended, with its status and trailers.
    Closed(Id, Status, Option<HeaderMap>),
    /// A full queue of a stream that has shrunk to half.
    Writable(Id),
}

/// Bytes that an event takes beside its message.
const OVERHEAD_BYTES: usize = 256;

impl Event {
    /// Return the id of the call or stream.
    pub fn id(&self) -> Id {
        match self {
            Self::Call { id, .. } | Self::Opened { id, .. } => *id,
            Self::Message(id, ..)
            | Self::HalfClosed(id)
            | Self::Cancelled(id, _)
            | Self::Accepted(id, _)
            | Self::Closed(id, ..)
            | Self::Writable(id) => *id,
        }
    }

    /// Return about the number of bytes that the event holds.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Call { message, .. } | Self::Message(_, message, _) => {
                message.len() + OVERHEAD_BYTES
            }
            _ => OVERHEAD_BYTES,
        }
    }
}
