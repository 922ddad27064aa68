//! One socket and the stage it has reached.
//!
//! ```text
//! accepted: (TLS handshake) ─► HTTP/2 handshake ─► serving
//! ours:     name lookup ─► connecting ─► (TLS handshake) ─► HTTP/2 handshake ─► linked
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

/// How far a connection has come.
pub enum Stage {
    /// Ours, its name being looked up.
    Resolving,
    /// Ours, being connected.
    Connecting,
    /// Accepted, in the TLS handshake.
    ServerTls(Box<tokio_rustls::Accept<SocketIo>>),
    /// Ours, in the TLS handshake.
    ClientTls(Box<tokio_rustls::Connect<SocketIo>>),
    /// Accepted, in the HTTP/2 handshake.
    ServerHandshake(Box<server::Handshake<Transport, Payload>>),
    /// Ours, in the HTTP/2 handshake.
    ClientHandshake(ClientHandshake),
    /// Accepted, taking requests.
    Serving(Box<server::Connection<Transport, Payload>>),
    /// Ours, carrying its stream.
    Linked(Box<client::Connection<Transport, Payload>>),
}

/// What a link is to be, kept until it can be opened.
pub struct LinkPlan {
    /// Where to.
    pub endpoint: Endpoint,
    /// What is asked for; taken when it is sent.
    pub request: Option<Request<()>>,
    /// The slot of its stream.
    pub slot: u32,
    /// How it is encrypted, if it is.
    pub tls: Option<ClientTls>,
    /// Where it was not tried yet.
    pub targets: VecDeque<Target>,
}

/// What a poll came to.
pub enum Step {
    /// Poll again: another stage is reached.
    Again,
    /// Nothing until the poller tells of the socket.
    Wait,
    /// A request came.
    Request(Box<(Request<RecvStream>, SendResponse<Payload>)>),
    /// HTTP/2 stands on a connection of ours.
    Ready(SendRequest<Payload>),
    /// The connection is over; by an error, if there is one.
    Closed(Option<String>),
}

/// See the module.
pub struct Connection {
    /// Its stage.
    pub stage: Stage,
    /// Its socket; `None` while there is none.
    pub io: Option<SocketIo>,
    /// Lists it to be polled.
    pub wake_handle: WakeHandle,
    /// What its listener serves.
    pub routes: Arc<Routes>,
    /// The slots of its calls.
    pub calls: Vec<u32>,
    /// Slots that wait for the queue to shrink.
    pub waiting: Vec<u32>,
    /// Bytes queued in it.
    pub unsent: Arc<Gauge>,
    /// Bytes of messages of its calls that are not whole.
    pub partial_bytes: usize,
    // Bytes of messages that were told and not taken, as of the takes so far.
    untaken: (u64, usize),
    /// What it is to carry, if it is ours.
    pub plan: Option<Box<LinkPlan>>,
    /// Whether the poller watches it for room to write.
    pub watches_room: bool,
    /// Whether it takes no new calls.
    pub is_draining: bool,
    /// Since when, if it does not.
    pub draining_since: Instant,
    /// When it was accepted or begun.
    pub created_at: Instant,
    /// Times the usual age that it may reach: those accepted together are not to go together.
    pub age_factor: f64,
    /// When bytes were last read from its socket, as of its last poll.
    pub last_read_at: Instant,
    /// Since when it has no calls.
    pub idle_since: Instant,
    /// Since when the peer takes nothing of what waits in the socket, if it does not.
    pub blocked_since: Option<Instant>,
    /// When the ping under way was sent.
    pub ping_sent: Option<Instant>,
    ping: Option<PingPong>,
    /// Bytes known to have come, to tell whether more did.
    pub known_bytes_in: u64,
}

impl Connection {
    /// A connection at its first stage.
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

    /// When bytes were last read from its socket, also in the midst of its poll.
    pub fn read_at(&self) -> Instant {
        self.io.as_ref().map_or(self.created_at, |io| io.lock().read_at)
    }

    /// Bytes of messages that were told since the last of so many takes.
    pub fn untaken_bytes(&self, num_takes: u64) -> usize {
        let (told_after, num_bytes) = self.untaken;
        if told_after == num_takes { num_bytes } else { 0 }
    }

    /// Counts a message that is told.
    pub fn count_untaken(&mut self, num_bytes: usize, num_takes: u64) {
        self.untaken = (num_takes, self.untaken_bytes(num_takes) + num_bytes);
    }

    /// Whether HTTP/2 stands.
    pub fn is_established(&self) -> bool {
        matches!(self.stage, Stage::Serving(_) | Stage::Linked(_))
    }

    /// Goes as far as it can without waiting.
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

    /// Tells the peer to take its calls elsewhere; those under way go on.
    pub fn drain(&mut self, now: Instant) {
        if !std::mem::replace(&mut self.is_draining, true) {
            self.draining_since = now;
            if let Stage::Serving(connection) = &mut self.stage {
                connection.graceful_shutdown();
            }
            self.wake_handle.wake();
        }
    }

    /// Pings the peer, unless a ping is under way.
    pub fn send_ping(&mut self, now: Instant) {
        if let Some(ping) = &mut self.ping
            && ping.send_ping(h2::Ping::opaque()).is_ok()
        {
            self.ping_sent = Some(now);
            self.wake_handle.wake();
        }
    }

    /// Takes note of a ping that came back.
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
