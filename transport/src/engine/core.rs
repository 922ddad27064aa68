//! The engine and its turn.

use std::io;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use slab::Slab;

use super::calls::{Call, Calls, Id};
use super::checking::Health;
use super::connection::{Builders, Connection};
use super::counters::Counters;
use super::driving::untaken;
use super::event::Event;
use super::limits::Limits;
use super::payload::Gauge;
use super::serving::ListenerEntry;
use super::timing::Schedule;
use super::wakers::WakeList;
use crate::net::poller::{Poller, Readiness};
use crate::net::resolver::Resolver;

/// Passes over what is awake in one turn, before the application has its own.
const MAX_PASSES: usize = 16;
/// What one turn reads, in equal parts of what is ready, and the least that each of it does.
const TURN_READ_BYTES: usize = 1 << 20;
const MIN_READ_BYTES: usize = 16 << 10;
/// What one turn decompresses, in about 5 ms.
const INFLATED_BYTES_PER_TURN: usize = 4 << 20;

/// Listeners, connections and calls; driven by whoever calls `turn`.
///
/// Methods of the application's side (`reply`, `send`, …) only note what is to happen: `drive`
/// makes it happen, once for any number of them.
pub struct Engine {
    pub(super) poller: Arc<Poller>,
    pub(super) resolver: Resolver,
    pub(super) limits: Arc<Limits>,
    pub(super) builders: Builders,
    pub(super) listeners: Slab<ListenerEntry>,
    pub(super) connections: Slab<Connection>,
    pub(super) calls: Calls,
    pub(super) health: Health,
    pub(super) schedule: Schedule,
    pub(super) counters: Counters,
    pub(super) unsent: Arc<Gauge>,
    pub(super) now: Instant,
    pub(super) is_draining: bool,
    pub(super) num_paths: u32,
    pub(super) awake_connections: Arc<WakeList>,
    awake_calls: Arc<WakeList>,
    // Connections that stopped reading for the others' sake.
    pub(super) postponed: Vec<u32>,
    events: Vec<Event>,
    event_bytes: usize,
    num_takes: u64,
    pub(super) partial_bytes: usize,
    // What each socket may read in this turn, what may still be decompressed, and calls that wait
    // for the next turn to be.
    read_allowance: usize,
    pub(super) inflate_allowance: usize,
    pub(super) postponed_calls: Vec<u32>,
    scratch: Vec<u32>,
}

impl Engine {
    /// An engine without listeners or links.
    pub fn new(limits: Limits) -> io::Result<Self> {
        let poller = Arc::new(Poller::new()?);
        let awake_calls = Arc::new(WakeList::default());
        let now = Instant::now();
        Ok(Self {
            resolver: Resolver::new(poller.clone()),
            poller,
            builders: super::serving::builders(&limits),
            limits: Arc::new(limits),
            listeners: Slab::new(),
            connections: Slab::new(),
            calls: Calls::new(awake_calls.clone()),
            health: Health::default(),
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

    /// What tells when a turn is due.
    pub fn poller(&self) -> &Arc<Poller> {
        &self.poller
    }

    /// The descriptor that is readable when a turn is due.
    pub fn raw_fd(&self) -> RawFd {
        self.poller.raw_fd()
    }

    /// Does what is due now, without waiting.
    pub fn turn(&mut self) -> io::Result<()> {
        let mut found = Vec::new();
        self.poller.wait(&mut found, Some(Duration::ZERO))?;
        self.turn_with(&found);
        Ok(())
    }

    /// Does what the poller has found to be due.
    pub fn turn_with(&mut self, found: &[Readiness]) {
        self.now = Instant::now();
        self.counters.wake_ups += u64::from(!found.is_empty());
        let postponed = std::mem::take(&mut self.postponed);
        let num_ready = (postponed.len() + found.len()).max(1);
        self.read_allowance = (TURN_READ_BYTES / num_ready).max(MIN_READ_BYTES);
        for index in postponed {
            self.note_socket(index, (false, false, false));
        }
        self.inflate_allowance = INFLATED_BYTES_PER_TURN;
        for slot in std::mem::take(&mut self.postponed_calls) {
            self.calls.wake(slot);
        }
        for &readiness in found {
            match readiness {
                Readiness::Timer => self.schedule.note_fired(),
                Readiness::Bell => self.take_resolved(),
                Readiness::Listener(index) => {
                    self.accept(index);
                }
                Readiness::Socket { index, is_readable, is_ended, is_writable } => {
                    self.note_socket(index, (is_readable, is_ended, is_writable));
                }
            }
        }
        self.drive_now();
    }

    fn note_socket(
        &mut self,
        index: u32,
        (is_readable, is_ended, is_writable): (bool, bool, bool),
    ) {
        let Some(connection) = self.connections.get(index as usize) else { return };
        if let Some(io) = &connection.io {
            let mut socket = io.lock();
            socket.note(is_readable, is_ended, is_writable);
            socket.begin_turn(self.read_allowance);
        }
        connection.waking.wake();
    }

    /// Carries out what was noted since the last turn.
    pub fn drive(&mut self) {
        self.now = Instant::now();
        self.drive_now();
        if !self.events.is_empty() {
            // Nothing else would tell the application of them before the next byte comes.
            self.poller.ring();
        }
    }

    fn drive_now(&mut self) {
        for _ in 0..MAX_PASSES {
            let mut slots = std::mem::take(&mut self.scratch);
            self.awake_calls.swap(&mut slots);
            let has_calls = !slots.is_empty();
            for slot in slots.drain(..) {
                self.poll_call(slot);
            }
            self.awake_connections.swap(&mut slots);
            let has_connections = !slots.is_empty();
            for index in slots.drain(..) {
                self.poll_connection(index);
            }
            self.scratch = slots;
            if !has_calls && !has_connections {
                break;
            }
        }
        self.keep_time();
        let is_quiet = self.awake_calls.is_empty() && self.awake_connections.is_empty();
        if !is_quiet || !self.postponed.is_empty() || !self.postponed_calls.is_empty() {
            self.poller.ring();
        }
    }

    /// What happened since this was last asked, in order.
    pub fn take_events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.events);
        self.event_bytes = 0;
        self.num_takes += 1;
        let mut has_acknowledged = false;
        for event in &events {
            if let Event::Message(id, message, _) = event
                && self.acknowledges_itself(*id)
            {
                self.acknowledge(*id, message.len());
                has_acknowledged = true;
            }
        }
        if has_acknowledged {
            self.drive_now();
            if !self.events.is_empty() {
                self.poller.ring();
            }
        }
        events
    }

    fn acknowledges_itself(&self, id: Id) -> bool {
        let call = self.calls.find(id).and_then(|slot| self.calls.get(slot));
        call.is_some_and(|call| call.receiving.acknowledges_itself)
    }

    /// Whether there is something to take.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Tells of what a connection brought, which counts for it until it is taken.
    pub(super) fn tell_of(&mut self, index: u32, event: Event) {
        let num_bytes = event.num_bytes();
        self.connections[index as usize].count_untaken(num_bytes, self.num_takes);
        self.event_bytes += num_bytes;
        self.tell(event);
    }

    pub(super) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// Whether more messages wait to be taken than may, and a connection has its share of them.
    pub(super) fn is_overfull(&self, index: u32) -> bool {
        let own_bytes = self.connections[index as usize].untaken_bytes(self.num_takes);
        self.is_over_share(own_bytes, self.event_bytes, self.limits.max_untaken_bytes)
    }

    /// Ends unfinished calls until no more is held than may be.
    ///
    /// The connection that holds most loses its largest one. Whoever keeps below the others can
    /// always finish, also behind those who never do.
    pub(super) fn evict(&mut self) {
        while self.event_bytes + self.partial_bytes > self.limits.max_untaken_bytes {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            let Some(fullest) = connections.max_by_key(|connection| connection.partial_bytes)
            else {
                return;
            };
            let size_of = |&slot: &u32| self.calls.get(slot).map_or(0, |call| call.num_counted);
            match fullest.calls.iter().copied().max_by_key(size_of) {
                Some(slot) if size_of(&slot) > 0 => self.fail_call(slot, untaken()),
                _ => return,
            }
        }
    }

    /// Whether too much waits for peers that do not read, and one would get more than its share.
    pub(super) fn is_clogged(&self, own_bytes: usize) -> bool {
        self.is_over_share(own_bytes, self.unsent.get(), self.limits.max_total_unsent_bytes)
    }

    // Half of a bound is for whoever comes first, the other half in equal shares for each
    // connection: a few cannot use up what all need. Shares that were taken while there were fewer
    // connections can add up to more than the bound; the least share of all is left then.
    fn is_over_share(&self, own_bytes: usize, all_bytes: usize, max_bytes: usize) -> bool {
        let half = max_bytes / 2;
        let num_shares = match all_bytes > max_bytes {
            true => self.limits.max_connections,
            false => self.connections.len(),
        };
        all_bytes > half && own_bytes > half / num_shares.max(1)
    }

    /// What was counted, and what is now.
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
        // Not what it holds now, which may have changed since it was counted.
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
}
