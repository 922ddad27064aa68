//! `grpc.health.v1.Health`, answered by the engine, so that a busy application does not look dead.

use super::core::Engine;
use super::send::SendEnd;
use crate::grpc::frame::MessageFrame;
use crate::grpc::health::{SERVICE_UNKNOWN, read_service, write_status};
use crate::grpc::message::Message;
use crate::grpc::status::{Status, code};

/// Longest request. The engine keeps the name of a watched service, and no other bound counts
/// those.
const MAX_REQUEST_BYTES: usize = 1024;
const INVALID_REQUEST: &str = "cannot read request: not a HealthCheckRequest";

impl Engine {
    /// Set the status of a service and notify its watchers.
    pub fn set_health(&mut self, service: &str, status: u32) {
        if self.health.statuses.insert(service.to_owned(), status) == Some(status) {
            return;
        }
        let watchers = std::mem::take(&mut self.health.watchers);
        for (id, watched) in watchers {
            if self.calls.find(id).is_none() {
                continue;
            }
            if watched == service {
                self.send(id, MessageFrame::copy_from_slice(&write_status(status)));
            }
            self.health.watchers.push((id, watched));
        }
    }

    pub(super) fn answer_check(&mut self, slot: u32, message: &Message) {
        self.counters.health_checks += 1;
        let status = self.parse_service(message).map(|service| self.health.statuses.get(&service));
        let answer = match status {
            Ok(Some(&status)) => Ok(MessageFrame::copy_from_slice(&write_status(status))),
            Ok(None) => Err(Status::new(code::NOT_FOUND, "unknown service")),
            Err(status) => Err(status),
        };
        let Some(call) = self.remove_call(slot) else { return };
        let gauge = &self.connections[call.connection as usize].unsent;
        match answer {
            Ok(frame) => {
                call.send.answer(frame, Status::new(code::OK, "").to_headers(), gauge);
            }
            Err(status) => call.send.abandon(status.to_headers()),
        }
    }

    pub(super) fn begin_watch(&mut self, slot: u32, message: &Message) {
        match self.parse_service(message) {
            Ok(service) => {
                let status = self.health.statuses.get(&service).copied();
                let id = self.calls.id(slot);
                self.send(
                    id,
                    MessageFrame::copy_from_slice(&write_status(status.unwrap_or(SERVICE_UNKNOWN))),
                );
                // Ended calls are removed before the list outgrows the calls.
                if self.health.watchers.len() > 2 * self.calls.len() {
                    self.health.watchers.retain(|(id, _)| self.calls.find(*id).is_some());
                }
                self.health.watchers.push((id, service));
            }
            Err(status) => self.fail_call(slot, status),
        }
    }

    /// End every watch, because a watch would keep a draining connection open for ever.
    pub(super) fn end_watches(&mut self) {
        let trailers = Status::new(code::UNAVAILABLE, "the server is going away").to_headers();
        for (id, _) in std::mem::take(&mut self.health.watchers) {
            if let Some(slot) = self.calls.find(id) {
                let call = self.calls.get_mut(slot).expect("found");
                call.send.finish(SendEnd::Trailers(trailers.clone()));
                self.calls.wake(slot);
            }
        }
    }

    fn parse_service(&self, message: &Message) -> Result<String, Status> {
        if message.len() > MAX_REQUEST_BYTES {
            return Err(Status::new(code::INVALID_ARGUMENT, "the name of the service is too long"));
        }
        let bytes = message.chunks().concat();
        read_service(&bytes)
            .map(str::to_owned)
            .ok_or_else(|| Status::new(code::INVALID_ARGUMENT, INVALID_REQUEST))
    }
}
