//! The turn of the engine: readiness, then connections and calls, then timers.

use std::io;
use std::time::{Duration, Instant};

use super::calls::Id;
use super::core::{Engine, INFLATED_BYTES_PER_TURN, TURN_READ_BYTES};
use super::event::Event;
use crate::net::poller::Readiness;

/// Passes over awake calls and connections in one turn, before the application has its own.
const MAX_PASSES: usize = 16;
/// The fewest bytes that a ready socket may read in one turn.
const MIN_READ_BYTES: usize = 16 << 10;

impl Engine {
    /// Turn once without blocking.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        self.poller.wait(&mut ready, Some(Duration::ZERO))?;
        self.turn_with(&ready);
        Ok(())
    }

    /// Turn once with the readiness that the poller reported.
    pub fn turn_with(&mut self, ready: &[Readiness]) {
        self.now = Instant::now();
        self.counters.wake_ups += u64::from(!ready.is_empty());
        let postponed = std::mem::take(&mut self.postponed);
        let num_ready = (postponed.len() + ready.len()).max(1);
        self.read_allowance = (TURN_READ_BYTES / num_ready).max(MIN_READ_BYTES);
        for index in postponed {
            self.update_socket(index, (false, false, false));
        }
        self.inflate_allowance = INFLATED_BYTES_PER_TURN;
        for slot in std::mem::take(&mut self.postponed_calls) {
            self.calls.wake(slot);
        }
        for &readiness in ready {
            match readiness {
                Readiness::Timer => self.schedule.clear_armed(),
                Readiness::Notifier => self.connect_resolved(),
                Readiness::Listener(index) => {
                    self.accept(index);
                }
                Readiness::Socket { index, is_readable, is_ended, is_writable } => {
                    self.update_socket(index, (is_readable, is_ended, is_writable));
                }
            }
        }
        self.drive_now();
    }

    fn update_socket(
        &mut self,
        index: u32,
        (is_readable, is_ended, is_writable): (bool, bool, bool),
    ) {
        let Some(connection) = self.connections.get(index as usize) else { return };
        if let Some(io) = &connection.io {
            let mut socket = io.lock();
            socket.update(is_readable, is_ended, is_writable);
            socket.begin_turn(self.read_allowance);
        }
        connection.wake_handle.wake();
    }

    /// Carry out the work queued since the last turn.
    pub fn drive(&mut self) {
        self.now = Instant::now();
        self.drive_now();
        if !self.events.is_empty() {
            // The application would not notice these events before the next byte arrives.
            self.poller.notify();
        }
    }

    fn drive_now(&mut self) {
        for _ in 0..MAX_PASSES {
            let mut slots = std::mem::take(&mut self.scratch);
            self.awake_calls.swap(&mut slots);
            let has_calls = !slots.is_empty();
            for slot in slots.drain(..) {
                self.poll_call(slot);
            }
            self.awake_connections.swap(&mut slots);
            let has_connections = !slots.is_empty();
            for index in slots.drain(..) {
                self.poll_connection(index);
            }
            self.scratch = slots;
            if !has_calls && !has_connections {
                break;
            }
        }
        self.run_timers();
        let is_quiet = self.awake_calls.is_empty() && self.awake_connections.is_empty();
        if !is_quiet || !self.postponed.is_empty() || !self.postponed_calls.is_empty() {
            self.poller.notify();
        }
    }

    /// Take the events since the last take, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.events);
        self.event_bytes = 0;
        self.num_takes += 1;
        let mut has_acknowledged = false;
        for event in &events {
            if let Event::Message(id, message, _) = event
                && self.acknowledges_itself(*id)
            {
                self.acknowledge(*id, message.len());
                has_acknowledged = true;
            }
        }
        if has_acknowledged {
            self.drive_now();
            if !self.events.is_empty() {
                self.poller.notify();
            }
        }
        events
    }

    fn acknowledges_itself(&self, id: Id) -> bool {
        let call = self.calls.find(id).and_then(|slot| self.calls.get(slot));
        call.is_some_and(|call| call.recv.acknowledges_itself)
    }
}
