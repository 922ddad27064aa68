//! The engine and its turn.

use std::io;
use std::os::fd::{AsFd, RawFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use slab::Slab;

use super::calls::{Call, Calls, Role};
use super::checking::Health;
use super::connection::{Builders, Connection, Step};
use super::counters::Counters;
use super::event::Event;
use super::limits::Limits;
use super::payload::Gauge;
use super::receiving::{End, Ended};
use super::serving::{ListenerEntry, Route};
use super::timing::Schedule;
use super::wakers::WakeList;
use crate::grpc::metadata;
use crate::grpc::status::{Status, code};
use crate::net::poller::{Poller, Readiness};
use crate::net::resolver::Resolver;

/// Passes over what is awake in one turn, before the application has its own.
const MAX_PASSES: usize = 16;

/// Listeners, connections and calls; driven by whoever calls `turn`.
///
/// Methods of the application's side (`reply`, `send`, …) only note what is to happen: `drive`
/// makes it happen, once for any number of them.
pub struct Engine {
    pub(super) poller: Arc<Poller>,
    pub(super) resolver: Resolver,
    pub(super) limits: Arc<Limits>,
    pub(super) builders: Builders,
    pub(super) listeners: Slab<ListenerEntry>,
    pub(super) connections: Slab<Connection>,
    pub(super) calls: Calls,
    pub(super) health: Health,
    pub(super) schedule: Schedule,
    pub(super) counters: Counters,
    pub(super) unsent: Arc<Gauge>,
    pub(super) now: Instant,
    pub(super) is_draining: bool,
    pub(super) num_paths: u32,
    pub(super) awake_connections: Arc<WakeList>,
    awake_calls: Arc<WakeList>,
    // Connections that stopped reading for the others' sake.
    postponed: Vec<u32>,
    events: Vec<Event>,
    event_bytes: usize,
    partial_bytes: usize,
    scratch: Vec<u32>,
}

impl Engine {
    /// An engine without listeners or links.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        let awake_calls = Arc::new(WakeList::default());
        let now = Instant::now();
        Ok(Self {
            resolver: Resolver::new(poller.clone()),
            poller,
            builders: super::serving::builders(&limits),
            limits: Arc::new(limits),
            listeners: Slab::new(),
            connections: Slab::new(),
            calls: Calls::new(awake_calls.clone()),
            health: Health::default(),
            schedule: Schedule::new(now),
            counters: Counters::default(),
            unsent: Arc::default(),
            now,
            is_draining: false,
            num_paths: 0,
            awake_connections: Arc::default(),
            awake_calls,
            postponed: Vec::new(),
            events: Vec::new(),
            event_bytes: 0,
            partial_bytes: 0,
            scratch: Vec::new(),
        })
    }

    /// What tells when a turn is due.
    pub fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// The descriptor that is readable when a turn is due.
    pub fn raw_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    /// Does what is due now, without waiting.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        self.poller.wait(&mut found, Some(Duration::ZERO))?;
        self.turn_with(&found);
        Ok(())
    }

    /// Does what the poller has found to be due.
    pub fn turn_with(&mut self, found: &[Readiness]) {
        self.now = Instant::now();
        self.counters.wake_ups += u64::from(!found.is_empty());
        for index in std::mem::take(&mut self.postponed) {
            self.note_socket(index, (false, false, false));
        }
        for &readiness in found {
            match readiness {
                Readiness::Timer => self.schedule.note_fired(),
                Readiness::Bell => self.take_resolved(),
                Readiness::Listener(index) => self.accept(index),
                Readiness::Socket { index, is_readable, is_ended, is_writable } => {
                    self.note_socket(index, (is_readable, is_ended, is_writable));
                }
            }
        }
        self.drive_now();
    }

    fn note_socket(
        &mut self,
        index: u32,
        (is_readable, is_ended, is_writable): (bool, bool, bool),
    ) {
        let Some(connection) = self.connections.get(index as usize) else { return };
        if let Some(io) = &connection.io {
            let mut socket = io.lock();
            socket.note(is_readable, is_ended, is_writable);
            socket.begin_turn();
        }
        connection.waking.wake();
    }

    /// Carries out what was noted since the last turn.
    pub fn drive(&mut self) {
        self.now = Instant::now();
        self.drive_now();
        if !self.events.is_empty() {
            // Nothing else would tell the application of them before the next byte comes.
            self.poller.ring();
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
        self.keep_time();
        let is_quiet = self.awake_calls.is_empty() && self.awake_connections.is_empty();
        if !is_quiet || !self.postponed.is_empty() {
            self.poller.ring();
        }
    }

    /// What happened since this was last asked, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.events);
        self.event_bytes = 0;
        let mut has_acknowledged = false;
        for event in &events {
            if let Event::Message(id, message) = event {
                if let Some(slot) = self.calls.find(*id) {
                    let call = self.calls.get_mut(slot).expect("found");
                    if call.receiving.acknowledges_itself {
                        call.receiving.acknowledge(message.len(), &self.limits);
                        has_acknowledged = true;
                    }
                }
            }
        }
        if has_acknowledged {
            self.drive_now();
            if !self.events.is_empty() {
                self.poller.ring();
            }
        }
        events
    }

    /// Whether there is something to take.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.event_bytes += event.num_bytes();
        self.events.push(event);
    }

    /// Whether more has come than may lie around untaken.
    pub(super) fn is_overfull(&self) -> bool {
        self.event_bytes + self.partial_bytes > self.limits.max_untaken_bytes
    }

    /// What was counted, and what is now.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (_, connection) in &self.connections {
            if let Some(io) = &connection.io {
                let socket = io.lock();
                counters.bytes_in += socket.bytes_in;
                counters.bytes_out += socket.bytes_out;
                counters.unsent_bytes += socket.num_gathered() as u64;
            }
        }
        counters.connections = self.connections.len() as u64;
        counters.open_calls = self.calls.len() as u64;
        counters.unsent_bytes += self.unsent.get() as u64;
        counters.untaken_bytes = (self.event_bytes + self.partial_bytes) as u64;
        counters
    }

    pub(super) fn add_call(&mut self, call: Call) -> u32 {
        let index = call.connection as usize;
        let slot = self.calls.insert(call);
        let connection = &mut self.connections[index];
        let position = connection.calls.len();
        connection.calls.push(slot);
        self.calls.get_mut(slot).expect("just inserted").position = position;
        slot
    }

    pub(super) fn remove_call(&mut self, slot: u32) -> Option<Call> {
        let call = self.calls.remove(slot)?;
        self.partial_bytes -= call.receiving.num_bytes();
        if let Some(connection) = self.connections.get_mut(call.connection as usize) {
            connection.calls.swap_remove(call.position);
            if let Some(&moved) = connection.calls.get(call.position) {
                self.calls.get_mut(moved).expect("listed").position = call.position;
            }
            if connection.calls.is_empty() {
                connection.idle_since = self.now;
                self.schedule_idle(call.connection);
            }
        }
        Some(call)
    }

    fn poll_connection(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index as usize) else { return };
        connection.waking.reset();
        let waker = connection.waking.waker().clone();
        let mut context = Context::from_waker(&waker);
        let closed = loop {
            match self.connections[index as usize].step(&mut context, &self.builders) {
                Step::Again => {}
                Step::Wait => break None,
                Step::Request(request) => self.on_request(index, *request),
                Step::Ready(sender) => {
                    if let Err(reason) = self.begin_link(index, sender, &mut context) {
                        break Some(Some(reason));
                    }
                }
                Step::Closed(reason) => break Some(reason),
            }
        };
        let connection = &mut self.connections[index as usize];
        connection.poll_pong(&mut context);
        let Some(io) = connection.io.clone() else {
            return closed.into_iter().for_each(|reason| self.on_closed(index, reason));
        };
        let mut socket = io.lock();
        if socket.bytes_in != connection.known_bytes_in {
            connection.known_bytes_in = socket.bytes_in;
            connection.last_heard = self.now;
        }
        let is_connecting = matches!(connection.stage, super::connection::Stage::Connecting);
        let bytes_out = socket.bytes_out;
        let flushed = if is_connecting { Ok(false) } else { socket.flush() };
        if socket.has_more_to_read() {
            self.postponed.push(index);
        }
        let is_flushed = matches!(flushed, Ok(true));
        if socket.take_held_back() && is_flushed {
            connection.waking.wake();
        }
        if is_flushed {
            connection.blocked_since = None;
        } else if connection.blocked_since.is_none() || socket.bytes_out != bytes_out {
            connection.blocked_since = Some(self.now);
        }
        if connection.watches_room == is_flushed {
            connection.watches_room = !is_flushed;
            self.poller.modify_socket(socket.as_fd(), index, !is_flushed);
        }
        drop(socket);
        if let Some(reason) = closed {
            self.on_closed(index, reason);
        } else if let Err(error) = flushed {
            self.on_closed(index, Some(error.to_string()));
        } else if !self.connections[index as usize].waiting.is_empty() {
            self.wake_waiting(index);
        }
    }

    pub(super) fn poll_call(&mut self, slot: u32) {
        let before = self.calls.get(slot).map_or(0, |call| call.receiving.num_bytes());
        let ended = self.advance_call(slot);
        let after = self.calls.get(slot).map_or(0, |call| call.receiving.num_bytes());
        self.partial_bytes = self.partial_bytes + after - before;
        match ended {
            Some(Ended::Broken(status)) => self.fail_call(slot, status),
            Some(Ended::Gone(status)) => self.lose_call(slot, status),
            None if after > before && self.is_overfull() => {
                let text = "too many messages have come that nobody has taken";
                self.fail_call(slot, Status::new(code::RESOURCE_EXHAUSTED, text));
            }
            None => {}
        }
    }

    // Receives and sends what it can; says how the call ended if it did without us.
    fn advance_call(&mut self, slot: u32) -> Option<Ended> {
        let id = self.calls.id(slot);
        let (call, waking) = self.calls.get_to_poll(slot)?;
        waking.reset();
        let waker = waking.waker();
        let mut context = Context::from_waker(waker);
        match call.role {
            Role::Unary if call.receiving.is_open() => {
                if let Poll::Ready(message) = call.receiving.poll_unary(&mut context, &self.limits)
                {
                    match message {
                        Err(ended) => return Some(ended),
                        Ok(message) => self.deliver_unary(slot, message),
                    }
                }
            }
            Role::Watch if call.receiving.is_open() => {
                if let Poll::Ready(message) = call.receiving.poll_unary(&mut context, &self.limits)
                {
                    match message {
                        Err(ended) => return Some(ended),
                        Ok(message) => self.begin_watch(slot, &message),
                    }
                }
            }
            Role::Unary | Role::Watch => {}
            Role::Stream | Role::Link => {
                if let Some(ended) = self.advance_stream(slot, id) {
                    return Some(ended);
                }
            }
        }
        let (call, waking) = self.calls.get_to_poll(slot)?;
        let waker = waking.waker();
        let mut context = Context::from_waker(waker);
        match call.sending.poll(&mut context) {
            Poll::Ready(Err(ended)) => return Some(ended),
            Poll::Ready(Ok(())) if call.role != Role::Link => {
                self.remove_call(slot);
                return None;
            }
            _ => {}
        }
        if call.role != Role::Link {
            if let Poll::Ready(ended) = call.sending.poll_reset(&mut context) {
                return Some(ended);
            }
        }
        None
    }

    fn advance_stream(&mut self, slot: u32, id: u64) -> Option<Ended> {
        let (call, waking) = self.calls.get_to_poll(slot)?;
        let mut context = Context::from_waker(waking.waker());
        let is_link = call.role == Role::Link;
        match call.receiving.poll_response(&mut context) {
            Poll::Ready(Err(ended)) => return Some(ended),
            Poll::Ready(Ok(headers)) => {
                let headers = headers.filter(metadata::has_any);
                self.tell(Event::Accepted(id, headers));
            }
            Poll::Pending => {}
        }
        let call = self.calls.get(slot)?;
        let connection = &mut self.connections[call.connection as usize];
        if !is_link && connection.unsent.get() > self.limits.max_unsent_bytes {
            // It does not read our answers: neither do we read its questions.
            connection.waiting.push(slot);
            return None;
        }
        let mut messages = Vec::new();
        let (call, waking) = self.calls.get_to_poll(slot)?;
        let mut context = Context::from_waker(waking.waker());
        let limits = &self.limits;
        let end = call.receiving.poll_stream(&mut context, limits, is_link, |message| {
            messages.push(message);
        });
        self.counters.messages_in += messages.len() as u64;
        for message in messages {
            self.tell(Event::Message(id, message));
        }
        match end {
            Poll::Pending => None,
            Poll::Ready(Err(ended)) => Some(ended),
            Poll::Ready(Ok(End::HalfClosed)) => {
                self.tell(Event::HalfClosed(id));
                None
            }
            Poll::Ready(Ok(End::Closed(status, trailers))) => {
                self.close_link(slot, status, trailers);
                None
            }
        }
    }

    fn deliver_unary(&mut self, slot: u32, message: crate::grpc::frame::Message) {
        let id = self.calls.id(slot);
        let call = self.calls.get_mut(slot).expect("being polled");
        if Route::is_health(call.path) {
            return self.answer_check(slot, &message);
        }
        call.is_delivered = true;
        let (path, deadline, metadata) = (call.path, call.deadline, call.metadata.take());
        self.counters.calls += 1;
        self.tell(Event::Call { id, path, message, deadline, metadata });
    }
}
