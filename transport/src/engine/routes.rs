//! Routes: paths that a listener serves, and the role that a call of each takes.

use std::collections::HashMap;
use std::sync::Arc;

use super::calls::Role;
use crate::net::sockets::Listener;
use crate::net::tls::ServerTls;

/// The destination of a call.
#[derive(Clone, Copy)]
pub struct Route {
    /// The role of the call.
    pub role: Role,
    /// The index among the engine's paths.
    pub path: u32,
}

impl Route {
    /// A route to the engine's own health service.
    pub fn health(role: Role) -> Self {
        Self { role, path: u32::MAX }
    }

    /// Return whether a path index belongs to the engine's own health service.
    pub fn is_health(path: u32) -> bool {
        path == u32::MAX
    }
}

/// Routes by path.
pub type Routes = HashMap<Box<str>, Route>;

/// The methods of a listener, as the application registers them.
pub struct Service<'a> {
    /// Paths of unary methods.
    pub unary: &'a [String],
    /// Paths of streaming methods of any kind.
    pub streams: &'a [String],
    /// The server's certificate; `None` serves plain text.
    pub tls: Option<ServerTls>,
}

/// A listener and its routes.
pub struct ListenerEntry {
    /// The bound socket.
    pub listener: Listener,
    /// The routes, shared with every accepted connection.
    pub routes: Arc<Routes>,
    /// The server's certificate; `None` serves plain text.
    pub tls: Option<ServerTls>,
}
