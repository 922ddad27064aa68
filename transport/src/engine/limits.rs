//! The bounds of the engine.

use std::time::{Duration, Instant};

use crate::grpc::frame::Bounds;

/// Bounds on the cost of peers. A duration of zero turns its rule off.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest message, compressed or not; a larger one ends its call.
    pub max_message_bytes: usize,
    /// Largest message on a link, whose peer is trusted.
    pub max_link_message_bytes: usize,
    /// Largest request headers, keys and values.
    pub max_header_list_bytes: u32,
    /// Concurrent calls on one connection; HTTP/2 refuses further ones.
    pub max_streams: u32,
    /// Concurrent accepted connections; further ones are closed at once.
    pub max_connections: usize,
    /// Bytes queued for one connection above which new calls on it are refused and its streams are
    /// not read. A response that would exceed twice as much fails.
    pub max_unsent_bytes: usize,
    /// Bytes queued for all connections. Above half of it, the engine serves only connections below
    /// their share of the other half.
    pub max_total_unsent_bytes: usize,
    /// Bytes of peers' messages, complete or not, that the application has not taken. Beyond it,
    /// the connection with the most incomplete bytes loses its largest incomplete message. Above
    /// half of it in complete messages, new calls fail unless their connection is below its share
    /// of the other half.
    pub max_untaken_bytes: usize,
    /// Largest ratio of decompression, beyond `gzip_floor_bytes`.
    pub max_gzip_gain: usize,
    /// Decompressed size that any message may have.
    pub gzip_floor_bytes: usize,
    /// Time in which a unary call, or a message of a stream, must arrive.
    pub message_timeout: Duration,
    /// Bytes queued on one stream above which it owes a `Writable` event, due at half as much.
    pub stream_high_bytes: usize,
    /// Flow-control window of a stream, and the bytes delivered without acknowledgement before its
    /// peer must wait.
    pub stream_window: u32,
    /// Flow-control window of a connection.
    pub connection_window: u32,
    /// Smallest response that is compressed for a peer that accepts gzip; 0 for none.
    pub gzip_from_bytes: usize,
    /// Time from connecting to the end of the HTTP/2 handshake.
    pub handshake_timeout: Duration,
    /// Silence after which a peer is pinged.
    pub keepalive: Duration,
    /// Time that the peer has to answer a ping.
    pub keepalive_timeout: Duration,
    /// Age at which an accepted connection is drained, a tenth more or less by chance.
    pub max_connection_age: Duration,
    /// Time without a call after which an accepted connection is drained.
    pub max_connection_idle: Duration,
}

impl Limits {
    /// Return the deadline of a message that begins to arrive now.
    pub fn message_deadline(&self, now: Instant) -> Option<Instant> {
        let timeout = self.message_timeout;
        if timeout.is_zero() { None } else { now.checked_add(timeout) }
    }

    /// Return the bounds of messages, on links or of peers.
    pub fn bounds(&self, is_link: bool) -> Bounds {
        Bounds {
            max_bytes: if is_link { self.max_link_message_bytes } else { self.max_message_bytes },
            // Peers of links are trusted, so their compression ratio is not bounded.
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
