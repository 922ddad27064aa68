//! Addresses, listeners and outgoing sockets.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::{set_socket_reuseaddr, set_socket_reuseport, set_tcp_nodelay};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect,
    getsockname, listen, socket_with,
};

const BACKLOG: i32 = 1024;

/// An address to listen on or to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `host:port`; the host may be a name.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Endpoint {
    /// Parse `host:port`, `[::1]:port` or `unix:/path`.
    pub fn parse(text: &str) -> io::Result<Self> {
        if let Some(path) = text.strip_prefix("unix:") {
            // gRPC has two spellings: `unix:path` and `unix:///path`.
            let path = path.strip_prefix("//").unwrap_or(path);
            if path.is_empty() {
                return Err(invalid(text));
            }
            return Ok(Self::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(|| invalid(text))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(invalid(text));
        }
        Ok(Self::Tcp(text.to_owned()))
    }

    /// Return the host, as a certificate names it.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Tcp(text) => {
                let host = text.rsplit_once(':').map_or(text.as_str(), |(host, _)| host);
                Some(host.trim_start_matches('[').trim_end_matches(']'))
            }
            Self::Unix(_) => None,
        }
    }
}

fn invalid(text: &str) -> io::Error {
    let text = format!("{text:?} is neither host:port nor unix:/path");
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// A bound socket; a unix path is removed with it.
pub struct Listener {
    fd: OwnedFd,
    is_tcp: bool,
    // The file's identity is kept, because another server may have replaced the path.
    path: Option<(PathBuf, (u64, u64))>,
}

impl Listener {
    /// Bind and listen; an abandoned unix path is replaced.
    ///
    /// `shares_port` lets several processes bind one port, each with a part of the connections.
    pub fn bind(endpoint: &Endpoint, shares_port: bool) -> io::Result<Self> {
        match endpoint {
            Endpoint::Unix(path) => Self::bind_unix(path),
            Endpoint::Tcp(text) => {
                let address = text.to_socket_addrs()?.next().ok_or_else(|| invalid(text))?;
                let fd = stream_socket(family(&address))?;
                set_socket_reuseaddr(&fd, true)?;
                if shares_port {
                    set_socket_reuseport(&fd, true)?;
                }
                bind(&fd, &address)?;
                listen(&fd, BACKLOG)?;
                Ok(Self { fd, is_tcp: true, path: None })
            }
        }
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let fd = stream_socket(AddressFamily::UNIX)?;
        if let Err(error) = bind(&fd, &address) {
            if error != Errno::ADDRINUSE || !is_abandoned(path)? {
                return Err(error.into());
            }
            std::fs::remove_file(path)?;
            bind(&fd, &address)?;
        }
        listen(&fd, BACKLOG)?;
        let identity = identity(path)?;
        Ok(Self { fd, is_tcp: false, path: Some((path.to_owned(), identity)) })
    }

    /// Return the port; 0 for a unix socket.
    pub fn port(&self) -> io::Result<u16> {
        if !self.is_tcp {
            return Ok(0);
        }
        let address = SocketAddr::try_from(getsockname(&self.fd)?)?;
        Ok(address.port())
    }

    /// Accept the next waiting connection, or return `None`.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        loop {
            match accept_with(&self.fd, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(fd) => {
                    if self.is_tcp {
                        let _ = set_tcp_nodelay(&fd, true);
                    }
                    return Ok(Some(fd));
                }
                Err(Errno::AGAIN) => return Ok(None),
                // A connection that closed while it waited is not a failure of the listener.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some((path, own)) = &self.path
            && identity(path).is_ok_and(|found| found == *own)
        {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

// Return whether a path is a socket without a listener.
fn is_abandoned(path: &Path) -> io::Result<bool> {
    if !std::fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    match UnixStream::connect(path) {
        Ok(_) => Ok(false),
        Err(error) => Ok(error.kind() == io::ErrorKind::ConnectionRefused),
    }
}

/// The resolved target of an outgoing connection.
#[derive(Clone, Debug)]
pub enum Target {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix path.
    Unix(PathBuf),
}

/// Begin to connect; the socket has room to write when it has connected or failed.
pub fn begin_connect(target: &Target) -> io::Result<OwnedFd> {
    let (fd, result) = match target {
        Target::Tcp(address) => {
            let fd = stream_socket(family(address))?;
            set_tcp_nodelay(&fd, true)?;
            let result = connect(&fd, address);
            (fd, result)
        }
        Target::Unix(path) => {
            let fd = stream_socket(AddressFamily::UNIX)?;
            let result = connect(&fd, &SocketAddrUnix::new(path)?);
            (fd, result)
        }
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

fn family(address: &SocketAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// Return the error of a socket that was connecting, if it failed.
pub fn connect_result(fd: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::net::sockopt::socket_error(fd)??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        assert_eq!(Endpoint::parse("unix:/a").unwrap(), Endpoint::Unix("/a".into()));
        assert_eq!(Endpoint::parse("unix:///a").unwrap(), Endpoint::Unix("/a".into()));
        assert_eq!(Endpoint::parse("[::1]:80").unwrap().host(), Some("::1"));
        assert_eq!(Endpoint::parse("localhost:80").unwrap().host(), Some("localhost"));
        for text in ["", "unix:", "host", ":80", "host:", "host:x", "host:65536"] {
            assert!(Endpoint::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_abandoned_path_is_replaced_and_a_live_one_is_not() {
        let path = std::env::temp_dir().join(format!("skysail-{}.sock", std::process::id()));
        let endpoint = Endpoint::Unix(path.clone());
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::bind(&endpoint, false).unwrap();
        assert!(Listener::bind(&endpoint, false).is_err());
        drop(listener);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Listener::bind(&endpoint, false).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
