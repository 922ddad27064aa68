//! The configuration of h2 that keeps the limits.

use h2::{client, server};

use super::limits::Limits;
use crate::net::socket_io::READ_BYTES_PER_TURN;

/// The fewest bytes that a request and its reset take.
const MIN_RESET_CALL_BYTES: usize = 30;
/// Calls that a peer may open and reset before the engine sees them: the most that one turn reads.
///
/// An honest peer of a stalled process sends a second's calls together with their cancellations.
/// The bytes that a turn reads bound the cost of any peer.
const MAX_RESETS_AT_ONCE: usize = READ_BYTES_PER_TURN.div_ceil(MIN_RESET_CALL_BYTES);
/// h2's budget for the cost of tiny DATA frames beyond their bytes.
///
/// Frames of one byte that one turn reads stay below the budget, and leave h2 at the turn's end.
const DATA_FRAME_BUDGET: usize = 16 << 20;
/// Bytes that h2 buffers for a stream before it reports no capacity.
const SEND_BUFFER_BYTES: usize = 1 << 20;

/// Builders of h2 for both roles.
pub struct H2Config {
    /// Builder for accepted connections.
    pub server: server::Builder,
    /// Builder for links.
    pub client: client::Builder,
}

impl H2Config {
    /// Configure h2 by the limits.
    pub fn new(limits: &Limits) -> Self {
        let mut server = server::Builder::new();
        server
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_header_list_bytes)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_pending_accept_reset_streams(MAX_RESETS_AT_ONCE)
            .max_concurrent_reset_streams(limits.max_streams as usize)
            .data_frame_budget(DATA_FRAME_BUDGET);
        let mut client = client::Builder::new();
        client
            .initial_window_size(limits.stream_window)
            .initial_connection_window_size(limits.connection_window)
            .max_header_list_size(limits.max_header_list_bytes)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .enable_push(false)
            .data_frame_budget(DATA_FRAME_BUDGET);
        Self { server, client }
    }
}
