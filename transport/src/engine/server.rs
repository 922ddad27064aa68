//! The server role: listeners, accepted connections, requests.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Request};

use super::calls::{Call, Role};
use super::connection::Stage;
use super::core::Engine;
use super::event::Event;
use super::http_failure::HttpFailure;
use super::payload::Payload;
use super::recv::RecvHalf;
use super::refusal::{failure_headers, too_much_untaken};
use super::routes::{ListenerEntry, Route, Routes, Service};
use super::send::{SendHalf, refuse};
use crate::grpc::compression::{Encoding, GRPC_ACCEPT_ENCODING, GRPC_ENCODING, accepts_gzip};
use crate::grpc::status::{Status, code};
use crate::grpc::{health, metadata, timeout};
use crate::net::socket_io::{Socket, SocketIo};
use crate::net::sockets::{Endpoint, Listener};
use crate::net::tls::Transport;

/// Connections that one turn accepts before it serves the others.
const MAX_ACCEPTS: usize = 64;
/// Pause of a listener when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Characters of a path that a status repeats, because clients accept 8 KiB of metadata by default.
const MAX_SHOWN: usize = 120;

impl Engine {
    /// Listen on an address and return its port. The paths get the next indices, unary ones first.
    pub fn listen(
        &mut self,
        endpoint: &Endpoint,
        shares_port: bool,
        service: Service<'_>,
    ) -> io::Result<u16> {
        let listener = Listener::bind(endpoint, shares_port)?;
        let port = listener.port()?;
        let mut routes = Routes::new();
        let unary = service.unary.iter().map(|path| (path, Role::Unary));
        let streams = service.streams.iter().map(|path| (path, Role::Stream));
        for (path, role) in unary.chain(streams) {
            routes.insert(path.as_str().into(), Route { role, path: self.num_paths });
            self.num_paths += 1;
        }
        let entry = self.listeners.vacant_entry();
        self.poller.add_listener(listener.as_fd(), entry.key() as u32)?;
        entry.insert(ListenerEntry { listener, routes: Arc::new(routes), tls: service.tls });
        Ok(port)
    }

    /// Accept some of the waiting connections. Return true if more may wait.
    pub(super) fn accept(&mut self, index: u32) -> bool {
        for _ in 0..MAX_ACCEPTS {
            let Some(entry) = self.listeners.get(index as usize) else { return false };
            match entry.listener.accept() {
                Ok(Some(_)) if self.connections.len() >= self.limits.max_connections => {
                    self.counters.connections_refused += 1;
                }
                Ok(Some(fd)) => self.add_accepted(index, fd),
                Ok(None) => return false,
                Err(_) => {
                    // The process has no descriptor or memory left, so that another attempt would
                    // only burn time.
                    self.poller.remove(entry.listener.as_fd());
                    self.schedule_accept(ACCEPT_PAUSE);
                    return false;
                }
            }
        }
        true
    }

    /// Resume every listener that stopped accepting.
    pub(super) fn resume_accept(&mut self) {
        for (index, entry) in &self.listeners {
            // Adding a listener fails if it never stopped.
            let _ = self.poller.add_listener(entry.listener.as_fd(), index as u32);
        }
    }

    fn add_accepted(&mut self, listener: u32, fd: std::os::fd::OwnedFd) {
        let entry = &self.listeners[listener as usize];
        let io = SocketIo::new(Socket::new(fd));
        let stage = match &entry.tls {
            Some(tls) => Stage::ServerTls(Box::new(tls.accept(io.clone()))),
            None => {
                let transport = Transport::Plain(io.clone());
                Stage::ServerHandshake(Box::new(self.h2_config.server.handshake(transport)))
            }
        };
        let routes = entry.routes.clone();
        if self.add_connection(stage, Some(io), routes, false).is_ok() {
            self.counters.connections_accepted += 1;
        }
    }

    pub(super) fn on_request(
        &mut self,
        index: u32,
        (request, respond): (Request<RecvStream>, SendResponse<Payload>),
    ) {
        let (parts, body) = request.into_parts();
        let connection = &self.connections[index as usize];
        if let Some(failure) = HttpFailure::find(&parts) {
            failure.answer(respond, &parts, &connection.unsent);
            return self.discard_body(index, Some(body));
        }
        let path = parts.uri.path();
        let route = match connection.routes.get(path).copied() {
            Some(route) => route,
            None if self.health.is_known() && path == health::CHECK => Route::health(Role::Unary),
            None if self.health.is_known() && path == health::WATCH => Route::health(Role::Watch),
            None => {
                let shown: String = path.chars().take(MAX_SHOWN).collect();
                let text = format!("unknown method {shown}");
                return self.refuse(index, body, respond, Status::new(code::UNIMPLEMENTED, text));
            }
        };
        let deadline = match parts.headers.get(timeout::GRPC_TIMEOUT) {
            None => None,
            Some(value) => match timeout::parse(value.as_bytes()) {
                // h2 reads no further than it needs, so the last read brought the end of these
                // headers.
                Some(timeout) => connection.read_at().checked_add(timeout),
                None => {
                    return self.refuse(
                        index,
                        body,
                        respond,
                        Status::new(code::INTERNAL, "bad grpc-timeout"),
                    );
                }
            },
        };
        let unsent_bytes = connection.unsent.get();
        if unsent_bytes > self.limits.max_unsent_bytes || self.exceeds_unsent_share(unsent_bytes) {
            let text = "the peer does not read its responses";
            return self.refuse(index, body, respond, Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        if self.exceeds_event_share(index) {
            return self.refuse(index, body, respond, too_much_untaken());
        }
        let encoding =
            Encoding::from_header(parts.headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes));
        let takes_gzip = self.limits.gzip_from_bytes > 0
            && parts.headers.get(GRPC_ACCEPT_ENCODING).is_some_and(|v| accepts_gzip(v.as_bytes()));
        let gzip_from_bytes = if takes_gzip { self.limits.gzip_from_bytes } else { 0 };
        let headers = metadata::has_any(&parts.headers).then_some(parts.headers);
        let message_deadline =
            if route.role == Role::Stream { None } else { self.limits.message_deadline(self.now) };
        let slot = self.add_call(Call {
            connection: index,
            position: 0,
            role: route.role,
            path: route.path,
            deadline,
            message_deadline,
            metadata: headers,
            is_delivered: false,
            is_paused: false,
            recv: RecvHalf::for_request(body, encoding),
            num_counted: 0,
            send: SendHalf::for_request(respond, gzip_from_bytes),
        });
        for at in deadline.into_iter().chain(message_deadline) {
            self.schedule.add_deadline(at);
        }
        if route.role == Role::Stream {
            self.open_stream(slot);
        }
        self.calls.wake(slot);
    }

    fn open_stream(&mut self, slot: u32) {
        let id = self.calls.id(slot);
        let call = self.calls.get_mut(slot).expect("just added");
        call.is_delivered = true;
        let (path, deadline, metadata) = (call.path, call.deadline, call.metadata.take());
        let index = call.connection;
        self.counters.streams += 1;
        self.push_peer_event(index, Event::Opened { id, path, deadline, metadata });
    }

    fn refuse(
        &mut self,
        index: u32,
        body: RecvStream,
        mut respond: SendResponse<Payload>,
        status: Status,
    ) {
        self.counters.refused += 1;
        refuse(&mut respond, failure_headers(&status));
        self.discard_body(index, Some(body));
    }
}
