//! Every bound of the engine.

use std::time::{Duration, Instant};

use crate::grpc::frame::Bounds;

/// What peers may cost; a duration of zero turns its rule off.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest message, as it comes and decompressed; a larger one ends its call.
    pub max_message_bytes: usize,
    /// The same for messages on links, whose peers are known.
    pub max_link_message_bytes: usize,
    /// Largest headers of a request, keys and values.
    pub max_header_list_bytes: u32,
    /// Calls at a time on one connection; further ones are refused by HTTP/2.
    pub max_streams: u32,
    /// Accepted connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// Bytes queued for one connection above which new calls on it are refused and its streams
    /// are not read; an answer that would lift it above twice as much becomes a failure.
    pub max_unsent_bytes: usize,
    /// The same over all connections: above half of it, only those are served that hold no more
    /// than their share of the other half.
    pub max_total_unsent_bytes: usize,
    /// Bytes of messages of peers, whole or not, that have come and that nobody has taken, over all
    /// connections. Beyond it, the connection that holds most of messages that are not whole loses
    /// the largest of them. Above half of it in whole ones, new calls fail, unless their connection
    /// holds no more than its share of the other half.
    pub max_untaken_bytes: usize,
    /// Times its size to which a message may be decompressed, beyond `gzip_floor_bytes`.
    pub max_gzip_gain: usize,
    /// Size to which any message may be decompressed.
    pub gzip_floor_bytes: usize,
    /// Time that a unary call, or a message of a stream, may take to come whole.
    pub message_timeout: Duration,
    /// Bytes queued on one stream from which it owes a `Writable` event, due at half as much.
    pub stream_high_bytes: usize,
    /// Flow-control window of a stream; also the bytes delivered and not acknowledged up to
    /// which the peer may go on.
    pub stream_window: u32,
    /// Flow-control window of a connection.
    pub connection_window: u32,
    /// Answers from this size on are compressed for a peer that takes gzip; 0 for never.
    pub gzip_from_bytes: usize,
    /// Time from connecting to the first word of HTTP/2.
    pub handshake_timeout: Duration,
    /// Silence after which a peer is pinged.
    pub keepalive: Duration,
    /// Time it has to answer.
    pub keepalive_timeout: Duration,
    /// Age at which an accepted connection is told to go elsewhere, a tenth more or less by chance.
    pub max_connection_age: Duration,
    /// Time without a call after which an accepted connection is told to go.
    pub max_connection_idle: Duration,
}

impl Limits {
    /// When a message that begins to come now must be whole.
    pub fn message_deadline(&self, now: Instant) -> Option<Instant> {
        let timeout = self.message_timeout;
        if timeout.is_zero() { None } else { now.checked_add(timeout) }
    }

    /// The bounds of messages, those of links or of peers.
    pub fn bounds(&self, is_link: bool) -> Bounds {
        Bounds {
            max_bytes: if is_link { self.max_link_message_bytes } else { self.max_message_bytes },
            // The peers of links are known, and may compress as they like.
            max_gzip_gain: if is_link { usize::MAX } else { self.max_gzip_gain },
            gzip_floor_bytes: self.gzip_floor_bytes,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_message_bytes: 64 << 20,
            max_link_message_bytes: 64 << 20,
            max_header_list_bytes: 16 << 10,
            max_streams: 1000,
            max_connections: 10_000,
            max_unsent_bytes: 128 << 20,
            max_total_unsent_bytes: 1 << 30,
            max_untaken_bytes: 1 << 30,
            max_gzip_gain: 100,
            gzip_floor_bytes: 4 << 20,
            message_timeout: Duration::from_secs(120),
            stream_high_bytes: 1 << 20,
            stream_window: 1 << 20,
            connection_window: 8 << 20,
            gzip_from_bytes: 0,
            handshake_timeout: Duration::from_secs(10),
            keepalive: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            max_connection_age: Duration::ZERO,
            max_connection_idle: Duration::ZERO,
        }
    }
}
