//! An engine that outlives each input, so that anything left behind by one input is seen.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use transport::engine::{Engine, Event, Limits, Reply};
use transport::grpc::frame::MessageFrame;
use transport::grpc::message::Message;
use transport::grpc::status::Status;

use crate::script::{Script, Step, frame};

/// Turns after which no state of a closed peer may be left.
const MAX_TURNS: usize = 50;

/// The engine under test.
pub struct Harness {
    pub engine: Engine,
}

impl Harness {
    /// Create an engine with bounds so low that inputs reach them.
    pub fn new() -> Self {
        let limits = Limits {
            max_message_bytes: 40 << 10,
            max_link_message_bytes: 40 << 10,
            max_streams: 20,
            max_unsent_bytes: 64 << 10,
            max_total_unsent_bytes: 96 << 10,
            max_untaken_bytes: 128 << 10,
            gzip_floor_bytes: 4 << 10,
            message_timeout: Duration::from_millis(20),
            stream_high_bytes: 16 << 10,
            stream_window: 64 << 10,
            gzip_from_bytes: 100,
            ..Limits::default()
        };
        Self { engine: Engine::new(limits).expect("an engine") }
    }

    /// Return a path for a socket of this process.
    pub fn socket_path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("skysail-fuzz-{name}-{}", std::process::id()))
    }

    /// Perform the steps of the peer, each turn included.
    pub fn run(&mut self, peer: &mut UnixStream, script: Script<'_>) {
        peer.set_nonblocking(true).expect("a socket");
        for step in script {
            match step {
                Step::Send(bytes) => send(peer, &bytes),
                Step::Turn => {
                    self.turn();
                    discard(peer);
                }
            }
        }
        for _ in 0..4 {
            self.turn();
            discard(peer);
        }
        send(peer, &frame(6, 0, 0, b"the last"));
        self.turn();
    }

    /// Turn the engine once and echo every message.
    pub fn turn(&mut self) {
        self.engine.turn().expect("the poller works");
        for event in self.engine.take_events() {
            match event {
                Event::Call { id, message, .. } => self.end(id, Some(echo(&message))),
                Event::Opened { id, path, .. } => {
                    if path % 2 == 0 {
                        self.engine.accept_stream(id);
                    }
                }
                Event::Message(id, message, _) => {
                    self.engine.acknowledge(id, message.len());
                    self.engine.send(id, echo(&message));
                    self.engine.num_unsent(id);
                }
                Event::HalfClosed(id) => self.end(id, None),
                Event::Cancelled(..)
                | Event::Accepted(..)
                | Event::Closed(..)
                | Event::Writable(_) => {}
            }
        }
        self.engine.drive();
    }

    fn end(&mut self, id: u64, message: Option<MessageFrame>) {
        let status = Status::new(0, "");
        self.engine.reply(Reply { id, status, trailers: None, message });
    }

    /// Turn the engine until no state is left; panic if any stays.
    pub fn assert_empty(&mut self) {
        for _ in 0..MAX_TURNS {
            let counters = self.engine.counters();
            let left = [
                counters.connections,
                counters.open_calls,
                counters.unsent_bytes,
                counters.untaken_bytes,
            ];
            if left == [0; 4] {
                return;
            }
            self.turn();
        }
        let left: Vec<_> =
            self.engine.counters().named().into_iter().filter(|&(_, count)| count > 0).collect();
        panic!("something is left: {left:?}");
    }
}

fn echo(message: &Message) -> MessageFrame {
    MessageFrame::from_bytes(message.chunks().concat().into())
}

/// Send the bytes that the socket takes; the engine may have closed the peer before.
pub fn send(peer: &mut UnixStream, bytes: &[u8]) {
    let _ = peer.write(bytes);
}

/// Discard the received bytes. Return whether the engine has closed the connection.
pub fn discard(peer: &mut UnixStream) -> bool {
    let mut sink = [0; 64 << 10];
    loop {
        match peer.read(&mut sink) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}
