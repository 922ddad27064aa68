//! A non-blocking socket for h2 and rustls, with gathered writes.
//!
//! Neither half keeps a waker. The engine polls a connection after the poller reported its socket,
//! and calls `flush` after the poll.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes above which h2 has to wait.
const MAX_GATHERED_BYTES: usize = 256 << 10;
/// Bytes that one connection may read in one turn. The bound also limits the tiny frames that h2
/// can hold at once.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;
/// Buffer capacity of an idle connection.
const IDLE_CAPACITY: usize = 16 << 10;

/// The state of a socket.
pub struct Socket {
    fd: OwnedFd,
    is_readable: bool,
    is_ended: bool,
    is_blocked: bool,
    is_writer_waiting: bool,
    allowance: usize,
    gathered: Vec<u8>,
    num_sent: usize,
    /// Instant of the last read, or of the creation.
    pub read_at: Instant,
    /// Total of bytes read.
    pub bytes_in: u64,
    /// Total of bytes written.
    pub bytes_out: u64,
}

impl Socket {
    /// Wrap a connected socket in non-blocking mode.
    pub fn new(fd: OwnedFd) -> Self {
        Self {
            fd,
            is_readable: true,
            is_ended: false,
            is_blocked: false,
            is_writer_waiting: false,
            allowance: READ_BYTES_PER_TURN,
            gathered: Vec::new(),
            num_sent: 0,
            read_at: Instant::now(),
            bytes_in: 0,
            bytes_out: 0,
        }
    }

    /// Wrap a socket that connects until the poller reports room to write.
    pub fn connecting(fd: OwnedFd) -> Self {
        Self { is_readable: false, is_blocked: true, ..Self::new(fd) }
    }

    /// Record the readiness that the poller reported.
    pub fn update(&mut self, is_readable: bool, is_ended: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_ended |= is_ended;
        if is_writable {
            self.is_blocked = false;
        }
    }

    /// Allow reads of one more turn, at most `READ_BYTES_PER_TURN`.
    pub fn begin_turn(&mut self, num_bytes: usize) {
        self.allowance = num_bytes.min(READ_BYTES_PER_TURN);
    }

    /// Return whether the allowance ended with more to read.
    pub fn has_more_to_read(&self) -> bool {
        self.allowance == 0 && self.is_readable
    }

    /// Return whether a writer had to wait since the last call; clears the flag.
    pub fn take_writer_waiting(&mut self) -> bool {
        std::mem::take(&mut self.is_writer_waiting)
    }

    /// Return whether the socket's buffer is full.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Return the gathered bytes that the system has not taken.
    pub fn num_gathered(&self) -> usize {
        self.gathered.len() - self.num_sent
    }

    /// Write the gathered bytes. Return false if the socket did not take them all.
    pub fn flush(&mut self) -> io::Result<bool> {
        while self.num_sent < self.gathered.len() && !self.is_blocked {
            match send(&self.fd, &self.gathered[self.num_sent..], SendFlags::NOSIGNAL) {
                Ok(count) => {
                    self.num_sent += count;
                    self.bytes_out += count as u64;
                }
                Err(Errno::AGAIN) => self.is_blocked = true,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if self.is_blocked {
            return Ok(false);
        }
        self.gathered.clear();
        self.num_sent = 0;
        if self.gathered.capacity() > MAX_GATHERED_BYTES {
            self.gathered = Vec::with_capacity(IDLE_CAPACITY);
        }
        Ok(true)
    }

    // Return whether the writer may continue; record a writer that has to wait.
    fn make_room(&mut self) -> io::Result<bool> {
        if self.num_gathered() >= MAX_GATHERED_BYTES && !self.flush()? {
            self.is_writer_waiting = true;
            return Ok(false);
        }
        Ok(true)
    }

    /// Discard unread bytes before the socket is closed, within bounds.
    ///
    /// Linux resets a connection that is closed with unread bytes. The reset overtakes data that
    /// the peer has not read, so the GOAWAY with the reason would be lost.
    pub fn discard_unread(&mut self) {
        let mut sink = [0; 16 << 10];
        for _ in 0..READ_BYTES_PER_TURN / sink.len() {
            match recv(&self.fd, &mut sink[..], RecvFlags::empty()) {
                Ok((_, 0)) => return,
                Ok((_, count)) => self.bytes_in += count as u64,
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn read(&mut self, target: &mut ReadBuf<'_>) -> io::Result<bool> {
        if !self.is_readable || self.allowance == 0 || target.remaining() == 0 {
            return Ok(false);
        }
        loop {
            // SAFETY: the uninitialized part is only given to `recv`, which writes to it.
            let room = unsafe { target.unfilled_mut() };
            let size = room.len().min(self.allowance);
            let count = match recv(&self.fd, &mut room[..size], RecvFlags::empty()) {
                Ok((_, count)) => count,
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => {
                    self.is_readable = false;
                    return Ok(false);
                }
                Err(error) => return Err(error.into()),
            };
            // SAFETY: `recv` has written the first `count` bytes of the unfilled part.
            unsafe { target.assume_init(count) };
            target.advance(count);
            // A short read has emptied the socket, and the next byte makes a new edge. The edge of
            // an end may already have been reported.
            if count < size && !self.is_ended {
                self.is_readable = false;
            }
            self.allowance -= count;
            self.bytes_in += count as u64;
            self.read_at = Instant::now();
            return Ok(true);
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A socket shared between h2, which reads and writes, and the engine, which flushes.
#[derive(Clone)]
pub struct SocketIo(Arc<Mutex<Socket>>);

impl SocketIo {
    /// Share a socket.
    pub fn new(socket: Socket) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// Lock the socket. The lock is never held across a call to h2 or rustls, which lock it too.
    pub fn lock(&self) -> MutexGuard<'_, Socket> {
        // Bytes and flags stay valid if a holder of the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for SocketIo {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.lock().read(target) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for SocketIo {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut socket = self.lock();
        if !socket.make_room()? {
            return Poll::Pending;
        }
        socket.gathered.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The flush counts as done while there is room, since the engine flushes at the end of its
        // turn.
        if self.lock().make_room()? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.lock();
        if !socket.flush()? {
            return Poll::Pending;
        }
        // A failed shutdown means that the peer has already gone.
        let _ = shutdown(&socket.fd, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
