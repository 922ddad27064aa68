//! One connection of a gRPC client.

use crate::dial::dial;
use crate::options::Options;
use crate::tally::{Answer, Shared};
use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Method, Request};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::Instant;

const WINDOW: u32 = 16 * 1024 * 1024;

/// Put a message behind the five bytes of gRPC.
pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

async fn connect(address: &str) -> Result<SendRequest<Bytes>, String> {
    let socket = dial(address).await?;
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(socket)
        .await
        .map_err(|error| format!("{address} does not speak HTTP/2: {error}"))?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(client)
}

fn request(options: &Options, has_timeout: bool) -> Result<Request<()>, String> {
    let mut builder = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{}", options.address, options.path))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if has_timeout {
        builder = builder.header("grpc-timeout", format!("{}m", options.timeout_ms));
    }
    builder
        .body(())
        .map_err(|error| format!("--address, --path: {error}"))
}

/// Connects again, as clients of gRPC do, when the server has closed the connection.
pub struct Client {
    connection: RefCell<Option<SendRequest<Bytes>>>,
}

impl Client {
    pub async fn connect(options: &Options) -> Result<Self, String> {
        request(options, true)?;
        Ok(Client {
            connection: RefCell::new(Some(connect(&options.address).await?)),
        })
    }

    async fn ready(&self, options: &Options) -> Option<SendRequest<Bytes>> {
        let known = self.connection.borrow().clone();
        if let Some(client) = known {
            if let Ok(ready) = client.ready().await {
                return Some(ready);
            }
        }
        let client = connect(&options.address).await.ok()?;
        *self.connection.borrow_mut() = Some(client.clone());
        client.ready().await.ok()
    }

    /// Send one request and return its answer, or None where there is none.
    pub async fn call(&self, options: &Options, message: Bytes) -> Option<Answer> {
        let mut client = self.ready(options).await?;
        let request = request(options, true).ok()?;
        exchange(&mut client, request, message).await.ok()
    }

    /// Keep `window` messages of a stream under way; answers are matched in the order they come.
    pub async fn stream(&self, shared: &Shared, window: usize) -> Result<(), String> {
        let broken = |error: h2::Error| format!("the stream broke: {error}");
        let options = &shared.options;
        let mut client = self.ready(options).await.ok_or("the connection broke")?;
        let (response, mut outgoing) = client
            .send_request(request(options, false)?, false)
            .map_err(broken)?;
        let messages = options.messages.iter().cycle();
        let mut messages = messages.cloned();
        let mut sent = VecDeque::new();
        let mut send = |sent: &mut VecDeque<Instant>| {
            sent.push_back(Instant::now());
            outgoing
                .send_data(messages.next().unwrap_or_default(), false)
                .map_err(broken)
        };
        for _ in 0..window {
            send(&mut sent)?;
        }
        let mut incoming = response.await.map_err(broken)?.into_body();
        let mut buffer = BytesMut::new();
        while !sent.is_empty() {
            let part = incoming.data().await.ok_or("the server ended the stream")?;
            let part = part.map_err(broken)?;
            let _ = incoming.flow_control().release_capacity(part.len());
            buffer.extend_from_slice(&part);
            while buffer.len() >= 5 {
                let size =
                    u32::from_be_bytes([buffer[1], buffer[2], buffer[3], buffer[4]]) as usize;
                if buffer.len() < 5 + size {
                    break;
                }
                let _ = buffer.split_to(5 + size);
                let first = sent
                    .pop_front()
                    .ok_or("the server answers more than it is asked")?;
                shared.note(first, "0", size);
                if Instant::now() < shared.end {
                    send(&mut sent)?;
                }
            }
        }
        outgoing.send_data(Bytes::new(), true).map_err(broken)
    }
}

async fn exchange(
    client: &mut SendRequest<Bytes>,
    request: Request<()>,
    message: Bytes,
) -> Result<Answer, h2::Error> {
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(message, true)?;
    let response = response.await?;
    let status = |headers: &http::HeaderMap| {
        headers
            .get("grpc-status")
            .map(|value| value.to_str().unwrap_or("?").to_string())
    };
    // An error comes without a body, its status among the headers.
    let first = status(response.headers());
    let mut body = response.into_body();
    let mut size = 0;
    while let Some(part) = body.data().await {
        let part = part?;
        size += part.len();
        body.flow_control().release_capacity(part.len())?;
    }
    let last = match first {
        Some(code) => Some(code),
        None => body.trailers().await?.as_ref().and_then(status),
    };
    Ok((last.unwrap_or_else(|| "none".to_string()), size))
}
