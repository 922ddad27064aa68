//! Counters of the engine.

/// Totals since the start of the engine, except the fields marked "now".
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Unary calls delivered.
    pub calls: u64,
    /// Streams opened by peers.
    pub streams: u64,
    /// Messages of streams delivered, of either role.
    pub messages_in: u64,
    /// Messages of streams queued, of either role.
    pub messages_out: u64,
    /// Calls ended by the peer, or by the loss of its connection, before their answer.
    pub cancelled: u64,
    /// Calls that the engine ended because their deadline passed.
    pub deadline_exceeded: u64,
    /// Calls that the engine refused.
    pub refused: u64,
    /// Health checks answered.
    pub health_checks: u64,
    /// Turns that found something ready.
    pub wake_ups: u64,
    /// Connections accepted.
    pub connections_accepted: u64,
    /// Connections closed at once because there were too many.
    pub connections_refused: u64,
    /// Connections that ended by an error, a broken handshake among them.
    pub connection_errors: u64,
    /// Connections closed because the peer showed no sign of life.
    pub keepalive_timeouts: u64,
    /// Bytes read from sockets.
    pub bytes_in: u64,
    /// Bytes written to sockets.
    pub bytes_out: u64,
    /// Connections now, of either role.
    pub connections: u64,
    /// Calls and streams now, of either role.
    pub open_calls: u64,
    /// Bytes queued for peers now.
    pub unsent_bytes: u64,
    /// Bytes received and not taken now.
    pub untaken_bytes: u64,
}

impl Counters {
    /// Return every counter with its name.
    pub fn named(&self) -> [(&'static str, u64); 19] {
        [
            ("calls", self.calls),
            ("streams", self.streams),
            ("messages_in", self.messages_in),
            ("messages_out", self.messages_out),
            ("cancelled", self.cancelled),
            ("deadline_exceeded", self.deadline_exceeded),
            ("refused", self.refused),
            ("health_checks", self.health_checks),
            ("wake_ups", self.wake_ups),
            ("connections_accepted", self.connections_accepted),
            ("connections_refused", self.connections_refused),
            ("connection_errors", self.connection_errors),
            ("keepalive_timeouts", self.keepalive_timeouts),
            ("bytes_in", self.bytes_in),
            ("bytes_out", self.bytes_out),
            ("connections", self.connections),
            ("open_calls", self.open_calls),
            ("unsent_bytes", self.unsent_bytes),
            ("untaken_bytes", self.untaken_bytes),
        ]
    }
}
