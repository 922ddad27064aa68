//! Rules on the lifetime of a connection: handshake, keepalive, age and idleness.
//!
//! Each rule is a pure function of the connection, the limits and the time.

use std::time::{Duration, Instant};

use super::connection::Connection;
use super::limits::Limits;

/// Time that a connection without calls may take to close.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The outcome of a rule.
pub enum Due {
    /// The rule does not apply.
    Never,
    /// The rule has to be checked again at an instant.
    At(Instant),
    /// The peer is pinged at an instant.
    Ping(Instant),
    /// The connection is drained at an instant.
    Drain(Instant),
    /// The connection is closed now, for a reason.
    Close(&'static str),
    /// The connection is closed now, because its peer shows no sign of life.
    Dead(&'static str),
}

/// Return the outcome of every rule for a connection.
pub fn due_actions(connection: &Connection, limits: &Limits) -> [Due; 4] {
    // The turn's own instant may be older than the last read of this connection.
    let now = Instant::now();
    [
        handshake_rule(connection, limits, now),
        keepalive_rule(connection, limits, now),
        age_rule(connection, limits),
        idle_rule(connection, limits, now),
    ]
}

fn due_at(at: Instant, now: Instant, then: Due) -> Due {
    if at <= now { then } else { Due::At(at) }
}

fn handshake_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if connection.is_established() || limits.handshake_timeout.is_zero() {
        return Due::Never;
    }
    let at = connection.created_at + limits.handshake_timeout;
    due_at(at, now, Due::Close("the handshake took too long"))
}

fn keepalive_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if limits.keepalive.is_zero() || !connection.is_established() {
        return Due::Never;
    }
    // A peer that sends but never reads is not silent, and would hold its queue for ever.
    if let Some(since) = connection.blocked_since {
        let at = since + limits.keepalive + limits.keepalive_timeout;
        if at <= now {
            return Due::Dead("the peer reads none of the bytes sent to it");
        }
    }
    match connection.ping_sent {
        None => Due::Ping(connection.last_read_at + limits.keepalive),
        Some(sent) => {
            let at = sent.max(connection.last_read_at) + limits.keepalive_timeout;
            due_at(at, now, Due::Dead("the peer does not answer pings"))
        }
    }
}

fn age_rule(connection: &Connection, limits: &Limits) -> Due {
    let is_ours = connection.plan.is_some();
    if limits.max_connection_age.is_zero() || is_ours || connection.is_draining {
        return Due::Never;
    }
    Due::Drain(connection.created_at + limits.max_connection_age.mul_f64(connection.age_factor))
}

fn idle_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if !connection.calls.is_empty() || !connection.is_established() {
        return Due::Never;
    }
    if connection.plan.is_some() {
        return due_at(
            connection.idle_since + CLOSE_TIMEOUT,
            now,
            Due::Close("the stream has ended"),
        );
    }
    if connection.is_draining {
        let since = connection.idle_since.max(connection.draining_since);
        return due_at(
            since + CLOSE_TIMEOUT,
            now,
            Due::Close("the peer has not closed the drained connection"),
        );
    }
    if limits.max_connection_idle.is_zero() {
        return Due::Never;
    }
    Due::Drain(connection.idle_since + limits.max_connection_idle)
}
