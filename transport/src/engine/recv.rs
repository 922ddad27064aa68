//! The receiving half of a call.

use std::pin::Pin;
use std::task::{Context, Poll};

use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, StatusCode};

use super::call_error::CallError;
use super::limits::Limits;
use crate::grpc::compression::{Encoding, GRPC_ENCODING};
use crate::grpc::frame::Assembler;
use crate::grpc::message::Message;
use crate::grpc::status::{Status, code};

/// Largest final frame of a unary call whose window is released only with the call. Releasing later
/// saves h2 the bookkeeping, and the calls of one connection stay far below its window.
const SMALL_FRAME_BYTES: usize = 1024;

/// Bytes of the body of an ended call that are discarded before the stream is reset.
const MAX_REST_BYTES: usize = 64 << 10;

/// Cost of a delivered message beside its bytes, so that empty messages are bounded too.
const MESSAGE_OVERHEAD_BYTES: usize = 128;

/// The end of the messages of a stream.
pub enum StreamEnd {
    /// A half-close by a peer that opened the stream.
    HalfClosed,
    /// The status and trailers of a link.
    Closed(Status, HeaderMap),
}

/// The response to a link's request.
pub enum Response {
    /// Response headers; messages follow.
    Accepted(HeaderMap),
    /// A status without messages, with its trailers.
    Refused(Status, HeaderMap),
}

/// Received data of a call: response, body and message in progress.
pub struct RecvHalf {
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    encoding: Encoding,
    assembler: Assembler,
    whole: Option<Message>,
    // Cost of delivered messages that the application has not acknowledged, and bytes whose window
    // is withheld. Undelivered bytes do not count, because a message larger than the window could
    // never be complete.
    num_unacknowledged: usize,
    num_withheld: usize,
    /// Whether taking a message acknowledges it.
    pub acknowledges_itself: bool,
}

impl RecvHalf {
    /// Receive the body of a request.
    pub fn for_request(body: RecvStream, encoding: Encoding) -> Self {
        Self { body: Some(body), encoding, ..Self::for_link(false) }
    }

    /// Create the half of a link, whose response is not expected before its request is sent.
    pub fn for_link(acknowledges_itself: bool) -> Self {
        Self {
            response: None,
            body: None,
            encoding: Encoding::Identity,
            assembler: Assembler::default(),
            whole: None,
            num_unacknowledged: 0,
            num_withheld: 0,
            acknowledges_itself,
        }
    }

    /// Expect a response.
    pub fn expect(&mut self, response: ResponseFuture) {
        self.response = Some(response);
    }

    /// Return whether the peer may still send.
    pub fn is_open(&self) -> bool {
        self.body.is_some() || self.response.is_some()
    }

    /// Return whether a message waits for an allowance to decompress.
    pub fn is_inflating(&self) -> bool {
        self.assembler.is_inflating()
    }

    /// Return whether the rest of a message is awaited from the peer, rather than an
    /// acknowledgement.
    pub fn is_inside_message(&self, limits: &Limits) -> bool {
        let is_held_back = self.num_unacknowledged > limits.stream_window as usize;
        !is_held_back && !self.is_inflating() && !self.assembler.is_between_messages()
    }

    /// Return the bytes of undelivered messages.
    pub fn num_bytes(&self) -> usize {
        self.assembler.num_bytes() + self.whole.as_ref().map_or(0, Message::len)
    }

    /// Poll for the one message of a unary call, complete when the peer has half-closed.
    pub fn poll_unary(
        &mut self,
        context: &mut Context<'_>,
        limits: &Limits,
        allowance: &mut usize,
    ) -> Poll<Result<Message, CallError>> {
        let bounds = limits.bounds(false);
        let Some(body) = &mut self.body else { return Poll::Pending };
        let too_many = || Status::new(code::INTERNAL, "more than one message in a unary call");
        loop {
            if let Some(message) = self.assembler.next(self.encoding, &bounds, allowance)? {
                if self.whole.replace(message).is_some() {
                    return Poll::Ready(Err(too_many().into()));
                }
                continue;
            }
            if self.assembler.is_inflating() {
                return Poll::Pending;
            }
            if self.whole.is_some() && !self.assembler.is_between_messages() {
                return Poll::Ready(Err(too_many().into()));
            }
            if body.is_end_stream() {
                break;
            }
            match body.poll_data(context) {
                Poll::Ready(Some(data)) => {
                    let data = data?;
                    if data.len() > SMALL_FRAME_BYTES || !body.is_end_stream() {
                        let _ = body.flow_control().release_capacity(data.len());
                    }
                    self.assembler.push(data);
                }
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        self.body = None;
        Poll::Ready(match self.whole.take() {
            Some(message) if self.assembler.is_between_messages() => Ok(message),
            _ => Err(Status::new(code::INTERNAL, "a unary call without a complete message").into()),
        })
    }

    /// Discard the rest of a body; ready at its end, or once it exceeds `MAX_REST_BYTES`.
    pub fn poll_discard(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(body) = &mut self.body else { return Poll::Ready(()) };
        while !body.is_end_stream() && self.num_withheld <= MAX_REST_BYTES {
            match body.poll_data(context) {
                Poll::Ready(Some(Ok(data))) => {
                    let _ = body.flow_control().release_capacity(data.len());
                    self.num_withheld += data.len();
                }
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }

    /// Return the body of an ended call if more data may arrive.
    pub fn into_unread_body(self) -> Option<RecvStream> {
        self.body.filter(|body| !body.is_end_stream())
    }

    /// Poll for the response to a link's request.
    pub fn poll_response(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response, CallError>> {
        let Some(response) = &mut self.response else { return Poll::Pending };
        let Poll::Ready(response) = Pin::new(response).poll(context)? else {
            return Poll::Pending;
        };
        self.response = None;
        let (parts, body) = response.into_parts();
        if parts.status != StatusCode::OK {
            return Poll::Ready(Err(CallError::Disconnected(Status::from_http(parts.status))));
        }
        if body.is_end_stream() {
            let status = Status::read(&parts.headers).unwrap_or_else(no_status);
            return Poll::Ready(Ok(Response::Refused(status, parts.headers)));
        }
        let encoding = parts.headers.get(GRPC_ENCODING).map(http::HeaderValue::as_bytes);
        self.encoding = Encoding::from_header(encoding);
        self.body = Some(body);
        Poll::Ready(Ok(Response::Accepted(parts.headers)))
    }

    /// Deliver the messages that have arrived; ready at their end.
    pub fn poll_stream(
        &mut self,
        context: &mut Context<'_>,
        limits: &Limits,
        is_link: bool,
        allowance: &mut usize,
        mut deliver: impl FnMut(Message),
    ) -> Poll<Result<StreamEnd, CallError>> {
        let Some(body) = &mut self.body else { return Poll::Pending };
        let bounds = limits.bounds(is_link);
        let window = limits.stream_window as usize;
        loop {
            while self.num_unacknowledged <= window {
                let Some(message) = self.assembler.next(self.encoding, &bounds, allowance)? else {
                    break;
                };
                self.num_unacknowledged += message.len() + MESSAGE_OVERHEAD_BYTES;
                deliver(message);
            }
            if self.assembler.is_inflating() {
                return Poll::Pending;
            }
            if self.num_unacknowledged <= window {
                let count = std::mem::take(&mut self.num_withheld);
                let _ = body.flow_control().release_capacity(count);
            }
            if body.is_end_stream() {
                break;
            }
            match body.poll_data(context) {
                Poll::Ready(Some(data)) => {
                    let data = data?;
                    self.num_withheld += data.len();
                    self.assembler.push(data);
                }
                Poll::Ready(None) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.num_unacknowledged > window && !self.assembler.is_between_messages() {
            // Messages are held back until others are acknowledged.
            return Poll::Pending;
        }
        let end = if is_link {
            let Poll::Ready(trailers) = body.poll_trailers(context)? else {
                return Poll::Pending;
            };
            let trailers = trailers.unwrap_or_default();
            let status = Status::read(&trailers).unwrap_or_else(no_status);
            StreamEnd::Closed(status, trailers)
        } else {
            StreamEnd::HalfClosed
        };
        self.body = None;
        if !self.assembler.is_between_messages() {
            let status = Status::new(code::INTERNAL, "the stream ended inside a message");
            return Poll::Ready(Err(status.into()));
        }
        Poll::Ready(Ok(end))
    }

    /// Record that the application has processed a message of `num_bytes`.
    pub fn acknowledge(&mut self, num_bytes: usize) {
        let cost = num_bytes + MESSAGE_OVERHEAD_BYTES;
        self.num_unacknowledged = self.num_unacknowledged.saturating_sub(cost);
    }

    /// Return whether an acknowledgement lets messages be delivered or window be released.
    pub fn can_go_on(&self, limits: &Limits) -> bool {
        let is_behind = self.num_withheld > 0 || !self.assembler.is_between_messages();
        is_behind && self.num_unacknowledged <= limits.stream_window as usize
    }
}

fn no_status() -> Status {
    Status::new(code::INTERNAL, "the peer ended the stream without a status")
}
