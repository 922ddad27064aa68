//! The state of the engine: listeners, connections, calls and pending events.

use std::io;
use std::os::fd::{AsFd as _, RawFd};
use std::sync::Arc;
use std::time::Instant;

use slab::Slab;

use super::calls::{Call, Calls};
use super::connection::{Connection, Stage};
use super::counters::Counters;
use super::event::Event;
use super::h2_config::H2Config;
use super::health_table::HealthTable;
use super::limits::Limits;
use super::payload::Gauge;
use super::routes::{ListenerEntry, Routes};
use super::schedule::Schedule;
use super::wake_list::{WakeHandle, WakeList};
use crate::net::poller::Poller;
use crate::net::resolver::Resolver;
use crate::net::socket_io::SocketIo;

/// Bytes that one turn reads, in equal parts of the ready sockets.
pub const TURN_READ_BYTES: usize = 1 << 20;
/// Bytes that one turn decompresses, in about 5 ms.
pub const INFLATED_BYTES_PER_TURN: usize = 4 << 20;

/// Listeners, connections and calls, driven by `turn`.
///
/// Methods of the application (`reply`, `send`, …) only queue work. `drive` carries it out, once
/// for any number of calls.
pub struct Engine {
    pub(super) poller: Arc<Poller>,
    pub(super) resolver: Resolver,
    pub(super) limits: Arc<Limits>,
    pub(super) h2_config: H2Config,
    pub(super) listeners: Slab<ListenerEntry>,
    pub(super) connections: Slab<Connection>,
    pub(super) calls: Calls,
    pub(super) health: HealthTable,
    pub(super) schedule: Schedule,
    pub(super) counters: Counters,
    pub(super) unsent: Arc<Gauge>,
    pub(super) now: Instant,
    pub(super) is_draining: bool,
    pub(super) num_paths: u32,
    pub(super) awake_connections: Arc<WakeList>,
    pub(super) awake_calls: Arc<WakeList>,
    // Connections that used up their read allowance and have more to read.
    pub(super) postponed: Vec<u32>,
    pub(super) events: Vec<Event>,
    pub(super) event_bytes: usize,
    pub(super) num_takes: u64,
    pub(super) partial_bytes: usize,
    // Bytes that each socket may still read in this turn, bytes that may still be decompressed, and
    // calls that wait for the next turn's allowance.
    pub(super) read_allowance: usize,
    pub(super) inflate_allowance: usize,
    pub(super) postponed_calls: Vec<u32>,
    pub(super) scratch: Vec<u32>,
}

impl Engine {
    /// Create an engine without listeners or links.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        let awake_calls = Arc::new(WakeList::default());
        let now = Instant::now();
        Ok(Self {
            resolver: Resolver::new(poller.clone()),
            poller,
            h2_config: H2Config::new(&limits),
            limits: Arc::new(limits),
            listeners: Slab::new(),
            connections: Slab::new(),
            calls: Calls::new(awake_calls.clone()),
            health: HealthTable::default(),
            schedule: Schedule::new(now),
            counters: Counters::default(),
            unsent: Arc::default(),
            now,
            is_draining: false,
            num_paths: 0,
            awake_connections: Arc::default(),
            awake_calls,
            postponed: Vec::new(),
            events: Vec::new(),
            event_bytes: 0,
            num_takes: 0,
            partial_bytes: 0,
            read_allowance: TURN_READ_BYTES,
            inflate_allowance: INFLATED_BYTES_PER_TURN,
            postponed_calls: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// Return the poller, which reports that a turn is due.
    pub fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// Return the descriptor that is readable when a turn is due.
    pub fn raw_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    /// Return whether events wait to be taken.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Push an event of a peer, whose bytes count for its connection until they are taken.
    pub(super) fn push_peer_event(&mut self, index: u32, event: Event) {
        let num_bytes = event.num_bytes();
        self.connections[index as usize].count_untaken(num_bytes, self.num_takes);
        self.event_bytes += num_bytes;
        self.push_event(event);
    }

    pub(super) fn push_event(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Return the totals, and the current counts.
    pub fn counters(&self) -> Counters {
        let mut counters = self.counters.clone();
        for (_, connection) in &self.connections {
            if let Some(io) = &connection.io {
                let socket = io.lock();
                counters.bytes_in += socket.bytes_in;
                counters.bytes_out += socket.bytes_out;
                counters.unsent_bytes += socket.num_gathered() as u64;
            }
        }
        counters.connections = self.connections.len() as u64;
        counters.open_calls = self.calls.len() as u64;
        counters.unsent_bytes += self.unsent.get() as u64;
        counters.untaken_bytes = (self.event_bytes + self.partial_bytes) as u64;
        counters
    }

    pub(super) fn add_call(&mut self, call: Call) -> u32 {
        let index = call.connection as usize;
        let slot = self.calls.insert(call);
        let connection = &mut self.connections[index];
        let position = connection.calls.len();
        connection.calls.push(slot);
        self.calls.get_mut(slot).expect("just inserted").position = position;
        slot
    }

    pub(super) fn remove_call(&mut self, slot: u32) -> Option<Call> {
        let call = self.calls.remove(slot)?;
        // The call may hold another number of bytes since it was counted.
        self.partial_bytes -= call.num_counted;
        if let Some(connection) = self.connections.get_mut(call.connection as usize) {
            connection.partial_bytes -= call.num_counted;
            connection.calls.swap_remove(call.position);
            if let Some(&moved) = connection.calls.get(call.position) {
                self.calls.get_mut(moved).expect("listed").position = call.position;
            }
            if connection.calls.is_empty() {
                connection.idle_since = self.now;
                self.schedule_idle(call.connection);
            }
        }
        Some(call)
    }

    pub(super) fn add_connection(
        &mut self,
        stage: Stage,
        io: Option<SocketIo>,
        routes: Arc<Routes>,
        watches_room: bool,
    ) -> io::Result<u32> {
        let entry = self.connections.vacant_entry();
        let index = entry.key() as u32;
        if let Some(io) = &io {
            self.poller.add_socket(io.lock().as_fd(), index, watches_room)?;
        }
        let wake_handle = WakeHandle::new(index, &self.awake_connections);
        wake_handle.wake();
        let unsent = Gauge::below(&self.unsent);
        let mut connection = Connection::new(stage, io, wake_handle, routes, unsent, self.now);
        connection.watches_room = watches_room;
        connection.is_draining = self.is_draining;
        entry.insert(connection);
        self.schedule_connection(self.limits.handshake_timeout);
        Ok(index)
    }
}
