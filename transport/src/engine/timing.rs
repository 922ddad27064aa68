//! What time alone brings about: deadlines, handshakes that take too long, keepalive, age and
//! idleness of connections.
//!
//! Nothing ticks: the timer is armed for the earliest of what is due, and a call whose deadline
//! is not the earliest costs a comparison.

use std::time::{Duration, Instant};

use super::calls::Role;
use super::connection::{Connection, Stage};
use super::core::Engine;
use super::limits::Limits;
use crate::grpc::status::{Status, code};

/// Between two looks at all calls: how late a deadline may be noticed.
const CALLS_PAUSE: Duration = Duration::from_millis(5);
/// Between two looks at all connections.
const CONNECTIONS_PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may take to close once nothing is left on it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Connections live this part of the usual age at least, and as much more at most.
pub const MIN_AGE_FACTOR: f64 = 0.9;
const LATE: &str = "deadline exceeded";
const NEVER_WHOLE: &str = "a message took too long to come";

/// When what is due.
pub struct Schedule {
    armed_for: Option<Instant>,
    calls_at: Option<Instant>,
    calls_seen: Instant,
    connections_at: Option<Instant>,
    accept_at: Option<Instant>,
}

impl Schedule {
    /// Nothing is due.
    pub fn new(now: Instant) -> Self {
        Self {
            armed_for: None,
            calls_at: None,
            calls_seen: now,
            connections_at: None,
            accept_at: None,
        }
    }

    /// The timer has fired and is not armed any more.
    pub fn note_fired(&mut self) {
        self.armed_for = None;
    }

    fn next(&self) -> Option<Instant> {
        [self.calls_at, self.connections_at, self.accept_at].into_iter().flatten().min()
    }
}

enum Due {
    Never,
    At(Instant),
    Ping(Instant),
    Drain(Instant),
    Close(&'static str),
    Dead(&'static str),
}

impl Engine {
    pub(super) fn schedule_deadline(&mut self, deadline: Instant) {
        let at = deadline.max(self.schedule.calls_seen + CALLS_PAUSE);
        earlier(&mut self.schedule.calls_at, at);
    }

    pub(super) fn schedule_connection(&mut self, after: Duration) {
        let limits = &self.limits;
        let age = limits.max_connection_age.mul_f64(MIN_AGE_FACTOR);
        let rules = [limits.keepalive, age, limits.max_connection_idle];
        let rules = rules.into_iter().chain([after]).filter(|rule| !rule.is_zero());
        if let Some(after) = rules.min() {
            earlier(&mut self.schedule.connections_at, self.now + after);
        }
    }

    /// The last call of a connection is over.
    pub(super) fn schedule_idle(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        if matches!(connection.stage, Stage::Linked(_)) || connection.is_draining {
            earlier(&mut self.schedule.connections_at, self.now + FAREWELL);
        } else if !self.limits.max_connection_idle.is_zero() {
            let at = self.now + self.limits.max_connection_idle;
            earlier(&mut self.schedule.connections_at, at);
        }
    }

    pub(super) fn schedule_accepting(&mut self, after: Duration) {
        earlier(&mut self.schedule.accept_at, self.now + after);
    }

    /// Does what is due and arms the timer for what comes next.
    pub(super) fn keep_time(&mut self) {
        let now = self.now;
        if self.schedule.calls_at.is_some_and(|at| at <= now) {
            self.end_late_calls();
        }
        if self.schedule.connections_at.is_some_and(|at| at <= now) {
            self.check_connections();
        }
        if self.schedule.accept_at.is_some_and(|at| at <= now) {
            self.schedule.accept_at = None;
            self.resume_accepting();
        }
        if let Some(next) = self.schedule.next()
            && self.schedule.armed_for.is_none_or(|armed| next < armed)
        {
            self.schedule.armed_for = Some(next);
            self.poller.arm(next, now);
        }
    }

    fn end_late_calls(&mut self) {
        self.schedule.calls_at = None;
        self.schedule.calls_seen = self.now;
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        for (slot, call) in self.calls.iter() {
            for (at, text) in [(call.deadline, LATE), (call.whole_by, NEVER_WHOLE)] {
                match at {
                    Some(at) if at <= self.now => late.push((slot, text)),
                    Some(at) => earlier(&mut next, at),
                    None => {}
                }
            }
        }
        for (slot, text) in late {
            let Some(call) = self.calls.get(slot) else { continue };
            self.counters.deadline_exceeded += u64::from(call.role != Role::Answered);
            self.fail_call(slot, Status::new(code::DEADLINE_EXCEEDED, text));
        }
        if let Some(next) = next {
            self.schedule_deadline(next);
        }
    }

    fn check_connections(&mut self) {
        self.schedule.connections_at = None;
        let (now, limits) = (self.now, self.limits.clone());
        let mut over = Vec::new();
        let mut next: Option<Instant> = None;
        for (index, connection) in &mut self.connections {
            for due in rules_of(connection, &limits) {
                let at = match due {
                    Due::Never => continue,
                    Due::Close(reason) => {
                        over.push((index as u32, reason));
                        continue;
                    }
                    Due::Dead(reason) => {
                        self.counters.keepalive_timeouts += 1;
                        over.push((index as u32, reason));
                        continue;
                    }
                    Due::Ping(at) if at <= now => {
                        connection.send_ping(now);
                        now + limits.keepalive_timeout
                    }
                    Due::Drain(at) if at <= now => {
                        connection.drain(now);
                        now + FAREWELL
                    }
                    Due::At(at) | Due::Ping(at) | Due::Drain(at) => at,
                };
                earlier(&mut next, at);
            }
        }
        for (index, reason) in over {
            // Two rules may have met the same connection.
            if self.connections.contains(index as usize) {
                self.close_connection(index, Some(reason.to_owned()));
            }
        }
        if let Some(next) = next {
            let at = next.max(now + CONNECTIONS_PAUSE);
            earlier(&mut self.schedule.connections_at, at);
        }

        fn rules_of(connection: &Connection, limits: &Limits) -> [Due; 4] {
            let now = Instant::now();
            [
                handshake_rule(connection, limits, now),
                keepalive_rule(connection, limits, now),
                age_rule(connection, limits),
                idle_rule(connection, limits, now),
            ]
        }
    }
}

fn earlier(slot: &mut Option<Instant>, at: Instant) {
    if slot.is_none_or(|there| at < there) {
        *slot = Some(at);
    }
}

fn at_or(at: Instant, now: Instant, then: Due) -> Due {
    if at <= now { then } else { Due::At(at) }
}

fn handshake_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if connection.is_established() || limits.handshake_timeout.is_zero() {
        return Due::Never;
    }
    let at = connection.born + limits.handshake_timeout;
    at_or(at, now, Due::Close("the handshake took too long"))
}

fn keepalive_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if limits.keepalive.is_zero() || !connection.is_established() {
        return Due::Never;
    }
    // A peer that sends but takes nothing would never be silent and hold its queue for ever.
    if let Some(since) = connection.blocked_since {
        let at = since + limits.keepalive + limits.keepalive_timeout;
        if at <= now {
            return Due::Dead("the peer takes nothing of what is sent to it");
        }
    }
    match connection.ping_sent {
        None => Due::Ping(connection.last_heard + limits.keepalive),
        Some(sent) => {
            let at = sent.max(connection.last_heard) + limits.keepalive_timeout;
            at_or(at, now, Due::Dead("the peer does not answer pings"))
        }
    }
}

fn age_rule(connection: &Connection, limits: &Limits) -> Due {
    let is_ours = connection.plan.is_some();
    if limits.max_connection_age.is_zero() || is_ours || connection.is_draining {
        return Due::Never;
    }
    Due::Drain(connection.born + limits.max_connection_age.mul_f64(connection.age_factor))
}

fn idle_rule(connection: &Connection, limits: &Limits, now: Instant) -> Due {
    if !connection.calls.is_empty() || !connection.is_established() {
        return Due::Never;
    }
    if connection.plan.is_some() {
        return at_or(connection.idle_since + FAREWELL, now, Due::Close("the stream is over"));
    }
    if connection.is_draining {
        let since = connection.idle_since.max(connection.draining_since);
        return at_or(since + FAREWELL, now, Due::Close("the peer does not go"));
    }
    if limits.max_connection_idle.is_zero() {
        return Due::Never;
    }
    Due::Drain(connection.idle_since + limits.max_connection_idle)
}
