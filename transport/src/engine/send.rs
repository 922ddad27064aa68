//! The sending half of a call.

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

/// Window capacity that one message reserves at a time.
const CAPACITY_BYTES: usize = 1 << 20;

/// The end of the sent messages of a call.
pub enum SendEnd {
    /// A server's trailers with the status.
    Trailers(HeaderMap),
    /// A client's half-close.
    HalfClose,
}

/// Sent data of a call: response handle, stream and queue.
#[derive(Default)]
pub struct SendHalf {
    respond: Option<SendResponse<Payload>>,
    stream: Option<SendStream<Payload>>,
    queue: VecDeque<Payload>,
    end: Option<SendEnd>,
    has_ended: bool,
    // The gauge is created with the first message of a stream.
    gauge: Option<Arc<Gauge>>,
    /// Smallest message that is compressed; 0 for none.
    pub gzip_from_bytes: usize,
    /// Whether a `Writable` event is owed.
    pub is_full: bool,
}

impl SendHalf {
    /// Create the half that answers a request.
    pub fn for_request(respond: SendResponse<Payload>, gzip_from_bytes: usize) -> Self {
        Self { respond: Some(respond), gzip_from_bytes, ..Self::default() }
    }

    /// Send on the stream of a link.
    pub fn begin(&mut self, stream: SendStream<Payload>) {
        self.stream = Some(stream);
    }

    /// Return the bytes of this stream that the socket has not taken.
    pub fn num_unsent(&self) -> usize {
        self.gauge.as_ref().map_or(0, |gauge| gauge.get())
    }

    /// Send the response headers, unless they were sent.
    pub fn accept(&mut self) -> Result<(), h2::Error> {
        if let (None, Some(respond)) = (&self.stream, &mut self.respond) {
            let response = ok_response(self.gzip_from_bytes > 0);
            self.stream = Some(respond.send_response(response, false)?);
        }
        Ok(())
    }

    /// Queue a message.
    pub fn push(&mut self, frame: MessageFrame, connection: &Arc<Gauge>) {
        let frame = compress_if_large(frame, self.gzip_from_bytes);
        let gauge = self.gauge.get_or_insert_with(|| Gauge::below(connection));
        self.queue.push_back(Payload::new(frame.head, gauge));
        if let Some(body) = frame.body {
            self.queue.push_back(Payload::new(body, gauge));
        }
    }

    /// End the stream after the queued messages. Later ends are ignored.
    pub fn finish(&mut self, end: SendEnd) {
        self.end.get_or_insert(end);
    }

    /// Return whether headers or messages were sent or queued.
    pub fn has_begun(&self) -> bool {
        self.stream.is_some() || !self.queue.is_empty()
    }

    /// Return whether the end is queued or sent.
    pub fn is_finishing(&self) -> bool {
        self.end.is_some() || self.has_ended
    }

    /// Return whether the end was sent.
    pub fn is_finished(&self) -> bool {
        self.has_ended
    }

    /// Answer a unary call; h2 queues the bytes that exceed the window.
    pub fn answer(mut self, frame: MessageFrame, trailers: HeaderMap, gauge: &Arc<Gauge>) {
        let Some(respond) = &mut self.respond else { return };
        let frame = compress_if_large(frame, self.gzip_from_bytes);
        let response = ok_response(self.gzip_from_bytes > 0);
        // A failed send means that the peer has gone, and the response with it.
        let Ok(mut stream) = respond.send_response(response, false) else { return };
        let _ = stream.send_data(Payload::new(frame.head, gauge), false);
        if let Some(body) = frame.body {
            let _ = stream.send_data(Payload::new(body, gauge), false);
        }
        let _ = stream.send_trailers(trailers);
    }

    /// End the call with trailers at once, and drop its queue.
    ///
    /// The handles are dropped without a reset, because a reset right after a complete response
    /// would discard its queued headers.
    pub fn abandon(mut self, trailers: HeaderMap) {
        if let Some(stream) = &mut self.stream {
            let _ = stream.send_trailers(trailers);
        } else if let Some(respond) = &mut self.respond {
            refuse(respond, trailers);
        }
    }

    /// Reset the stream.
    pub fn reset(mut self, reason: Reason) {
        if let Some(stream) = &mut self.stream {
            stream.send_reset(reason);
        } else if let Some(respond) = &mut self.respond {
            respond.send_reset(reason);
        }
    }

    /// Send as much as the window takes; ready once the end was sent.
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

    /// Poll for a reset by the peer.
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

/// Answer with a status and no message.
pub fn refuse(respond: &mut SendResponse<Payload>, mut trailers: HeaderMap) {
    let mut response = Response::new(());
    trailers.insert(http::header::CONTENT_TYPE, GRPC);
    *response.headers_mut() = trailers;
    // A failed send means that the peer has gone.
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
