//! A server that answers anything, and an engine that has a link to it.

use std::cell::RefCell;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use http::HeaderMap;
use transport::engine::LinkRequest;
use transport::grpc::frame::MessageFrame;
use transport::net::sockets::Endpoint;

use crate::harness::{Harness, send};
use crate::script::{Script, Side, frame};

thread_local! {
    static LINK: RefCell<(Harness, UnixListener, PathBuf)> = RefCell::new(listen());
}

fn listen() -> (Harness, UnixListener, PathBuf) {
    let path = Harness::socket_path("link");
    // The file may be left from an earlier run with the same process id.
    let _ = std::fs::remove_file(&path);
    (Harness::new(), UnixListener::bind(&path).expect("a listener"), path)
}

/// Open a link to a server that follows the input, and check that nothing is left afterwards.
pub fn check(input: &[u8]) {
    LINK.with_borrow_mut(|(harness, listener, path)| {
        let link = LinkRequest {
            endpoint: Endpoint::Unix(path.clone()),
            path: "/t/Stream",
            metadata: HeaderMap::new(),
            tls: None,
            acknowledges_itself: input.len() % 2 == 0,
        };
        let id = harness.engine.open(link).expect("a path");
        harness.engine.send(id, MessageFrame::copy_from_slice(b"hello"));
        harness.turn();
        let (mut peer, _) = listener.accept().expect("it connects");
        if input.first().is_none_or(|&byte| byte != 0xff) {
            send(&mut peer, &frame(4, 0, 0, b""));
        }
        harness.run(&mut peer, Script::new(input, Side::Server));
        drop(peer);
        harness.assert_empty();
    });
}
