//! Teardown of calls and connections: failures, losses, cancellations and drain.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use h2::{Reason, RecvStream};
use http::HeaderMap;

use super::calls::{Call, Id, Role};
use super::connection::{Connection, Stage};
use super::core::Engine;
use super::event::Event;
use super::recv::RecvHalf;
use super::refusal::failure_headers;
use super::send::SendHalf;
use crate::grpc::compression::Encoding;
use crate::grpc::metadata;
use crate::grpc::status::{Status, code};
use crate::net::sockets::Endpoint;

/// Time in which the rest of a discarded body must arrive.
const REST_TIMEOUT: Duration = Duration::from_secs(5);

impl Engine {
    /// Fail a call with a status, for its peer and for the application if it got the call.
    pub(super) fn fail_call(&mut self, slot: u32, status: Status) {
        let id = self.calls.id(slot);
        let Some(call) = self.remove_call(slot) else { return };
        if call.role == Role::Link {
            call.send.reset(Reason::CANCEL);
            return self.push_event(Event::Closed(id, status, None));
        }
        if call.role == Role::Discard {
            return;
        }
        self.counters.refused += 1;
        call.send.abandon(failure_headers(&status));
        self.discard_body(call.connection, call.recv.into_unread_body());
        if call.is_delivered {
            self.push_event(Event::Cancelled(id, status.text));
        }
    }

    /// Discard the rest of the body of an ended call.
    ///
    /// Dropping the body at once would reset the stream. h2 counts data that the peer had already
    /// sent as the peer's error, and closes the connection after too many of those.
    pub(super) fn discard_body(&mut self, connection: u32, body: Option<RecvStream>) {
        let Some(body) = body.filter(|body| !body.is_end_stream()) else { return };
        let deadline = self.now + REST_TIMEOUT;
        let slot = self.add_call(Call {
            connection,
            position: 0,
            role: Role::Discard,
            path: u32::MAX,
            deadline: Some(deadline),
            message_deadline: None,
            metadata: None,
            is_delivered: false,
            is_paused: false,
            recv: RecvHalf::for_request(body, Encoding::Identity),
            num_counted: 0,
            send: SendHalf::default(),
        });
        self.schedule.add_deadline(deadline);
        self.calls.wake(slot);
    }

    /// Remove a call whose peer has gone.
    pub(super) fn lose_call(&mut self, slot: u32, status: Status) {
        let id = self.calls.id(slot);
        let Some(call) = self.remove_call(slot) else { return };
        if call.role == Role::Discard {
            return;
        }
        if call.role == Role::Link {
            return self.push_event(Event::Closed(id, status, None));
        }
        self.counters.cancelled += 1;
        if call.is_delivered {
            self.push_event(Event::Cancelled(id, status.text));
        }
    }

    /// Remove a link that its server has ended.
    pub(super) fn close_link(&mut self, slot: u32, status: Status, trailers: HeaderMap) {
        let id = self.calls.id(slot);
        if let Some(call) = self.remove_call(slot) {
            if !call.send.is_finished() {
                call.send.reset(Reason::NO_ERROR);
            }
            let trailers = metadata::has_any(&trailers).then_some(trailers);
            self.push_event(Event::Closed(id, status, trailers));
        }
    }

    /// Reset a call or link at once, without an event.
    pub fn cancel(&mut self, id: Id) {
        let Some(slot) = self.calls.find(id) else { return };
        let Some(call) = self.remove_call(slot) else { return };
        let index = call.connection;
        call.send.reset(Reason::CANCEL);
        if call.role == Role::Link && !self.connections[index as usize].is_established() {
            self.close_connection(index, None);
        }
    }

    /// Handle the end of a connection; a link that was connecting tries its next address.
    pub(super) fn on_closed(&mut self, index: u32, reason: Option<String>) {
        let connection = &self.connections[index as usize];
        let has_next = connection.plan.as_ref().is_some_and(|plan| !plan.targets.is_empty());
        match reason {
            Some(reason) if matches!(connection.stage, Stage::Connecting) && has_next => {
                self.connect_next(index, &reason);
            }
            reason => self.close_connection(index, reason),
        }
    }

    /// Close a connection. Its calls are lost, except those whose end has already arrived.
    pub(super) fn close_connection(&mut self, index: u32, reason: Option<String>) {
        let connection = &self.connections[index as usize];
        self.counters.connection_errors += u64::from(reason.is_some());
        let lost = Status::new(code::UNAVAILABLE, lost_text(connection, reason));
        for slot in connection.calls.clone() {
            self.poll_final(slot, &lost);
        }
        // Dropping the connection closes its descriptor, and so removes it from the poller.
        if let Some(connection) = self.connections.try_remove(index as usize)
            && let Some(io) = &connection.io
        {
            let mut socket = io.lock();
            socket.discard_unread();
            self.counters.bytes_in += socket.bytes_in;
            self.counters.bytes_out += socket.bytes_out;
        }
    }

    /// Resume the streams that waited for a connection's queue to shrink.
    pub(super) fn resume_waiting(&mut self, index: u32) {
        let connection = &mut self.connections[index as usize];
        let reads_again = connection.unsent.get() <= self.limits.max_unsent_bytes / 2;
        let mut waiting = std::mem::take(&mut connection.waiting);
        waiting.sort_unstable();
        waiting.dedup();
        let mut still = Vec::new();
        for slot in waiting {
            let Some(call) = self.calls.get_mut(slot) else { continue };
            if call.connection != index {
                continue;
            }
            if call.is_paused && reads_again {
                call.is_paused = false;
                self.calls.wake(slot);
            }
            let call = self.calls.get_mut(slot).expect("just there");
            let is_writable =
                call.send.is_full && call.send.num_unsent() <= self.limits.stream_high_bytes / 2;
            if is_writable {
                call.send.is_full = false;
            }
            if call.send.is_full || call.is_paused {
                still.push(slot);
            }
            if is_writable {
                let id = self.calls.id(slot);
                self.push_event(Event::Writable(id));
            }
        }
        self.connections[index as usize].waiting.extend(still);
    }

    /// Stop accepting, ask peers to go (GOAWAY) and let their calls end. Links stay.
    pub fn drain(&mut self) {
        self.now = Instant::now();
        // Waiting connections are accepted first, so that their clients get a GOAWAY too.
        let listeners: Vec<u32> = self.listeners.iter().map(|(index, _)| index as u32).collect();
        for index in listeners {
            while self.accept(index) {}
        }
        self.is_draining = true;
        // Dropping the listeners closes their sockets and removes their unix paths.
        self.listeners.clear();
        self.end_watches();
        let now = self.now;
        for (_, connection) in &mut self.connections {
            if connection.plan.is_none() {
                connection.drain(now);
            }
        }
        self.schedule_connection(Duration::from_secs(2));
    }
}

fn lost_text(connection: &Connection, reason: Option<String>) -> Cow<'static, str> {
    let Some(plan) = &connection.plan else {
        return "the connection of the caller was lost".into();
    };
    let endpoint = match &plan.endpoint {
        Endpoint::Tcp(text) => text.clone(),
        Endpoint::Unix(path) => format!("unix:{}", path.display()),
    };
    let reason = reason.unwrap_or_else(|| "closed by the peer".to_owned());
    let text =
        if connection.is_established() { "lost the connection to" } else { "cannot connect to" };
    format!("{text} {endpoint}: {reason}").into()
}
