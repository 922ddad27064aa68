//! One call's messages from us.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::server::SendResponse;
use h2::{Reason, SendStream};
use http::{HeaderMap, HeaderValue, Response};

use super::call_error::CallError;
use super::payload::{Gauge, Payload};
use crate::grpc::compression::GRPC_ENCODING;
use crate::grpc::frame::MessageFrame;
use crate::grpc::status::Status;

/// What one message asks of the window at a time.
const CAPACITY_BYTES: usize = 1 << 20;

/// How our side of a call ends.
pub enum SendEnd {
    /// A server's: with a status.
    Trailers(HeaderMap),
    /// A client's: it sends no more.
    HalfClose,
}

/// The sending half of a call.
#[derive(Default)]
pub struct SendHalf {
    respond: Option<SendResponse<Payload>>,
    stream: Option<SendStream<Payload>>,
    queue: VecDeque<Payload>,
    end: Option<SendEnd>,
    has_ended: bool,
    // Made with the first message of a stream.
    gauge: Option<Arc<Gauge>>,
    /// From which size on messages are compressed; 0 for never.
    pub gzip_from_bytes: usize,
    /// Whether a `Writable` event is owed.
    pub is_full: bool,
}

impl SendHalf {
    /// The answer to a request.
    pub fn for_request(respond: SendResponse<Payload>, gzip_from_bytes: usize) -> Self {
        Self { respond: Some(respond), gzip_from_bytes, ..Self::default() }
    }

    /// Sends on a stream of ours.
    pub fn begin(&mut self, stream: SendStream<Payload>) {
        self.stream = Some(stream);
    }

    /// Bytes of this stream the socket has not taken.
    pub fn num_unsent(&self) -> usize {
        self.gauge.as_ref().map_or(0, |gauge| gauge.get())
    }

    /// Sends the response headers, unless they are out.
    pub fn accept(&mut self) -> Result<(), h2::Error> {
        if let (None, Some(respond)) = (&self.stream, &mut self.respond) {
            let response = ok_response(self.gzip_from_bytes > 0);
            self.stream = Some(respond.send_response(response, false)?);
        }
        Ok(())
    }

    /// Queues a message behind the others.
    pub fn push(&mut self, frame: MessageFrame, connection: &Arc<Gauge>) {
        let frame = compress_if_large(frame, self.gzip_from_bytes);
        let gauge = self.gauge.get_or_insert_with(|| Gauge::below(connection));
        self.queue.push_back(Payload::new(frame.head, gauge));
        if let Some(body) = frame.body {
            self.queue.push_back(Payload::new(body, gauge));
        }
    }

    /// Ends our side once the queue is sent. Only the first end counts.
    pub fn finish(&mut self, end: SendEnd) {
        self.end.get_or_insert(end);
    }

    /// Whether headers or messages are out or queued.
    pub fn has_begun(&self) -> bool {
        self.stream.is_some() || !self.queue.is_empty()
    }

    /// Whether our side is ending or has ended.
    pub fn is_finishing(&self) -> bool {
        self.end.is_some() || self.has_ended
    }

    /// Whether our side has ended.
    pub fn is_finished(&self) -> bool {
        self.has_ended
    }

    /// Answers a unary call: h2 keeps what the window does not take yet.
    pub fn answer(mut self, frame: MessageFrame, trailers: HeaderMap, gauge: &Arc<Gauge>) {
        let Some(respond) = &mut self.respond else { return };
        let frame = compress_if_large(frame, self.gzip_from_bytes);
        let response = ok_response(self.gzip_from_bytes > 0);
        // An error means that the peer has gone, which makes the answer nobody's.
        let Ok(mut stream) = respond.send_response(response, false) else { return };
        let _ = stream.send_data(Payload::new(frame.head, gauge), false);
        if let Some(body) = frame.body {
            let _ = stream.send_data(Payload::new(body, gauge), false);
        }
        let _ = stream.send_trailers(trailers);
    }

    /// Ends the call with trailers at once, whatever is queued.
    ///
    /// The handles are then dropped, not reset: a reset right behind a complete response would
    /// discard its queued headers.
    pub fn abandon(mut self, trailers: HeaderMap) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_trailers(trailers);
        } else if let Some(respond) = &mut self.respond {
            refuse(respond, trailers);
        }
    }

    /// Resets the stream.
    pub fn reset(mut self, reason: Reason) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(reason);
        } else if let Some(respond) = &mut self.respond {
            respond.send_reset(reason);
        }
    }

    /// Sends what the window takes; ready once our side has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        while let Some(front) = self.queue.front_mut() {
            stream.reserve_capacity(front.len().min(CAPACITY_BYTES));
            let capacity = stream.capacity();
            if capacity == 0 {
                match stream.poll_capacity(context) {
                    Poll::Ready(Some(granted)) => {
                        granted?;
                        continue;
                    }
                    Poll::Ready(None) => return Poll::Ready(Err(closed())),
                    Poll::Pending => return Poll::Pending,
                }
            }
            let part = front.split_to(capacity.min(front.len()));
            if front.is_empty() {
                self.queue.pop_front();
            }
            stream.send_data(part, false)?;
        }
        let end = self.end.take();
        self.has_ended |= end.is_some();
        match end {
            None => Poll::Pending,
            Some(SendEnd::Trailers(trailers)) => {
                stream.send_trailers(trailers)?;
                Poll::Ready(Ok(()))
            }
            Some(SendEnd::HalfClose) => {
                let nothing = Payload::new(bytes::Bytes::new(), &Arc::default());
                stream.send_data(nothing, true)?;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Ready when the peer has reset the call.
    pub fn poll_reset(&mut self, context: &mut Context<'_>) -> Poll<CallError> {
        let reset = match (&mut self.stream, &mut self.respond) {
            (Some(stream), _) => stream.poll_reset(context),
            (None, Some(respond)) => respond.poll_reset(context),
            (None, None) => return Poll::Pending,
        };
        reset.map(|reason| match reason {
            Ok(reason) => CallError::Disconnected(Status::from_h2(&reason.into())),
            Err(error) => error.into(),
        })
    }
}

/// Answers with a status and nothing else.
pub fn refuse(respond: &mut SendResponse<Payload>, mut trailers: HeaderMap) {
    let mut response = Response::new(());
    trailers.insert(http::header::CONTENT_TYPE, GRPC);
    *response.headers_mut() = trailers;
    // An error means that nobody waits for it.
    let _ = respond.send_response(response, true);
}

#[allow(clippy::declare_interior_mutable_const)]
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

fn ok_response(is_gzip: bool) -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
    if is_gzip {
        response.headers_mut().insert(GRPC_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

fn compress_if_large(frame: MessageFrame, gzip_from_bytes: usize) -> MessageFrame {
    if gzip_from_bytes > 0 && frame.num_bytes() >= gzip_from_bytes {
        frame.to_gzip()
    } else {
        frame
    }
}

fn closed() -> CallError {
    CallError::Disconnected(Status::new(
        crate::grpc::status::code::UNAVAILABLE,
        "the stream is closed",
    ))
}
