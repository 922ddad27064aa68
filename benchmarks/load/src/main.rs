//! Drives one method of a gRPC server and prints what became of every request, as JSON.
//!
//! The requests are bytes prepared elsewhere: a file of messages, each behind its length as four
//! bytes, little end first. They are sent in turn.
//!
//! * closed: each of `--callers` sends its next request when the last is answered.
//! * open:   requests leave at instants fixed before the first one (Poisson, `--rate`), whatever
//!   the server does; latency counts from that instant, so that a slow server cannot hide.
//! * stream: one bidirectional stream a connection, with `--callers` messages under way in all.

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Method, Request};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

const WINDOW: u32 = 16 * 1024 * 1024;
/// Requests under way in an open loop; more are counted as not sent.
const MAX_UNDER_WAY: usize = 4000;

struct Options {
    mode: String,
    address: String,
    path: String,
    messages: Vec<Bytes>,
    callers: usize,
    connections: usize,
    rate: f64,
    seconds: f64,
    warm_up_s: f64,
    timeout_ms: u64,
    slo_ms: f64,
    seed: u64,
}

#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    refusals_us: Vec<u32>,
    codes: BTreeMap<String, u64>,
    in_slo: u64,
    offered: u64,
    reply_bytes: u64,
    under_way: usize,
}

struct Shared {
    options: Options,
    begin: Instant,
    end: Instant,
    tally: RefCell<Tally>,
}

impl Shared {
    /// Count an answer if its request belongs to the measured time.
    fn note(&self, sent: Instant, code: &str, reply_bytes: usize) {
        if sent < self.begin || sent >= self.end {
            return;
        }
        let took = sent.elapsed();
        let mut tally = self.tally.borrow_mut();
        *tally.codes.entry(code.to_string()).or_default() += 1;
        let took_us = took.as_micros().min(u32::MAX as u128) as u32;
        if code == "0" {
            tally.latencies_us.push(took_us);
            tally.reply_bytes += reply_bytes as u64;
            if took.as_secs_f64() * 1000.0 <= self.options.slo_ms {
                tally.in_slo += 1;
            }
        } else {
            tally.refusals_us.push(took_us);
        }
    }
}

fn options() -> Options {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut arguments = std::env::args().skip(1);
    while let Some(flag) = arguments.next() {
        let value = arguments.next().unwrap_or_else(|| panic!("{flag} needs a value"));
        values.insert(flag.trim_start_matches("--").to_string(), value);
    }
    let text = |name: &str, default: &str| -> String {
        values.get(name).cloned().unwrap_or_else(|| default.to_string())
    };
    let number = |name: &str, default: f64| -> f64 {
        text(name, &default.to_string()).parse().unwrap_or_else(|_| panic!("--{name}: a number"))
    };
    let file = std::fs::read(text("messages", "")).expect("--messages: a readable file");
    let mut messages = Vec::new();
    let mut rest = &file[..];
    while rest.len() >= 4 {
        let size = u32::from_le_bytes(rest[..4].try_into().unwrap()) as usize;
        messages.push(framed(&rest[4..4 + size]));
        rest = &rest[4 + size..];
    }
    assert!(!messages.is_empty(), "--messages: holds no message");
    Options {
        mode: text("mode", "closed"),
        address: text("address", ""),
        path: text("path", ""),
        messages,
        callers: number("callers", 1.0) as usize,
        connections: number("connections", 1.0) as usize,
        rate: number("rate", 0.0),
        seconds: number("seconds", 3.0),
        warm_up_s: number("warm-up", 0.5),
        timeout_ms: number("timeout-ms", 10_000.0) as u64,
        slo_ms: number("slo-ms", 50.0),
        seed: number("seed", 1.0) as u64,
    }
}

/// Put a message behind the five bytes of gRPC.
fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(&(message.len() as u32).to_be_bytes());
    framed.extend_from_slice(message);
    framed.freeze()
}

async fn connect(address: &str) -> SendRequest<Bytes> {
    let socket = TcpStream::connect(address).await.expect("the server takes connections");
    socket.set_nodelay(true).unwrap();
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(socket)
        .await
        .expect("the server speaks HTTP/2");
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
    client
}

fn request(options: &Options, has_timeout: bool) -> Request<()> {
    let mut builder = Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{}", options.address, options.path))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if has_timeout {
        builder = builder.header("grpc-timeout", format!("{}m", options.timeout_ms));
    }
    builder.body(()).unwrap()
}

/// Send one unary request and return the status of its answer and how many bytes came.
async fn unary(shared: &Shared, client: &SendRequest<Bytes>, message: Bytes) -> (String, usize) {
    let exchange = async {
        let mut client = client.clone().ready().await?;
        let (response, mut body) = client.send_request(request(&shared.options, true), false)?;
        body.send_data(message, true)?;
        let response = response.await?;
        let status = |headers: &http::HeaderMap| {
            headers.get("grpc-status").map(|value| value.to_str().unwrap_or("?").to_string())
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
        let code = match first {
            Some(code) => code,
            None => match body.trailers().await? {
                Some(trailers) => status(&trailers).unwrap_or_else(|| "none".to_string()),
                None => "none".to_string(),
            },
        };
        Ok::<_, h2::Error>((code, size))
    };
    let limit = Duration::from_millis(shared.options.timeout_ms + 1000);
    match tokio::time::timeout(limit, exchange).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => ("broken".to_string(), 0),
        Err(_) => ("silent".to_string(), 0),
    }
}

async fn closed(shared: Rc<Shared>, client: SendRequest<Bytes>, first: usize) {
    let messages = &shared.options.messages;
    let mut next = first;
    while Instant::now() < shared.end {
        let sent = Instant::now();
        let (code, size) = unary(&shared, &client, messages[next % messages.len()].clone()).await;
        shared.note(sent, &code, size);
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

async fn open(shared: Rc<Shared>, clients: Vec<SendRequest<Bytes>>, start: Instant) {
    let mut random = Random(shared.options.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut due = start;
    let mut number = 0;
    let mut tasks = Vec::new();
    loop {
        due += Duration::from_secs_f64(-random.next().ln() / shared.options.rate);
        if due >= shared.end {
            break;
        }
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        if due >= shared.begin {
            shared.tally.borrow_mut().offered += 1;
        }
        if shared.tally.borrow().under_way >= MAX_UNDER_WAY {
            shared.note(due, "unsent", 0);
            continue;
        }
        shared.tally.borrow_mut().under_way += 1;
        let (shared, client) = (shared.clone(), clients[number % clients.len()].clone());
        let message = shared.options.messages[number % shared.options.messages.len()].clone();
        number += 1;
        tasks.push(tokio::task::spawn_local(async move {
            let (code, size) = unary(&shared, &client, message).await;
            shared.note(due, &code, size);
            shared.tally.borrow_mut().under_way -= 1;
        }));
        if tasks.len() > 20_000 {
            tasks.retain(|task| !task.is_finished());
        }
    }
    for task in tasks {
        let _ = task.await;
    }
}

/// Keep `window` messages of a stream under way; answers are matched in the order they come.
async fn stream(shared: Rc<Shared>, client: SendRequest<Bytes>, window: usize) {
    let mut client = client.ready().await.expect("the connection stands");
    let (response, mut outgoing) =
        client.send_request(request(&shared.options, false), false).expect("a stream opens");
    let messages = &shared.options.messages;
    let mut sent = std::collections::VecDeque::new();
    let mut next = 0;
    for _ in 0..window {
        outgoing.send_data(messages[next % messages.len()].clone(), false).expect("it is open");
        sent.push_back(Instant::now());
        next += 1;
    }
    let mut incoming = response.await.expect("the stream is answered").into_body();
    let mut buffer = BytesMut::new();
    while !sent.is_empty() {
        let Some(Ok(part)) = incoming.data().await else { break };
        let _ = incoming.flow_control().release_capacity(part.len());
        buffer.extend_from_slice(&part);
        while buffer.len() >= 5 {
            let size = u32::from_be_bytes(buffer[1..5].try_into().unwrap()) as usize;
            if buffer.len() < 5 + size {
                break;
            }
            let _ = buffer.split_to(5 + size);
            shared.note(sent.pop_front().expect("asked before it is answered"), "0", size);
            if Instant::now() < shared.end {
                let message = messages[next % messages.len()].clone();
                if outgoing.send_data(message, false).is_err() {
                    return;
                }
                sent.push_back(Instant::now());
                next += 1;
            }
        }
    }
    let _ = outgoing.send_data(Bytes::new(), true);
}

fn cpu_s() -> f64 {
    // Fields 14 and 15: ticks in user and in kernel mode, of which Linux has a hundred a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn percentile(sorted: &[u32], share: f64) -> f64 {
    if sorted.is_empty() {
        return 0.0;
    }
    let index = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1;
    sorted[index] as f64 / 1000.0
}

fn report(shared: &Shared, client_cpu_s: f64) {
    let mut tally = shared.tally.borrow_mut();
    tally.latencies_us.sort_unstable();
    tally.refusals_us.sort_unstable();
    let seconds = shared.options.seconds;
    let answered = tally.latencies_us.len() as f64;
    let all = (tally.latencies_us.len() + tally.refusals_us.len()).max(1) as f64;
    let codes: Vec<String> =
        tally.codes.iter().map(|(code, number)| format!("\"{code}\": {number}")).collect();
    println!(
        "{{\"requests_per_s\": {:.1}, \"answered\": {}, \"offered\": {}, \"in_slo\": {}, \
         \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"refusal_p50_ms\": {:.3}, \
         \"client_cpu_us\": {:.1}, \"mean_reply_bytes\": {:.1}, \"codes\": {{{}}}}}",
        answered / seconds,
        tally.latencies_us.len(),
        tally.offered,
        tally.in_slo,
        percentile(&tally.latencies_us, 0.5),
        percentile(&tally.latencies_us, 0.99),
        percentile(&tally.refusals_us, 0.5),
        client_cpu_s * 1e6 / all,
        tally.reply_bytes as f64 / answered.max(1.0),
        codes.join(", "),
    );
}

async fn run(options: Options) {
    let start = Instant::now() + Duration::from_millis(50);
    let begin = start + Duration::from_secs_f64(options.warm_up_s);
    let end = begin + Duration::from_secs_f64(options.seconds);
    let mut clients = Vec::new();
    for _ in 0..options.connections.max(1) {
        clients.push(connect(&options.address).await);
    }
    let shared = Rc::new(Shared { options, begin, end, tally: RefCell::default() });
    // The server's processor time is read by whoever waits for these lines.
    let marks = tokio::task::spawn_local(async move {
        tokio::time::sleep_until(begin.into()).await;
        let before = cpu_s();
        eprintln!("begin");
        tokio::time::sleep_until(end.into()).await;
        eprintln!("end");
        cpu_s() - before
    });
    let mut tasks = Vec::new();
    match shared.options.mode.as_str() {
        "closed" => {
            for caller in 0..shared.options.callers {
                let client = clients[caller % clients.len()].clone();
                tasks.push(tokio::task::spawn_local(closed(shared.clone(), client, caller)));
            }
        }
        "open" => tasks.push(tokio::task::spawn_local(open(shared.clone(), clients, start))),
        "stream" => {
            let window = (shared.options.callers / clients.len()).max(1);
            for client in clients {
                tasks.push(tokio::task::spawn_local(stream(shared.clone(), client, window)));
            }
        }
        other => panic!("--mode: closed, open or stream, not {other}"),
    }
    let patience = Duration::from_millis(shared.options.timeout_ms + 5000);
    for task in tasks {
        let limit = shared.end + patience;
        let _ = tokio::time::timeout_at(limit.into(), task).await;
    }
    report(&shared, marks.await.unwrap_or(0.0));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, run(options()));
}
