//! Polls of one connection and of one call.

use std::os::fd::AsFd as _;
use std::task::{Context, Poll};

use super::call_error::CallError;
use super::calls::{Id, Role};
use super::connection::{Stage, Step};
use super::core::Engine;
use super::event::Event;
use super::recv::{Response, StreamEnd};
use super::routes::Route;
use crate::grpc::message::Message;
use crate::grpc::metadata;
use crate::grpc::status::Status;

impl Engine {
    pub(super) fn poll_connection(&mut self, index: u32) {
        let Some(connection) = self.connections.get(index as usize) else { return };
        connection.wake_handle.reset();
        let waker = connection.wake_handle.waker().clone();
        let mut context = Context::from_waker(&waker);
        let closed = loop {
            match self.connections[index as usize].step(&mut context, &self.h2_config) {
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
            connection.last_read_at = socket.read_at;
        }
        let is_connecting = matches!(connection.stage, Stage::Connecting);
        let bytes_out = socket.bytes_out;
        let flushed = if is_connecting { Ok(false) } else { socket.flush() };
        if socket.has_more_to_read() {
            self.postponed.push(index);
        }
        let is_flushed = matches!(flushed, Ok(true));
        if socket.take_writer_waiting() && is_flushed {
            connection.wake_handle.wake();
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
            self.resume_waiting(index);
        }
    }

    pub(super) fn poll_call(&mut self, slot: u32) {
        match self.advance_and_count(slot) {
            Some(CallError::Protocol(status)) => self.fail_call(slot, status),
            Some(CallError::Disconnected(status)) => self.lose_call(slot, status),
            None => {}
        }
    }

    /// Poll a call whose connection has ended, because data that arrived before still counts.
    pub(super) fn poll_final(&mut self, slot: u32, lost: &Status) {
        if self.advance_and_count(slot).is_some() || self.calls.get(slot).is_some() {
            self.lose_call(slot, lost.clone());
        }
    }

    fn advance_and_count(&mut self, slot: u32) -> Option<CallError> {
        let error = self.advance_call(slot);
        // The removal of an ended call has already subtracted its bytes.
        let Some(call) = self.calls.get_mut(slot) else { return error };
        // Peers of links are trusted. Their bytes do not count with those of clients, and cause no
        // eviction.
        let is_link = call.role == Role::Link;
        let after = if is_link { 0 } else { call.recv.num_bytes() };
        let before = std::mem::replace(&mut call.num_counted, after);
        let index = call.connection;
        if call.recv.is_inflating() {
            self.postponed_calls.push(slot);
        }
        if call.role == Role::Stream {
            self.watch_message_deadline(slot);
        }
        let connection = &mut self.connections[index as usize];
        connection.partial_bytes = connection.partial_bytes + after - before;
        self.partial_bytes = self.partial_bytes + after - before;
        if error.is_none() && after > before {
            self.fail_incomplete_calls();
        }
        error
    }

    // An incomplete message holds its memory, so it has a deadline.
    fn watch_message_deadline(&mut self, slot: u32) {
        let Some(call) = self.calls.get_mut(slot) else { return };
        match (call.recv.is_inside_message(&self.limits), call.message_deadline) {
            (true, None) => {
                call.message_deadline = self.limits.message_deadline(self.now);
                if let Some(at) = call.message_deadline {
                    self.schedule.add_deadline(at);
                }
            }
            (false, Some(_)) => call.message_deadline = None,
            _ => {}
        }
    }

    /// Receive and send as much as possible; return an error if the call cannot continue.
    fn advance_call(&mut self, slot: u32) -> Option<CallError> {
        let id = self.calls.id(slot);
        // The waker is reset even if the call has ended, because the slot's next call needs it.
        self.calls.reset_wake(slot);
        let (call, wake_handle) = self.calls.get_to_poll(slot)?;
        let waker = wake_handle.waker();
        let mut context = Context::from_waker(waker);
        match call.role {
            Role::Unary if call.recv.is_open() => {
                if let Poll::Ready(message) =
                    call.recv.poll_unary(&mut context, &self.limits, &mut self.inflate_allowance)
                {
                    match message {
                        Err(error) => return Some(error),
                        Ok(message) => self.deliver_unary(slot, message),
                    }
                }
            }
            Role::Watch if call.recv.is_open() => {
                if let Poll::Ready(message) =
                    call.recv.poll_unary(&mut context, &self.limits, &mut self.inflate_allowance)
                {
                    match message {
                        Err(error) => return Some(error),
                        Ok(message) => {
                            call.message_deadline = None;
                            self.begin_watch(slot, &message);
                        }
                    }
                }
            }
            Role::Discard => {
                if call.recv.poll_discard(&mut context).is_ready() {
                    self.remove_call(slot);
                }
                return None;
            }
            Role::Unary | Role::Watch => {}
            Role::Stream | Role::Link => {
                if let Some(error) = self.advance_stream(slot, id) {
                    return Some(error);
                }
            }
        }
        let (call, wake_handle) = self.calls.get_to_poll(slot)?;
        let waker = wake_handle.waker();
        let mut context = Context::from_waker(waker);
        match call.send.poll(&mut context) {
            Poll::Ready(Err(error)) => return Some(error),
            Poll::Ready(Ok(())) if call.role != Role::Link => {
                if let Some(call) = self.remove_call(slot) {
                    self.discard_body(call.connection, call.recv.into_unread_body());
                }
                return None;
            }
            _ => {}
        }
        if call.role != Role::Link
            && let Poll::Ready(error) = call.send.poll_reset(&mut context)
        {
            return Some(error);
        }
        None
    }

    fn advance_stream(&mut self, slot: u32, id: Id) -> Option<CallError> {
        let (call, wake_handle) = self.calls.get_to_poll(slot)?;
        let mut context = Context::from_waker(wake_handle.waker());
        let is_link = call.role == Role::Link;
        match call.recv.poll_response(&mut context) {
            Poll::Ready(Err(error)) => return Some(error),
            Poll::Ready(Ok(Response::Refused(status, headers))) => {
                self.close_link(slot, status, headers);
                return None;
            }
            Poll::Ready(Ok(Response::Accepted(headers))) => {
                let headers = Some(headers).filter(metadata::has_any);
                self.push_event(Event::Accepted(id, headers));
            }
            Poll::Pending => {}
        }
        let call = self.calls.get(slot)?;
        let connection = &mut self.connections[call.connection as usize];
        if !is_link && connection.unsent.get() > self.limits.max_unsent_bytes {
            // Messages of a peer that does not read its responses stay unread.
            connection.waiting.push(slot);
            self.calls.get_mut(slot)?.is_paused = true;
            return None;
        }
        let (index, arrival) = (call.connection, connection.last_read_at);
        let mut messages = Vec::new();
        let (call, wake_handle) = self.calls.get_to_poll(slot)?;
        let mut context = Context::from_waker(wake_handle.waker());
        let limits = &self.limits;
        let allowance = &mut self.inflate_allowance;
        let end = call.recv.poll_stream(&mut context, limits, is_link, allowance, |message| {
            messages.push(message);
        });
        self.counters.messages_in += messages.len() as u64;
        for message in messages {
            let event = Event::Message(id, message, arrival);
            if is_link { self.push_event(event) } else { self.push_peer_event(index, event) }
        }
        match end {
            Poll::Pending => None,
            Poll::Ready(Err(error)) => Some(error),
            Poll::Ready(Ok(StreamEnd::HalfClosed)) => {
                self.push_event(Event::HalfClosed(id));
                None
            }
            Poll::Ready(Ok(StreamEnd::Closed(status, trailers))) => {
                self.close_link(slot, status, trailers);
                None
            }
        }
    }

    fn deliver_unary(&mut self, slot: u32, message: Message) {
        let id = self.calls.id(slot);
        let call = self.calls.get_mut(slot).expect("being polled");
        if Route::is_health(call.path) {
            return self.answer_check(slot, &message);
        }
        call.is_delivered = true;
        call.message_deadline = None;
        let (path, deadline, metadata) = (call.path, call.deadline, call.metadata.take());
        let index = call.connection;
        let arrival = self.connections[index as usize].last_read_at;
        self.counters.calls += 1;
        self.push_peer_event(index, Event::Call { id, path, message, arrival, deadline, metadata });
    }
}
