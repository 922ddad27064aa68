//! HTTP responses to requests that are not gRPC.

use std::sync::Arc;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::{ALLOW, CONTENT_TYPE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};

use super::payload::{Gauge, Payload};

/// A reason why a request is not gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpFailure {
    /// A method other than POST.
    Method,
    /// A content type other than gRPC's.
    ContentType,
}

impl HttpFailure {
    /// Find the reason why a request is not gRPC, if any.
    pub fn find(request: &Parts) -> Option<Self> {
        if request.method != Method::POST {
            return Some(Self::Method);
        }
        let kind = request.headers.get(CONTENT_TYPE).map_or(&b""[..], |value| value.as_bytes());
        match kind.strip_prefix(b"application/grpc") {
            Some(b"" | [b'+' | b';', ..]) => None,
            _ => Some(Self::ContentType),
        }
    }

    /// Answer with the HTTP status and, for people with a browser or curl, a line of text.
    pub fn answer(self, mut respond: SendResponse<Payload>, request: &Parts, unsent: &Arc<Gauge>) {
        let (status, text) = match self {
            Self::Method => {
                (StatusCode::METHOD_NOT_ALLOWED, "this is a gRPC server: its method is POST\n")
            }
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "this is a gRPC server: its content type is application/grpc\n",
            ),
        };
        let mut response = Response::new(());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if self == Self::Method {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        let has_body = request.method != Method::HEAD;
        // A failed send means that the peer has gone.
        if let Ok(mut stream) = respond.send_response(response, !has_body)
            && has_body
        {
            let text = Payload::new(Bytes::from_static(text.as_bytes()), unsent);
            let _ = stream.send_data(text, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn request(method: Method, kind: &str) -> Parts {
        let request = Request::builder().method(method).header(CONTENT_TYPE, kind);
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn only_grpc_requests_pass() {
        let none = ["application/grpc", "application/grpc+proto", "application/grpc;charset=x"];
        for kind in none {
            assert_eq!(HttpFailure::find(&request(Method::POST, kind)), None, "{kind}");
        }
        let wrong = ["", "application/json", "application/grpc-web", "application/grp"];
        for kind in wrong {
            let failure = HttpFailure::find(&request(Method::POST, kind));
            assert_eq!(failure, Some(HttpFailure::ContentType), "{kind}");
        }
        let failure = HttpFailure::find(&request(Method::GET, "application/grpc"));
        assert_eq!(failure, Some(HttpFailure::Method));
    }
}
