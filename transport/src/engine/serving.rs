//! The server role: listeners, accepted connections, requests.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use h2::server::SendResponse;
use h2::{RecvStream, client, server};
use http::{HeaderValue, Request};

use super::calls::{Call, Role};
use super::connection::{Builders, Connection, Stage};
use super::core::Engine;
use super::driving::untaken;
use super::event::Event;
use super::http_failure::HttpFailure;
use super::limits::Limits;
use super::payload::{Gauge, Payload};
use super::receiving::Receiving;
use super::sending::{Sending, refuse};
use super::wakers::Waking;
use crate::grpc::compression::{
    ACCEPTED, Encoding, GRPC_ACCEPT_ENCODING, GRPC_ENCODING, accepts_gzip,
};
use crate::grpc::status::{Status, code};
use crate::grpc::{health, metadata, timeout};
use crate::net::socket_io::{READ_BYTES_PER_TURN, Socket, SocketIo};
use crate::net::sockets::{Endpoint, Listener};
use crate::net::tls::{ServerTls, Transport};

/// Connections accepted before those there are have their turn.
const MAX_ACCEPTS: usize = 64;
/// How long a listener rests when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// A request, and its reset, take no fewer bytes.
const MIN_RESET_CALL_BYTES: usize = 30;
/// Calls a peer may open and reset before the engine looks at them: as many as one turn's reading
/// can hold. An honest peer of a process that stood still sends a second's calls together with
/// their cancellations; what a turn reads bounds what any peer can cost.
const MAX_RESETS_AT_ONCE: usize = READ_BYTES_PER_TURN.div_ceil(MIN_RESET_CALL_BYTES);
/// h2's count of what tiny DATA frames cost beyond their bytes. One turn's reading of frames of
/// one byte stays below it, and they leave h2 at the end of that turn.
const DATA_FRAME_BUDGET: usize = 16 << 20;

/// Characters of a path that a status repeats: clients accept 8 KiB of metadata by default.
const MAX_SHOWN: usize = 120;

/// Where a call goes.
#[derive(Clone, Copy)]
pub struct Route {
    role: Role,
    path: u32,
}

/// Paths that are served.
pub type Routes = HashMap<Box<str>, Route>;

/// What a listener serves.
pub struct Service<'a> {
    /// Paths of unary calls.
    pub unary: &'a [String],
    /// Paths of all other kinds.
    pub streams: &'a [String],
    /// With TLS, if at all.
    pub tls: Option<ServerTls>,
}

/// A listener and what it serves.
pub struct ListenerEntry {
    listener: Listener,
    routes: Arc<Routes>,
    tls: Option<ServerTls>,
}

/// How h2 is to keep the limits.
pub fn builders(limits: &Limits) -> Builders {
    let mut server = server::Builder::new();
    server
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_concurrent_streams(limits.max_streams)
        .max_header_list_size(limits.max_header_list_bytes)
        .max_send_buffer_size(1 << 20)
        .max_pending_accept_reset_streams(MAX_RESETS_AT_ONCE)
        .max_concurrent_reset_streams(limits.max_streams as usize)
        .data_frame_budget(DATA_FRAME_BUDGET);
    let mut client = client::Builder::new();
    client
        .initial_window_size(limits.stream_window)
        .initial_connection_window_size(limits.connection_window)
        .max_header_list_size(limits.max_header_list_bytes)
        .max_send_buffer_size(1 << 20)
        .enable_push(false)
        .data_frame_budget(DATA_FRAME_BUDGET);
    Builders { server, client }
}

impl Engine {
    /// Listens; the paths get the next indices, the unary ones first. Returns the port.
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

    /// Accepts some of the connections that wait; true where there may be more.
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
                    // No descriptor or memory is left: asking on would only burn time.
                    self.poller.remove(entry.listener.as_fd());
                    self.schedule_accepting(ACCEPT_PAUSE);
                    return false;
                }
            }
        }
        true
    }

    /// Has every listener accept again.
    pub(super) fn resume_accepting(&mut self) {
        for (index, entry) in &self.listeners {
            // It fails for those that never stopped.
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
                Stage::ServerHandshake(Box::new(self.builders.server.handshake(transport)))
            }
        };
        let routes = entry.routes.clone();
        if self.add_connection(stage, Some(io), routes, false).is_ok() {
            self.counters.connections_accepted += 1;
        }
    }

    pub(super) fn add_connection(
        &mut self,
        stage: Stage,
        io: Option<SocketIo>,
        routes: Arc<Routes>,
        watches_room: bool,
    ) -> io::Result<u32> {
        let entry = self.connections.vacant_entry();
        let index = entry.key() as u32;
        if let Some(io) = &io {
            self.poller.add_socket(io.lock().as_fd(), index, watches_room)?;
        }
        let waking = Waking::new(index, &self.awake_connections);
        waking.wake();
        let unsent = Gauge::below(&self.unsent);
        let mut connection = Connection::new(stage, io, waking, routes, unsent, self.now);
        connection.watches_room = watches_room;
        connection.is_draining = self.is_draining;
        entry.insert(connection);
        self.schedule_connection(self.limits.handshake_timeout);
        Ok(index)
    }

    pub(super) fn on_request(
        &mut self,
        index: u32,
        (request, respond): (Request<RecvStream>, SendResponse<Payload>),
    ) {
        let (parts, body) = request.into_parts();
        let connection = &self.connections[index as usize];
        if let Some(failure) = HttpFailure::of(&parts) {
            failure.answer(respond, &parts, &connection.unsent);
            return self.discard_rest(index, Some(body));
        }
        let path = parts.uri.path();
        let route = match connection.routes.get(path).copied() {
            Some(route) => route,
            None if self.health.is_known() && path == health::CHECK => {
                Route::of_health(Role::Unary)
            }
            None if self.health.is_known() && path == health::WATCH => {
                Route::of_health(Role::Watch)
            }
            None => {
                let shown: String = path.chars().take(MAX_SHOWN).collect();
                let text = format!("unknown method {shown}");
                return self.refuse(index, body, respond, Status::new(code::UNIMPLEMENTED, text));
            }
        };
        let deadline = match parts.headers.get(timeout::GRPC_TIMEOUT) {
            None => None,
            Some(value) => match timeout::parse(value.as_bytes()) {
                // h2 reads no further than it needs: the last read brought the end of these headers.
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
        if unsent_bytes > self.limits.max_unsent_bytes || self.is_clogged(unsent_bytes) {
            let text = "the connection does not read its answers";
            return self.refuse(index, body, respond, Status::new(code::RESOURCE_EXHAUSTED, text));
        }
        if self.is_overfull(index) {
            return self.refuse(index, body, respond, untaken());
        }
        let encoding = Encoding::of(parts.headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes));
        let takes_gzip = self.limits.gzip_from_bytes > 0
            && parts.headers.get(GRPC_ACCEPT_ENCODING).is_some_and(|v| accepts_gzip(v.as_bytes()));
        let gzip_from_bytes = if takes_gzip { self.limits.gzip_from_bytes } else { 0 };
        let headers = metadata::has_any(&parts.headers).then_some(parts.headers);
        let whole_by =
            if route.role == Role::Stream { None } else { self.limits.whole_by(self.now) };
        let slot = self.add_call(Call {
            connection: index,
            position: 0,
            role: route.role,
            path: route.path,
            deadline,
            whole_by,
            metadata: headers,
            is_delivered: false,
            is_paused: false,
            receiving: Receiving::of_request(body, encoding),
            num_counted: 0,
            sending: Sending::of_request(respond, gzip_from_bytes),
        });
        for at in deadline.into_iter().chain(whole_by) {
            self.schedule_deadline(at);
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
        self.tell_of(index, Event::Opened { id, path, deadline, metadata });
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
        self.discard_rest(index, Some(body));
    }
}

impl Route {
    fn of_health(role: Role) -> Self {
        Self { role, path: u32::MAX }
    }

    /// Whether a path index is that of the engine's own health service.
    pub fn is_health(path: u32) -> bool {
        path == u32::MAX
    }
}

/// A status as trailers; where an encoding is the matter, with those that are known.
pub fn failure_headers(status: &Status) -> http::HeaderMap {
    let mut headers = status.to_headers();
    if status.code == code::UNIMPLEMENTED {
        headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    }
    headers
}
