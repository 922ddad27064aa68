//! The client role: links, each a stream on its own connection, opened in the background.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use h2::client::SendRequest;
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{HeaderMap, HeaderValue, Method, Request};

use super::calls::{Call, Id, Role};
use super::connection::{LinkPlan, Stage};
use super::core::Engine;
use super::payload::Payload;
use super::recv::RecvHalf;
use super::send::SendHalf;
use crate::grpc::compression::{ACCEPTED, GRPC_ACCEPT_ENCODING};
use crate::net::resolver::Resolver;
use crate::net::socket_io::{Socket, SocketIo};
use crate::net::sockets::{Endpoint, Target, begin_connect};
use crate::net::tls::ClientTls;

const AGENT: &str = concat!("skysail-transport/", env!("CARGO_PKG_VERSION"));

/// A request to open a link.
pub struct LinkRequest<'a> {
    /// Address of the server.
    pub endpoint: Endpoint,
    /// Full path of the method.
    pub path: &'a str,
    /// Headers of the application.
    pub metadata: HeaderMap,
    /// TLS of the connection; `None` connects in plain text.
    pub tls: Option<ClientTls>,
    /// Whether taking a message acknowledges it.
    pub acknowledges_itself: bool,
}

impl Engine {
    /// Open a link in the background; events report its progress.
    ///
    /// Fails only if the path or the endpoint is invalid.
    pub fn open(&mut self, link: LinkRequest<'_>) -> io::Result<Id> {
        // The time of the last turn may be long past, and the handshake's timeout starts now.
        self.now = Instant::now();
        let request = build_request(&link)?;
        let index = self.add_connection(Stage::Resolving, None, Arc::default(), false)?;
        let slot = self.add_call(Call {
            connection: index,
            position: 0,
            role: Role::Link,
            path: u32::MAX,
            deadline: None,
            message_deadline: None,
            metadata: None,
            is_delivered: true,
            is_paused: false,
            recv: RecvHalf::for_link(link.acknowledges_itself),
            num_counted: 0,
            send: SendHalf::default(),
        });
        let id = self.calls.id(slot);
        let mut targets = VecDeque::new();
        let mut name = None;
        match &link.endpoint {
            Endpoint::Unix(path) => targets.push_back(Target::Unix(path.clone())),
            Endpoint::Tcp(text) => match Resolver::resolve_literal(text) {
                Some(address) => targets.push_back(Target::Tcp(address)),
                None => name = Some(text.clone()),
            },
        }
        let plan = LinkPlan {
            endpoint: link.endpoint,
            request: Some(request),
            slot,
            tls: link.tls,
            targets,
        };
        let connection = &mut self.connections[index as usize];
        connection.plan = Some(Box::new(plan));
        // The application ends its links itself, so a drain does not concern them.
        connection.is_draining = false;
        match name {
            None => self.connect_next(index, "the endpoint has no address"),
            Some(name) => {
                if let Err(error) = self.resolver.begin(id, &name) {
                    self.close_connection(index, Some(error.to_string()));
                }
            }
        }
        Ok(id)
    }

    /// Connect the links whose names were resolved.
    pub(super) fn connect_resolved(&mut self) {
        for (id, found) in self.resolver.take() {
            // The link may have been cancelled since.
            let Some(slot) = self.calls.find(id) else { continue };
            let index = self.calls.get(slot).expect("found").connection;
            match found {
                Ok(addresses) => {
                    if let Some(plan) = &mut self.connections[index as usize].plan {
                        plan.targets = addresses.into_iter().map(Target::Tcp).collect();
                    }
                    self.connect_next(index, "the name has no address");
                }
                Err(error) => self.close_connection(index, Some(error.to_string())),
            }
        }
    }

    /// Connect to the next address; without one, close the link with `reason`.
    pub(super) fn connect_next(&mut self, index: u32, reason: &str) {
        let mut reason = reason.to_owned();
        loop {
            let connection = &mut self.connections[index as usize];
            let Some(target) = connection.plan.as_mut().and_then(|plan| plan.targets.pop_front())
            else {
                return self.close_connection(index, Some(reason));
            };
            let begun = begin_connect(&target).and_then(|fd| {
                self.poller.add_socket(fd.as_fd(), index, true)?;
                Ok(fd)
            });
            match begun {
                Ok(fd) => {
                    connection.io = Some(SocketIo::new(Socket::connecting(fd)));
                    connection.stage = Stage::Connecting;
                    connection.watches_room = true;
                    return;
                }
                Err(error) => reason = error.to_string(),
            }
        }
    }

    /// Send the request of a link whose HTTP/2 handshake is done.
    pub(super) fn begin_link(
        &mut self,
        index: u32,
        mut sender: SendRequest<Payload>,
        context: &mut Context<'_>,
    ) -> Result<(), String> {
        let plan = self.connections[index as usize].plan.as_mut();
        let Some((slot, request)) = plan.and_then(|plan| Some((plan.slot, plan.request.take()?)))
        else {
            return Ok(());
        };
        let _ = sender.poll_ready(context);
        let (response, stream) =
            sender.send_request(request, false).map_err(|error| error.to_string())?;
        if let Some(call) = self.calls.get_mut(slot) {
            call.recv.expect(response);
            call.send.begin(stream);
            self.calls.wake(slot);
        }
        Ok(())
    }
}

fn build_request(link: &LinkRequest<'_>) -> io::Result<Request<()>> {
    let invalid = |error: &dyn std::fmt::Display| {
        let text = format!("cannot open {:?}: {error}", link.path);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    };
    if !link.path.starts_with('/') {
        return Err(invalid(&"a path begins with /"));
    }
    // h2 refuses the percent-encoded paths that other clients send for a unix socket.
    let authority = match &link.endpoint {
        Endpoint::Tcp(text) => Authority::try_from(text.as_str()).map_err(|e| invalid(&e))?,
        Endpoint::Unix(_) => Authority::from_static("localhost"),
    };
    let path = PathAndQuery::try_from(link.path).map_err(|error| invalid(&error))?;
    let scheme = if link.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri.map_err(|error| invalid(&error))?;
    let headers = request.headers_mut();
    headers.extend(link.metadata.clone());
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static(ACCEPTED));
    Ok(request)
}
