//! A client that sends anything, and an engine that serves it.

use std::cell::RefCell;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use transport::engine::Service;
use transport::net::sockets::Endpoint;

use crate::harness::{Harness, send};
use crate::script::{Script, Side, frame};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

thread_local! {
    static SERVER: RefCell<(Harness, PathBuf)> = RefCell::new(serve());
}

fn serve() -> (Harness, PathBuf) {
    let (mut harness, path) = (Harness::new(), Harness::socket_path("server"));
    let (unary, streams) = (["/t/Unary".to_owned()], ["/t/Stream".to_owned()]);
    let service = Service { unary: &unary, streams: &streams, tls: None };
    harness.engine.listen(&Endpoint::Unix(path.clone()), false, service).expect("a listener");
    harness.engine.set_health("", 1);
    (harness, path)
}

/// Serve a client that follows the input, and check that nothing is left afterwards.
pub fn check(input: &[u8]) {
    SERVER.with_borrow_mut(|(harness, path)| {
        let mut peer = UnixStream::connect(path).expect("it listens");
        // Some inputs replace the preface.
        if input.first().is_none_or(|&byte| byte != 0xff) {
            send(&mut peer, PREFACE);
            send(&mut peer, &frame(4, 0, 0, b""));
        }
        harness.run(&mut peer, Script::new(input, Side::Client));
        drop(peer);
        harness.assert_empty();
    });
}
