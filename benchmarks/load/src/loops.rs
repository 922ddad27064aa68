//! Closed and open loops over clients of either protocol.

use crate::tally::{Answer, Shared};
use crate::{grpc, http1};
use bytes::Bytes;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Requests under way in an open loop; more are counted as not sent.
const MAX_UNDER_WAY: usize = 4000;
/// A caller of a closed loop waits so long after a request that did not reach the server.
const PAUSE: Duration = Duration::from_millis(10);

pub enum Client {
    Grpc(grpc::Client),
    Http(http1::Client),
}

impl Client {
    async fn call(&self, shared: &Shared, message: Bytes) -> Answer {
        let exchange = async {
            match self {
                Client::Grpc(client) => client.call(&shared.options, message).await,
                Client::Http(client) => client.call(&shared.options, message).await,
            }
        };
        let limit = Duration::from_millis(shared.options.timeout_ms + 1000);
        match tokio::time::timeout(limit, exchange).await {
            Ok(Some(answer)) => answer,
            Ok(None) => ("broken".to_string(), 0),
            Err(_) => ("silent".to_string(), 0),
        }
    }

    pub async fn stream(&self, shared: &Shared, window: usize) -> Result<(), String> {
        match self {
            Client::Grpc(client) => client.stream(shared, window).await,
            Client::Http(_) => Err("--mode stream: HTTP has no streams".to_string()),
        }
    }
}

pub async fn closed(shared: Rc<Shared>, client: Rc<Client>, first: usize) {
    let messages = &shared.options.messages;
    let mut next = first;
    while Instant::now() < shared.end {
        let sent = Instant::now();
        let (code, size) = client
            .call(&shared, messages[next % messages.len()].clone())
            .await;
        shared.note(sent, &code, size);
        if code == "broken" {
            tokio::time::sleep(PAUSE).await;
        }
        next += shared.options.callers;
    }
}

/// A generator of numbers in (0, 1]. Source: Marsaglia, "Xorshift RNGs", 2003.
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 11) + 1) as f64 / (1u64 << 53) as f64
    }
}

pub async fn open(shared: Rc<Shared>, clients: Vec<Rc<Client>>, start: Instant) {
    let mut random = Random(shared.options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut due = start;
    let mut number = 0;
    let under_way = Rc::new(Cell::new(0));
    let mut tasks = Vec::new();
    loop {
        due += Duration::from_secs_f64(-random.next().ln() / shared.options.rate);
        if due >= shared.end {
            break;
        }
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        shared.offer(due);
        if under_way.get() >= MAX_UNDER_WAY {
            shared.note(due, "unsent", 0);
            // Answers must have their turn, however late this loop is.
            tokio::task::yield_now().await;
            continue;
        }
        under_way.set(under_way.get() + 1);
        let (shared, client) = (shared.clone(), clients[number % clients.len()].clone());
        let message = shared.options.messages[number % shared.options.messages.len()].clone();
        let under_way = under_way.clone();
        number += 1;
        tasks.push(tokio::task::spawn_local(async move {
            let (code, size) = client.call(&shared, message).await;
            shared.note(due, &code, size);
            under_way.set(under_way.get() - 1);
        }));
        if tasks.len() > 20_000 {
            tasks.retain(|task| !task.is_finished());
        }
    }
    for task in tasks {
        if let Err(error) = task.await {
            shared.fail(format!("a request failed within the load tool: {error}"));
        }
    }
}
