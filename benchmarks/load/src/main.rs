//! Drives one method of a gRPC server, or one path of an HTTP server, and prints the outcome of
//! every request as JSON.
//!
//! The requests are bytes prepared elsewhere: a file of messages, each behind its length as four
//! bytes, little end first. They are sent in turn.
//!
//! * closed: each of `--callers` sends its next request when the last is answered.
//! * open:   requests leave at instants fixed before the first one (Poisson, `--rate`), whatever
//!   the server does; latency counts from that instant, so that a slow server cannot hide.
//! * stream: one bidirectional stream a connection, with `--callers` messages under way in all.
//!
//! Exit status 1 and one line on standard error mean that there is no figure.

mod dial;
mod grpc;
mod http1;
mod loops;
mod options;
mod tally;

use loops::{closed, open, Client};
use options::{Mode, Options, Protocol};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tally::Shared;
use tokio::task::LocalSet;

fn cpu_s() -> f64 {
    // Fields 14 and 15: ticks in user and in kernel mode, of which Linux has a hundred a second.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |index: usize| {
        fields
            .get(index)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    (ticks(11) + ticks(12)) / 100.0
}

async fn run(options: Options) -> Result<String, String> {
    let mut clients = Vec::new();
    match options.protocol {
        Protocol::Grpc => {
            for _ in 0..options.connections {
                clients.push(Rc::new(Client::Grpc(
                    grpc::Client::connect(&options).await?,
                )));
            }
        }
        // One pool, as HTTP clients have: a connection carries one request at a time.
        Protocol::Http => clients.push(Rc::new(Client::Http(
            http1::Client::connect(&options).await?,
        ))),
    }
    let start = Instant::now() + Duration::from_millis(50);
    let begin = start + Duration::from_secs_f64(options.warm_up_s);
    let end = begin + Duration::from_secs_f64(options.seconds);
    let patience = Duration::from_millis(options.timeout_ms + 5000);
    let shared = Rc::new(Shared::new(options, begin, end));
    // The reader of these lines takes the server's processor time at both instants.
    let marks = tokio::task::spawn_local(async move {
        tokio::time::sleep_until(begin.into()).await;
        let before = cpu_s();
        eprintln!("begin");
        tokio::time::sleep_until(end.into()).await;
        eprintln!("end");
        cpu_s() - before
    });
    let mut tasks = Vec::new();
    match shared.options.mode {
        Mode::Closed => {
            for caller in 0..shared.options.callers {
                let client = clients[caller % clients.len()].clone();
                tasks.push(tokio::task::spawn_local(closed(
                    shared.clone(),
                    client,
                    caller,
                )));
            }
        }
        Mode::Open => tasks.push(tokio::task::spawn_local(open(
            shared.clone(),
            clients,
            start,
        ))),
        Mode::Stream => {
            let window = (shared.options.callers / clients.len()).max(1);
            for client in clients {
                let shared = shared.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    if let Err(reason) = client.stream(&shared, window).await {
                        shared.fail(reason);
                    }
                }));
            }
        }
    }
    let limit = shared.end + patience;
    for task in tasks {
        if let Ok(Err(error)) = tokio::time::timeout_at(limit.into(), task).await {
            return Err(format!("a sender failed: {error}"));
        }
    }
    let client_cpu_s = marks
        .await
        .map_err(|error| format!("the clock failed: {error}"))?;
    shared.report(client_cpu_s)
}

fn main() -> ExitCode {
    let outcome = Options::from_arguments(std::env::args().skip(1)).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start an event loop: {error}"))?;
        LocalSet::new().block_on(&runtime, run(options))
    });
    match outcome {
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}
