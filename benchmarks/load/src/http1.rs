//! A pool of HTTP/1.1 connections, each of which carries one request at a time.

use crate::dial::dial;
use crate::options::Options;
use crate::tally::Answer;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{handshake, SendRequest};
use hyper_util::rt::TokioIo;
use std::cell::RefCell;
use tokio::sync::Semaphore;

type Connection = SendRequest<Full<Bytes>>;

async fn connect(address: &str) -> Result<Connection, String> {
    let socket = dial(address).await?;
    let (client, connection) = handshake(TokioIo::new(socket))
        .await
        .map_err(|error| format!("{address} does not speak HTTP: {error}"))?;
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    Ok(client)
}

fn request(options: &Options, message: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let mut builder = Request::builder()
        .method(Method::POST)
        .uri(&options.path)
        .header("host", &options.address)
        .header("content-type", "application/json");
    if !options.timeout_header.is_empty() {
        builder = builder.header(&options.timeout_header, options.timeout_ms.to_string());
    }
    builder
        .body(Full::new(message))
        .map_err(|error| format!("--address, --path, --timeout-header: {error}"))
}

pub struct Client {
    idle: RefCell<Vec<Connection>>,
    /// Requests beyond it wait here, as in the pools of HTTP clients; their time counts.
    places: Semaphore,
}

impl Client {
    pub async fn connect(options: &Options) -> Result<Self, String> {
        request(options, Bytes::new())?;
        let first = connect(&options.address).await?;
        Ok(Client {
            idle: RefCell::new(vec![first]),
            places: Semaphore::new(options.connections),
        })
    }

    async fn ready(&self, options: &Options) -> Option<Connection> {
        loop {
            let idle = self.idle.borrow_mut().pop();
            let Some(mut connection) = idle else { break };
            if connection.ready().await.is_ok() {
                return Some(connection);
            }
        }
        let mut connection = connect(&options.address).await.ok()?;
        connection.ready().await.ok()?;
        Some(connection)
    }

    /// Send one request and return its answer, or None where there is none.
    pub async fn call(&self, options: &Options, message: Bytes) -> Option<Answer> {
        let _place = self.places.acquire().await.ok()?;
        let mut connection = self.ready(options).await?;
        let response = connection
            .send_request(request(options, message).ok()?)
            .await
            .ok()?;
        let code = match response.status().as_u16() {
            200 => "0".to_string(),
            status => format!("http {status}"),
        };
        let size = response.into_body().collect().await.ok()?.to_bytes().len();
        self.idle.borrow_mut().push(connection);
        Some((code, size))
    }
}
