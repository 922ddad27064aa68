//! Calls of the application: replies, messages, acknowledgements.
//!
//! An id whose call has ended is ignored, because its peer may just have gone.

use http::HeaderMap;

use super::calls::{Call, Id, Role};
use super::core::Engine;
use super::refusal::too_much_unsent;
use super::send::SendEnd;
use crate::grpc::frame::MessageFrame;
use crate::grpc::status::{Status, code};

/// A reply that ends a call of a peer.
pub struct Reply {
    /// The call.
    pub id: Id,
    /// The final status.
    pub status: Status,
    /// The application's trailers.
    pub trailers: Option<HeaderMap>,
    /// The response of a unary call, or the last message of a stream.
    pub message: Option<MessageFrame>,
}

impl Engine {
    /// End a call of a peer with a reply.
    pub fn reply(&mut self, reply: Reply) {
        let Some(slot) = self.calls.find(reply.id) else { return };
        let mut trailers = reply.trailers.unwrap_or_else(|| HeaderMap::with_capacity(4));
        match self.calls.get(slot).map(|call| call.role) {
            Some(Role::Unary) => {
                let call = self.remove_call(slot).expect("found");
                match reply.message {
                    Some(frame) if reply.status.code == code::OK => {
                        self.answer_unary(call, frame, reply.status, trailers);
                    }
                    _ => {
                        reply.status.write(&mut trailers);
                        call.send.abandon(trailers);
                    }
                }
            }
            Some(Role::Stream) => {
                let is_queued = match reply.message {
                    Some(frame) => self.send(reply.id, frame),
                    None => true,
                };
                if is_queued {
                    reply.status.write(&mut trailers);
                    self.finish_stream(slot, trailers);
                }
            }
            Some(Role::Link | Role::Watch | Role::Discard) | None => {}
        }
    }

    fn answer_unary(
        &mut self,
        call: Call,
        frame: MessageFrame,
        status: Status,
        mut trailers: HeaderMap,
    ) {
        let gauge = &self.connections[call.connection as usize].unsent;
        let unsent_bytes = gauge.get() + frame.num_bytes();
        if unsent_bytes > self.max_unsent_bytes() || self.exceeds_unsent_share(unsent_bytes) {
            self.counters.refused += 1;
            return call.send.abandon(too_much_unsent().to_headers());
        }
        status.write(&mut trailers);
        call.send.answer(frame, trailers, gauge);
    }

    fn finish_stream(&mut self, slot: u32, trailers: HeaderMap) {
        let Some(call) = self.calls.get_mut(slot) else { return };
        if !call.send.has_begun() {
            let call = self.remove_call(slot).expect("just there");
            call.send.abandon(trailers);
            return self.discard_body(call.connection, call.recv.into_unread_body());
        }
        call.send.finish(SendEnd::Trailers(trailers));
        self.calls.wake(slot);
    }

    /// Queue a message on a stream of either role. Return false if the stream has ended.
    pub fn send(&mut self, id: Id, frame: MessageFrame) -> bool {
        let Some(slot) = self.calls.find(id) else { return false };
        let call = self.calls.get(slot).expect("found");
        if matches!(call.role, Role::Unary | Role::Discard) || call.send.is_finishing() {
            return false;
        }
        let is_link = call.role == Role::Link;
        let index = call.connection as usize;
        let unsent_bytes = self.connections[index].unsent.get() + frame.num_bytes();
        let exceeds_unsent_share = !is_link && self.exceeds_unsent_share(unsent_bytes);
        if unsent_bytes > self.max_unsent_bytes() || exceeds_unsent_share {
            self.fail_call(slot, too_much_unsent());
            return false;
        }
        let call = self.calls.get_mut(slot).expect("found");
        let connection = &mut self.connections[index];
        // A failed accept is reported when the call is polled.
        let _ = call.send.accept();
        call.send.push(frame, &connection.unsent);
        self.counters.messages_out += 1;
        if !call.send.is_full && call.send.num_unsent() >= self.limits.stream_high_bytes {
            call.send.is_full = true;
            connection.waiting.push(slot);
        }
        self.calls.wake(slot);
        true
    }

    /// Send the response headers of a peer's stream, so that the peer knows it is served.
    pub fn accept_stream(&mut self, id: Id) {
        if let Some(call) = self.calls.find(id).and_then(|slot| self.calls.get_mut(slot)) {
            // A failed accept is reported when the call is polled.
            let _ = call.send.accept();
        }
    }

    /// Acknowledge a message of `num_bytes`, so that the peer of its stream may send more.
    pub fn acknowledge(&mut self, id: Id, num_bytes: usize) {
        let Some(slot) = self.calls.find(id) else { return };
        let call = self.calls.get_mut(slot).expect("found");
        call.recv.acknowledge(num_bytes);
        if call.recv.can_go_on(&self.limits) {
            self.calls.wake(slot);
        }
    }

    /// Half-close a link after its queued messages.
    pub fn finish_sending(&mut self, id: Id) {
        let Some(slot) = self.calls.find(id) else { return };
        let call = self.calls.get_mut(slot).expect("found");
        if call.role == Role::Link {
            call.send.finish(SendEnd::HalfClose);
            self.calls.wake(slot);
        }
    }

    /// Return the bytes queued on a stream that its socket has not taken.
    pub fn num_unsent(&self, id: Id) -> usize {
        let call = self.calls.find(id).and_then(|slot| self.calls.get(slot));
        call.map_or(0, |call| call.send.num_unsent())
    }

    fn max_unsent_bytes(&self) -> usize {
        self.limits.max_unsent_bytes.saturating_mul(2)
    }
}
