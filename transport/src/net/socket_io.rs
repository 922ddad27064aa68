//! A non-blocking socket as h2 and rustls want it; writes are gathered.
//!
//! Neither half keeps a waker: whoever drives the connection polls it again whenever the poller
//! has said something of its socket, and calls `flush` when it has polled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered bytes from which on h2 is told to wait.
const MAX_GATHERED_BYTES: usize = 256 << 10;
/// What one connection may read before the others have their turn; it also bounds what tiny
/// frames can make h2 hold at once.
pub const READ_BYTES_PER_TURN: usize = 256 << 10;
/// Capacity an idle connection keeps.
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
    /// When bytes were last read from it, or it was made.
    pub read_at: Instant,
    /// Bytes read from it, ever.
    pub bytes_in: u64,
    /// Bytes written to it, ever.
    pub bytes_out: u64,
}

impl Socket {
    /// A connected socket, in non-blocking mode.
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

    /// A socket that is not connected before the poller tells of room to write.
    pub fn connecting(fd: OwnedFd) -> Self {
        Self { is_readable: false, is_blocked: true, ..Self::new(fd) }
    }

    /// Takes note of what the poller found.
    pub fn update(&mut self, is_readable: bool, is_ended: bool, is_writable: bool) {
        self.is_readable |= is_readable;
        self.is_ended |= is_ended;
        if is_writable {
            self.is_blocked = false;
        }
    }

    /// Allows it to read for one more turn, at most `READ_BYTES_PER_TURN`.
    pub fn begin_turn(&mut self, num_bytes: usize) {
        self.allowance = num_bytes.min(READ_BYTES_PER_TURN);
    }

    /// Whether it stopped reading for the others' sake, with more to read.
    pub fn has_more_to_read(&self) -> bool {
        self.allowance == 0 && self.is_readable
    }

    /// Whether a writer was told to wait since this was last asked.
    pub fn take_writer_waiting(&mut self) -> bool {
        std::mem::take(&mut self.is_writer_waiting)
    }

    /// Whether the peer takes no more for now.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Bytes gathered that the system has not taken.
    pub fn num_gathered(&self) -> usize {
        self.gathered.len() - self.num_sent
    }

    /// Writes what is gathered; false where the peer does not take it all.
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

    // Whether the writer may go on; a writer that may not is noted.
    fn make_room(&mut self) -> io::Result<bool> {
        if self.num_gathered() >= MAX_GATHERED_BYTES && !self.flush()? {
            self.is_writer_waiting = true;
            return Ok(false);
        }
        Ok(true)
    }

    /// Takes unread bytes off before the socket is closed, within bounds.
    ///
    /// Closed with unread bytes the system resets a connection, and the reset overtakes what the
    /// peer has not read: the GOAWAY that says what was wrong would be lost.
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
            // SAFETY: what is uninitialized is only handed to `recv`, which writes to it.
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
            // Less than asked for is all there was, and the next byte makes a new edge; but the
            // edge of an end may be one we were told of already.
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
    /// Shares a socket.
    pub fn new(socket: Socket) -> Self {
        Self(Arc::new(Mutex::new(socket)))
    }

    /// The socket; never held across a call to h2 or rustls, which lock it too.
    pub fn lock(&self) -> MutexGuard<'_, Socket> {
        // A panic elsewhere leaves bytes and flags, all of them valid.
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
        // Said to be done while there is room, since the engine flushes at the end of its turn.
        if self.lock().make_room()? { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut socket = self.lock();
        if !socket.flush()? {
            return Poll::Pending;
        }
        // A peer that has gone is as good as one that was told.
        let _ = shutdown(&socket.fd, Shutdown::Write);
        Poll::Ready(Ok(()))
    }
}
