//! What the engine tells the application.

use std::borrow::Cow;
use std::time::Instant;

use http::HeaderMap;

use super::calls::Id;
use crate::grpc::message::Message;
use crate::grpc::status::Status;

/// One thing that happened.
pub enum Event {
    /// A unary call came, whole.
    Call {
        /// To answer it by.
        id: Id,
        /// Index among the engine's paths.
        path: u32,
        /// The request.
        message: Message,
        /// When its connection was last read before it was whole.
        arrival: Instant,
        /// When the caller gives up.
        deadline: Option<Instant>,
        /// The application's headers, if there are any.
        metadata: Option<HeaderMap>,
    },
    /// A peer opened a stream; its messages follow.
    Opened {
        /// To send on it by.
        id: Id,
        /// Index among the engine's paths.
        path: u32,
        /// When the caller gives up.
        deadline: Option<Instant>,
        /// The application's headers, if there are any.
        metadata: Option<HeaderMap>,
    },
    /// A message on a stream, of either role, and when its connection was last read.
    Message(Id, Message, Instant),
    /// The peer sends no more on a stream it opened.
    HalfClosed(Id),
    /// A call or stream of a peer is over without the application: nothing can be answered.
    Cancelled(Id, Cow<'static, str>),
    /// The peer has taken a stream of ours; with its headers.
    Accepted(Id, Option<HeaderMap>),
    /// A stream of ours is over; with the trailers.
    Closed(Id, Status, Option<HeaderMap>),
    /// The queue of a stream that was full has shrunk to half.
    Writable(Id),
}

/// What an event costs beside its message.
const OVERHEAD_BYTES: usize = 256;

impl Event {
    /// The call or stream that it is about.
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

    /// About the memory it holds.
    pub fn num_bytes(&self) -> usize {
        match self {
            Self::Call { message, .. } | Self::Message(_, message, _) => {
                message.len() + OVERHEAD_BYTES
            }
            _ => OVERHEAD_BYTES,
        }
    }
}
