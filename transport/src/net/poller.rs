//! A poller: one epoll with a timer and a notifier.
//!
//! ```text
//! epoll ── sockets    edge-triggered: reported once, until read to the end
//!       ├─ listeners  level-triggered: a backlog is reported again
//!       ├─ timerfd    the next scheduled instant
//!       └─ eventfd    notifications from inside or from another thread
//! ```

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

const MAX_EVENTS: usize = 256;
const TIMER: u64 = 1 << 40;
const NOTIFICATION: u64 = 1 << 41;
const LISTENER: u64 = 1 << 42;

/// A source that became ready.
#[derive(Clone, Copy, Debug)]
pub enum Readiness {
    /// The timer fired.
    Timer,
    /// The notifier was notified.
    Notifier,
    /// A listener has a connection to accept.
    Listener(u32),
    /// A connection's socket is ready.
    Socket {
        /// Index of the connection.
        index: u32,
        /// Whether there are bytes, an end or an error to read.
        is_readable: bool,
        /// Whether the peer has ended its side, or the socket has failed.
        is_ended: bool,
        /// Whether there is room to write.
        is_writable: bool,
    },
}

/// An eventfd that is readable after a notification, until cleared.
pub struct Notifier(OwnedFd);

impl Notifier {
    /// Create a notifier that is not readable.
    pub fn new() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?))
    }

    /// Make the descriptor readable.
    pub fn notify(&self) {
        // The write fails only if the counter is full, and then the descriptor is readable.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Make the descriptor unreadable.
    pub fn clear(&self) {
        // The read fails only if nothing was notified.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// An epoll with a timer and a notifier.
pub struct Poller {
    epoll: OwnedFd,
    timer: OwnedFd,
    notifier: Notifier,
}

impl Poller {
    /// Create a poller that watches only its timer and its notifier.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let notifier = Notifier::new()?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        epoll::add(&epoll, &notifier, EventData::new_u64(NOTIFICATION), EventFlags::IN)?;
        Ok(Self { epoll, timer, notifier })
    }

    /// Append ready sources to `found`, after at most `timeout` (`None` waits without limit).
    pub fn wait(&self, found: &mut Vec<Readiness>, timeout: Option<Duration>) -> io::Result<()> {
        let mut events = Vec::with_capacity(MAX_EVENTS);
        let timeout = timeout.map(to_timespec);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let (token, flags) = (event.data.u64(), event.flags);
            found.push(match token {
                TIMER => {
                    let _ = rustix::io::read(&self.timer, &mut [0; 8]);
                    Readiness::Timer
                }
                NOTIFICATION => {
                    self.notifier.clear();
                    Readiness::Notifier
                }
                token if token & LISTENER != 0 => Readiness::Listener(token as u32),
                token => Readiness::Socket {
                    index: token as u32,
                    is_readable: flags.intersects(
                        EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR,
                    ),
                    is_ended: flags
                        .intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR),
                    is_writable: flags
                        .intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR),
                },
            });
        }
        Ok(())
    }

    /// Watch a listener.
    pub fn add_listener(&self, fd: BorrowedFd<'_>, index: u32) -> io::Result<()> {
        let data = EventData::new_u64(LISTENER | u64::from(index));
        Ok(epoll::add(&self.epoll, fd, data, EventFlags::IN)?)
    }

    /// Watch a socket for bytes to read and, if asked, for room to write.
    pub fn add_socket(&self, fd: BorrowedFd<'_>, index: u32, wants_room: bool) -> io::Result<()> {
        let data = EventData::new_u64(u64::from(index));
        Ok(epoll::add(&self.epoll, fd, data, socket_flags(wants_room))?)
    }

    /// Change whether a socket is watched for room to write.
    pub fn modify_socket(&self, fd: BorrowedFd<'_>, index: u32, wants_room: bool) {
        let data = EventData::new_u64(u64::from(index));
        // The call fails only for a descriptor that is not watched.
        let _ = epoll::modify(&self.epoll, fd, data, socket_flags(wants_room));
    }

    /// Stop watching a descriptor.
    pub fn remove(&self, fd: BorrowedFd<'_>) {
        let _ = epoll::delete(&self.epoll, fd);
    }

    /// Arm the timer for an instant; replaces the previous one.
    pub fn arm(&self, at: Instant, now: Instant) {
        // A delay of zero would disarm the timer.
        let delay = at.saturating_duration_since(now).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let spec = Itimerspec { it_interval: zero, it_value: to_timespec(delay) };
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
    }

    /// Notify the poller, so that `wait` returns.
    pub fn notify(&self) {
        self.notifier.notify();
    }

    /// Return the descriptor of the epoll, readable if a source is ready.
    pub fn raw_fd(&self) -> RawFd {
        std::os::fd::AsRawFd::as_raw_fd(&self.epoll)
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// Wait until a descriptor is readable, a signal arrives, or the timeout passes.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout: Option<Duration>) {
    let timeout = timeout.map(to_timespec);
    let _ = rustix::event::poll(&mut [PollFd::new(&fd, PollFlags::IN)], timeout.as_ref());
}

// Sockets are edge-triggered, so that one left unread on purpose does not wake the engine
// repeatedly. Room is watched only while a write waits, because a unix socket reports room at every
// read of its peer.
fn socket_flags(wants_room: bool) -> EventFlags {
    let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
    if wants_room { flags | EventFlags::OUT } else { flags }
}

fn to_timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}
