//! Timers: deadlines of calls, and the lifetimes of connections.
//!
//! The engine has no tick. One timer is armed for the earliest scheduled instant, so a call whose
//! deadline is later costs one comparison.

use std::time::{Duration, Instant};

use super::calls::Role;
use super::connection::Stage;
use super::core::Engine;
use super::lifetime::{CLOSE_TIMEOUT, Due, due_actions};
use super::schedule::{MIN_AGE_FACTOR, set_earliest};
use crate::grpc::status::{Status, code};

/// Pause between two scans of all connections.
const CONNECTIONS_PAUSE: Duration = Duration::from_millis(50);
const LATE: &str = "deadline exceeded";
const LATE_MESSAGE: &str = "a message took too long to arrive";

impl Engine {
    /// Schedule a scan of all connections for the first rule that may apply to a new one.
    pub(super) fn schedule_connection(&mut self, after: Duration) {
        let limits = &self.limits;
        let age = limits.max_connection_age.mul_f64(MIN_AGE_FACTOR);
        let rules = [limits.keepalive, age, limits.max_connection_idle];
        let rules = rules.into_iter().chain([after]).filter(|rule| !rule.is_zero());
        if let Some(after) = rules.min() {
            set_earliest(&mut self.schedule.connections_at, self.now + after);
        }
    }

    /// Schedule the idle rule of a connection whose last call has ended.
    pub(super) fn schedule_idle(&mut self, index: u32) {
        let connection = &self.connections[index as usize];
        if matches!(connection.stage, Stage::Linked(_)) || connection.is_draining {
            set_earliest(&mut self.schedule.connections_at, self.now + CLOSE_TIMEOUT);
        } else if !self.limits.max_connection_idle.is_zero() {
            let at = self.now + self.limits.max_connection_idle;
            set_earliest(&mut self.schedule.connections_at, at);
        }
    }

    /// Schedule an instant at which stopped listeners accept again.
    pub(super) fn schedule_accept(&mut self, after: Duration) {
        set_earliest(&mut self.schedule.accept_at, self.now + after);
    }

    /// Run the timers that are due and arm the poller for the next one.
    pub(super) fn run_timers(&mut self) {
        let now = self.now;
        if self.schedule.calls_at.is_some_and(|at| at <= now) {
            self.expire_calls();
        }
        if self.schedule.connections_at.is_some_and(|at| at <= now) {
            self.check_connections();
        }
        if self.schedule.accept_at.is_some_and(|at| at <= now) {
            self.schedule.accept_at = None;
            self.resume_accept();
        }
        if let Some(next) = self.schedule.next()
            && self.schedule.armed_for.is_none_or(|armed| next < armed)
        {
            self.schedule.armed_for = Some(next);
            self.poller.arm(next, now);
        }
    }

    fn expire_calls(&mut self) {
        self.schedule.calls_at = None;
        self.schedule.calls_seen = self.now;
        let mut late = Vec::new();
        let mut next: Option<Instant> = None;
        for (slot, call) in self.calls.iter() {
            for (at, text) in [(call.deadline, LATE), (call.message_deadline, LATE_MESSAGE)] {
                match at {
                    Some(at) if at <= self.now => late.push((slot, text)),
                    Some(at) => set_earliest(&mut next, at),
                    None => {}
                }
            }
        }
        for (slot, text) in late {
            let Some(call) = self.calls.get(slot) else { continue };
            self.counters.deadline_exceeded += u64::from(call.role != Role::Discard);
            self.fail_call(slot, Status::new(code::DEADLINE_EXCEEDED, text));
        }
        if let Some(next) = next {
            self.schedule.add_deadline(next);
        }
    }

    fn check_connections(&mut self) {
        self.schedule.connections_at = None;
        let (now, limits) = (self.now, self.limits.clone());
        let mut over = Vec::new();
        let mut next: Option<Instant> = None;
        for (index, connection) in &mut self.connections {
            for due in due_actions(connection, &limits) {
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
                        now + CLOSE_TIMEOUT
                    }
                    Due::At(at) | Due::Ping(at) | Due::Drain(at) => at,
                };
                set_earliest(&mut next, at);
            }
        }
        for (index, reason) in over {
            // Two rules may have closed the same connection.
            if self.connections.contains(index as usize) {
                self.close_connection(index, Some(reason.to_owned()));
            }
        }
        if let Some(next) = next {
            let at = next.max(now + CONNECTIONS_PAUSE);
            set_earliest(&mut self.schedule.connections_at, at);
        }
    }
}
