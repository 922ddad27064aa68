//! The open calls by slot, and the ids that tell the calls of one slot apart.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::recv::RecvHalf;
use super::send::SendHalf;
use super::wake_list::{WakeHandle, WakeList};

/// The application's name for a call: slot in the low half, generation in the high half; below 2⁶³.
pub type Id = u64;

const GENERATION_MASK: u32 = 0x7fff_ffff;

/// The side that opened a call, and the messages that it may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A peer's call with one message each way.
    Unary,
    /// A peer's call with any number of messages.
    Stream,
    /// A peer's watch of the health of a service.
    Watch,
    /// A peer's call that ended before its body arrived; the rest is discarded.
    Discard,
    /// A stream of this engine to a server.
    Link,
}

/// A call of either role.
pub struct Call {
    /// Index of the connection.
    pub connection: u32,
    /// Position in the connection's list of calls.
    pub position: usize,
    /// Role of the call.
    pub role: Role,
    /// Index among the engine's paths.
    pub path: u32,
    /// Deadline of the caller.
    pub deadline: Option<Instant>,
    /// Deadline by which the arriving message must be complete.
    pub message_deadline: Option<Instant>,
    /// Headers for the application, until it gets the call.
    pub metadata: Option<HeaderMap>,
    /// Whether the application got the call.
    pub is_delivered: bool,
    /// Whether reading pauses until the connection's queue has shrunk.
    pub is_paused: bool,
    /// Received messages.
    pub recv: RecvHalf,
    /// Bytes of received messages that the engine counts as incomplete.
    pub num_counted: usize,
    /// Sent messages.
    pub send: SendHalf,
}

struct Slot {
    wake_handle: WakeHandle,
    generation: u32,
    call: Option<Call>,
}

/// The slots of all calls.
pub struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    list: Arc<WakeList>,
}

impl Calls {
    /// Create an empty table whose wakers push slots to `list`.
    pub fn new(list: Arc<WakeList>) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), list }
    }

    /// Return the number of calls.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Insert a call and return its slot.
    pub fn insert(&mut self, call: Call) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize].call = Some(call);
            return slot;
        }
        let slot = self.slots.len() as u32;
        let wake_handle = WakeHandle::new(slot, &self.list);
        self.slots.push(Slot { wake_handle, generation: 1, call: Some(call) });
        slot
    }

    /// Remove a call; its id is never used again.
    pub fn remove(&mut self, slot: u32) -> Option<Call> {
        let entry = &mut self.slots[slot as usize];
        let call = entry.call.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(slot);
        Some(call)
    }

    /// Return the id of the call in a slot.
    pub fn id(&self, slot: u32) -> Id {
        u64::from(self.slots[slot as usize].generation) << 32 | u64::from(slot)
    }

    /// Return the slot of a call by its id, unless the call has ended.
    pub fn find(&self, id: Id) -> Option<u32> {
        let slot = id as u32;
        let entry = self.slots.get(slot as usize)?;
        (entry.call.is_some() && u64::from(entry.generation) == id >> 32).then_some(slot)
    }

    /// Return the call in a slot.
    pub fn get(&self, slot: u32) -> Option<&Call> {
        self.slots.get(slot as usize)?.call.as_ref()
    }

    /// Return the call in a slot, mutably.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Call> {
        self.slots.get_mut(slot as usize)?.call.as_mut()
    }

    /// Return the call in a slot with its waker, for a poll.
    pub fn get_to_poll(&mut self, slot: u32) -> Option<(&mut Call, &WakeHandle)> {
        let entry = self.slots.get_mut(slot as usize)?;
        Some((entry.call.as_mut()?, &entry.wake_handle))
    }

    /// Reset the waker of a slot before a poll.
    pub fn reset_wake(&self, slot: u32) {
        self.slots[slot as usize].wake_handle.reset();
    }

    /// Schedule a poll of a call.
    pub fn wake(&self, slot: u32) {
        self.slots[slot as usize].wake_handle.wake();
    }

    /// Iterate over all calls with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Call)> {
        let entries = self.slots.iter().enumerate();
        entries.filter_map(|(slot, entry)| Some((slot as u32, entry.call.as_ref()?)))
    }
}
