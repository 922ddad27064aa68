//! A connection: one socket and the stage that it has reached.
//!
//! ```text
//! accepted: (TLS handshake) ─► HTTP/2 handshake ─► serving
//! link:     name lookup ─► connecting ─► (TLS handshake) ─► HTTP/2 handshake ─► linked
//! ```

use std::collections::VecDeque;
use std::future::Future;
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{PingPong, RecvStream, client, server};
use http::Request;

use super::h2_config::H2Config;
use super::payload::{Gauge, Payload};
use super::routes::Routes;
use super::schedule::random_age_factor;
use super::wake_list::WakeHandle;
use crate::net::socket_io::SocketIo;
use crate::net::sockets::{Endpoint, Target, connect_result};
use crate::net::tls::{ClientTls, Transport};

type ClientHandshake = Pin<
    Box<
        dyn Future<
                Output = Result<
                    (SendRequest<Payload>, client::Connection<Transport, Payload>),
                    h2::Error,
                >,
            > + Send,
    >,
>;

/// A stage of a connection.
pub enum Stage {
    /// A link whose name is being resolved.
    Resolving,
    /// A link whose socket is connecting.
    Connecting,
    /// An accepted connection in the TLS handshake.
    ServerTls(Box<tokio_rustls::Accept<SocketIo>>),
    /// A link in the TLS handshake.
    ClientTls(Box<tokio_rustls::Connect<SocketIo>>),
    /// An accepted connection in the HTTP/2 handshake.
    ServerHandshake(Box<server::Handshake<Transport, Payload>>),
    /// A link in the HTTP/2 handshake.
    ClientHandshake(ClientHandshake),
    /// An accepted connection that takes requests.
    Serving(Box<server::Connection<Transport, Payload>>),
    /// A link that carries its stream.
    Linked(Box<client::Connection<Transport, Payload>>),
}

/// The plan of a link, kept until its stream is open.
pub struct LinkPlan {
    /// Address of the server.
    pub endpoint: Endpoint,
    /// Request headers, taken when they are sent.
    pub request: Option<Request<()>>,
    /// Slot of the stream.
    pub slot: u32,
    /// TLS of the connection; `None` connects in plain text.
    pub tls: Option<ClientTls>,
    /// Addresses that were not tried.
    pub targets: VecDeque<Target>,
}

/// The result of one step.
pub enum Step {
    /// The connection reached another stage and can be polled again.
    Again,
    /// The connection waits for its socket.
    Wait,
    /// A request arrived.
    Request(Box<(Request<RecvStream>, SendResponse<Payload>)>),
    /// The HTTP/2 handshake of a link is done.
    Ready(SendRequest<Payload>),
    /// The connection has ended, with a reason if by an error.
    Closed(Option<String>),
}

/// A connection of either role.
pub struct Connection {
    /// Stage of the connection.
    pub stage: Stage,
    /// Socket, once the link has a target.
    pub io: Option<SocketIo>,
    /// Waker that schedules a poll.
    pub wake_handle: WakeHandle,
    /// Routes of the listener.
    pub routes: Arc<Routes>,
    /// Slots of the calls.
    pub calls: Vec<u32>,
    /// Slots of calls that wait for the queue to shrink.
    pub waiting: Vec<u32>,
    /// Bytes queued for the peer.
    pub unsent: Arc<Gauge>,
    /// Bytes of incomplete messages.
    pub partial_bytes: usize,
    // Count of takes, and the bytes of events pushed since that take.
    untaken: (u64, usize),
    /// Plan of a link; `None` for an accepted connection.
    pub plan: Option<Box<LinkPlan>>,
    /// Whether the poller watches the socket for room to write.
    pub watches_room: bool,
    /// Whether new calls are refused.
    pub is_draining: bool,
    /// Instant at which the drain began.
    pub draining_since: Instant,
    /// Instant at which the connection was accepted or begun.
    pub created_at: Instant,
    /// Factor of the configured age, so that connections accepted together do not close together.
    pub age_factor: f64,
    /// Instant of the last read from the socket, as of the last poll.
    pub last_read_at: Instant,
    /// Instant at which the last call ended.
    pub idle_since: Instant,
    /// Instant since which the peer takes no queued bytes; `None` if it takes them.
    pub blocked_since: Option<Instant>,
    /// Instant at which the unanswered ping was sent.
    pub ping_sent: Option<Instant>,
    ping: Option<PingPong>,
    /// Bytes received as of the last poll.
    pub known_bytes_in: u64,
}

impl Connection {
    /// Create a connection at its first stage.
    pub fn new(
        stage: Stage,
        io: Option<SocketIo>,
        wake_handle: WakeHandle,
        routes: Arc<Routes>,
        unsent: Arc<Gauge>,
        now: Instant,
    ) -> Self {
        Self {
            stage,
            io,
            wake_handle,
            routes,
            calls: Vec::new(),
            waiting: Vec::new(),
            unsent,
            partial_bytes: 0,
            untaken: (0, 0),
            plan: None,
            watches_room: false,
            is_draining: false,
            draining_since: now,
            created_at: now,
            age_factor: random_age_factor(),
            last_read_at: now,
            idle_since: now,
            blocked_since: None,
            ping_sent: None,
            ping: None,
            known_bytes_in: 0,
        }
    }

    /// Return the instant of the last read from the socket, also during a poll.
    pub fn read_at(&self) -> Instant {
        self.io.as_ref().map_or(self.created_at, |io| io.lock().read_at)
    }

    /// Return the bytes of events pushed since the last take.
    pub fn untaken_bytes(&self, num_takes: u64) -> usize {
        let (told_after, num_bytes) = self.untaken;
        if told_after == num_takes { num_bytes } else { 0 }
    }

    /// Count the bytes of an event as pushed and not taken.
    pub fn count_untaken(&mut self, num_bytes: usize, num_takes: u64) {
        self.untaken = (num_takes, self.untaken_bytes(num_takes) + num_bytes);
    }

    /// Return whether the HTTP/2 handshake is done.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Serving(_) | Stage::Linked(_))
    }

    /// Advance the connection as far as possible without blocking.
    pub fn step(&mut self, context: &mut Context<'_>, h2_config: &H2Config) -> Step {
        match &mut self.stage {
            Stage::Resolving => Step::Wait,
            Stage::Connecting => self.step_connecting(h2_config),
            Stage::ServerTls(accept) => match Pin::new(&mut **accept).poll(context) {
                Poll::Ready(Ok(stream)) => match Transport::from_tls(stream.into()) {
                    Ok(transport) => {
                        let handshake = h2_config.server.handshake(transport);
                        self.stage = Stage::ServerHandshake(Box::new(handshake));
                        Step::Again
                    }
                    Err(error) => failed(error),
                },
                Poll::Ready(Err(error)) => failed(error),
                Poll::Pending => Step::Wait,
            },
            Stage::ClientTls(connect) => match Pin::new(&mut **connect).poll(context) {
                Poll::Ready(Ok(stream)) => match Transport::from_tls(stream.into()) {
                    Ok(transport) => self.begin_http2(transport, h2_config),
                    Err(error) => failed(error),
                },
                Poll::Ready(Err(error)) => failed(error),
                Poll::Pending => Step::Wait,
            },
            Stage::ServerHandshake(handshake) => match Pin::new(&mut **handshake).poll(context) {
                Poll::Ready(Ok(mut connection)) => {
                    if self.is_draining {
                        connection.graceful_shutdown();
                    }
                    self.ping = connection.ping_pong();
                    self.stage = Stage::Serving(Box::new(connection));
                    Step::Again
                }
                Poll::Ready(Err(error)) => failed(error),
                Poll::Pending => Step::Wait,
            },
            Stage::ClientHandshake(handshake) => match handshake.as_mut().poll(context) {
                Poll::Ready(Ok((sender, mut connection))) => {
                    self.ping = connection.ping_pong();
                    self.stage = Stage::Linked(Box::new(connection));
                    Step::Ready(sender)
                }
                Poll::Ready(Err(error)) => failed(error),
                Poll::Pending => Step::Wait,
            },
            Stage::Serving(connection) => match connection.poll_accept(context) {
                Poll::Ready(Some(Ok(request))) => Step::Request(Box::new(request)),
                Poll::Ready(Some(Err(error))) => failed(error),
                Poll::Ready(None) => Step::Closed(None),
                Poll::Pending => Step::Wait,
            },
            Stage::Linked(connection) => match Pin::new(&mut **connection).poll(context) {
                Poll::Ready(Ok(())) => Step::Closed(None),
                Poll::Ready(Err(error)) => failed(error),
                Poll::Pending => Step::Wait,
            },
        }
    }

    fn step_connecting(&mut self, h2_config: &H2Config) -> Step {
        let (Some(io), Some(plan)) = (&self.io, &self.plan) else { return Step::Wait };
        if io.lock().is_blocked() {
            return Step::Wait;
        }
        if let Err(error) = connect_result(io.lock().as_fd()) {
            return failed(error);
        }
        let io = io.clone();
        match &plan.tls {
            None => self.begin_http2(Transport::Plain(io), h2_config),
            Some(tls) => match tls.connect(io, plan.endpoint.host()) {
                Ok(connect) => {
                    self.stage = Stage::ClientTls(Box::new(connect));
                    Step::Again
                }
                Err(error) => failed(error),
            },
        }
    }

    fn begin_http2(&mut self, transport: Transport, h2_config: &H2Config) -> Step {
        let builder = h2_config.client.clone();
        let handshake = async move { builder.handshake(transport).await };
        self.stage = Stage::ClientHandshake(Box::pin(handshake));
        Step::Again
    }

    /// Ask the peer to open its next calls elsewhere (GOAWAY); open calls continue.
    pub fn drain(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_draining, true) {
            self.draining_since = now;
            if let Stage::Serving(connection) = &mut self.stage {
                connection.graceful_shutdown();
            }
            self.wake_handle.wake();
        }
    }

    /// Ping the peer, unless a ping is unanswered.
    pub fn send_ping(&mut self, now: Instant) {
        if let Some(ping) = &mut self.ping
            && ping.send_ping(h2::Ping::opaque()).is_ok()
        {
            self.ping_sent = Some(now);
            self.wake_handle.wake();
        }
    }

    /// Clear the ping if its answer has arrived.
    pub fn poll_pong(&mut self, context: &mut Context<'_>) {
        if let (Some(ping), Some(_)) = (&mut self.ping, self.ping_sent)
            && ping.poll_pong(context).is_ready()
        {
            self.ping_sent = None;
        }
    }
}

fn failed(error: impl std::fmt::Display) -> Step {
    Step::Closed(Some(error.to_string()))
}
