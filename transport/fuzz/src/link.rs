//! A server that answers anything, and an engine that has a link to it.

use std::cell::RefCell;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use http::HeaderMap;
use transport::engine::Opening;
use transport::grpc::frame::Framed;
use transport::net::sockets::Endpoint;

use crate::live::{Live, send};
use crate::script::{Script, Side, frame};

thread_local! {
    static LINK: RefCell<(Live, UnixListener, PathBuf)> = RefCell::new(listen());
}

fn listen() -> (Live, UnixListener, PathBuf) {
    let path = Live::socket_path("link");
    // Of an earlier run of the same process id.
    let _ = std::fs::remove_file(&path);
    (Live::new(), UnixListener::bind(&path).expect("a listener"), path)
}

/// Opens a link to a server that does as the input says; once it has gone nothing is left.
pub fn check(input: &[u8]) {
    LINK.with_borrow_mut(|(live, listener, path)| {
        let opening = Opening {
            endpoint: Endpoint::Unix(path.clone()),
            path: "/t/Stream",
            metadata: HeaderMap::new(),
            tls: None,
            acknowledges_itself: input.len() % 2 == 0,
        };
        let id = live.engine.open(opening).expect("a path");
        live.engine.send(id, Framed::copied(b"hello"));
        live.turn();
        let (mut peer, _) = listener.accept().expect("it connects");
        if input.first().is_none_or(|&byte| byte != 0xff) {
            send(&mut peer, &frame(4, 0, 0, b""));
        }
        live.run(&mut peer, Script::new(input, Side::Server));
        drop(peer);
        live.assert_empty();
    });
}
