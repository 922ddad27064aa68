//! A script of a peer, read from bytes. Most frames are well-formed, so that mutations reach deep.

/// The side that the peer plays.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// A peer that opens streams.
    Client,
    /// A peer that answers stream 1.
    Server,
}

/// A step of the peer.
pub enum Step {
    /// Send bytes.
    Send(Vec<u8>),
    /// Give the engine a turn.
    Turn,
}

const PATHS: [&str; 5] =
    ["/t/Unary", "/t/Stream", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/n"];

/// An iterator over the steps of an input.
pub struct Script<'a> {
    input: &'a [u8],
    side: Side,
    next_stream: u32,
}

impl<'a> Script<'a> {
    /// Read an input as the script of one side.
    pub fn new(input: &'a [u8], side: Side) -> Self {
        Self { input, side, next_stream: 1 }
    }

    fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.input.split_first() else { return 0 };
        self.input = rest;
        byte
    }

    fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (bytes, rest) = self.input.split_at(count.min(self.input.len()));
        self.input = rest;
        bytes
    }

    // Return the id of a stream that is open, was open or will be.
    fn stream(&self, choice: u8) -> u32 {
        match self.side {
            Side::Server => 1,
            Side::Client => self.next_stream.saturating_sub(2 * u32::from(choice % 8)).max(1) | 1,
        }
    }

    fn headers(&mut self, choice: u8) -> Vec<u8> {
        let mut block = Vec::new();
        let stream = match self.side {
            Side::Client => {
                let path = PATHS[usize::from(choice & 7) % PATHS.len()];
                put(&mut block, ":method", b"POST");
                put(&mut block, ":scheme", b"http");
                put(&mut block, ":path", path.as_bytes());
                put(&mut block, ":authority", b"x");
                self.next_stream += 2;
                self.next_stream - 2
            }
            Side::Server => {
                put(&mut block, ":status", if choice & 7 == 7 { b"503" } else { b"200" });
                1
            }
        };
        put(&mut block, "content-type", b"application/grpc");
        if choice & 8 != 0 {
            let count = usize::from(self.byte() % 12);
            put(&mut block, "grpc-timeout", self.bytes(count));
        }
        if choice & 16 != 0 {
            put(&mut block, "grpc-encoding", b"gzip");
        }
        if choice & 32 != 0 {
            let count = usize::from(self.byte() % 100);
            put(&mut block, "x-any-bin", self.bytes(count));
        }
        frame(1, if choice & 128 == 0 { 4 } else { 5 }, stream, &block)
    }

    fn trailers(&mut self, choice: u8) -> Vec<u8> {
        let mut block = Vec::new();
        let count = usize::from(choice % 5);
        put(&mut block, "grpc-status", self.bytes(count));
        frame(1, 5, self.stream(choice), &block)
    }
}

impl Iterator for Script<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        if self.input.is_empty() {
            return None;
        }
        let (kind, choice) = (self.byte(), self.byte());
        let stream = self.stream(choice >> 4);
        let size = usize::from(choice);
        Some(Step::Send(match kind % 14 {
            0 | 1 => self.headers(choice),
            2 => {
                let (flag, count) = (self.byte() & 1, self.byte());
                let message = self.bytes(usize::from(count));
                let mut body = vec![flag, 0, 0, 0, message.len() as u8];
                body.extend_from_slice(message);
                frame(0, choice & 1, stream, &body)
            }
            3 => {
                let count = usize::from(self.byte());
                frame(0, choice & 1, stream, self.bytes(count))
            }
            4 => self.trailers(choice),
            5 => frame(3, 0, stream, &[0, 0, 0, choice & 15]),
            6 => frame(8, 0, stream & u32::from(choice & 1), &u32::from(choice).to_be_bytes()),
            7 => frame(4, 0, 0, &[0, 4, 0, 0, choice, self.byte()]),
            8 => frame(6, choice & 1, 0, b"12345678"),
            9 => {
                let (flags, count) = (self.byte(), usize::from(self.byte()));
                frame(choice % 12, flags, stream, self.bytes(count))
            }
            10 => self.bytes(size).to_vec(),
            // The frame is large enough to fill windows and queues.
            11 => frame(0, choice & 1, stream, &vec![choice & 1; 16 << 10]),
            _ => return Some(Step::Turn),
        }))
    }
}

/// Encode a frame of HTTP/2.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

// Append a literal header field without indexing (RFC 7541, 6.2.2).
fn put(block: &mut Vec<u8>, key: &str, value: &[u8]) {
    block.extend_from_slice(&[0, key.len() as u8]);
    block.extend_from_slice(key.as_bytes());
    block.push(value.len() as u8);
    block.extend_from_slice(value);
}
