//! The calls under way, by slot; an id tells a slot's calls apart.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;

use super::recv::RecvHalf;
use super::send::SendHalf;
use super::wake_list::{WakeHandle, WakeList};

/// Names a call to the application: the slot below, its generation above. Below 2⁶³.
pub type Id = u64;

const GENERATION_MASK: u32 = 0x7fff_ffff;

/// Who opened a call, and what it may carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A peer; one message each way.
    Unary,
    /// A peer; any number of messages.
    Stream,
    /// A peer that watches the health of a service.
    Watch,
    /// A peer that was answered before its body had come; the rest of that is thrown away.
    Discard,
    /// We.
    Link,
}

/// A call of either side.
pub struct Call {
    /// Index of its connection.
    pub connection: u32,
    /// Where the connection's list has it.
    pub position: usize,
    /// Its kind.
    pub role: Role,
    /// Index among the engine's paths.
    pub path: u32,
    /// When the caller gives up.
    pub deadline: Option<Instant>,
    /// When the message that is coming must be whole.
    pub message_deadline: Option<Instant>,
    /// Kept until it is delivered.
    pub metadata: Option<HeaderMap>,
    /// Whether the application knows of it.
    pub is_delivered: bool,
    /// Whether its messages are left unread until its connection's queue has shrunk.
    pub is_paused: bool,
    /// Its messages to us.
    pub recv: RecvHalf,
    /// Bytes of them that the engine counts as held and not delivered.
    pub num_counted: usize,
    /// Its messages from us.
    pub send: SendHalf,
}

struct Slot {
    wake_handle: WakeHandle,
    generation: u32,
    call: Option<Call>,
}

/// All calls.
pub struct Calls {
    slots: Vec<Slot>,
    free: Vec<u32>,
    list: Arc<WakeList>,
}

impl Calls {
    /// None yet; their wakers list them on `list`.
    pub fn new(list: Arc<WakeList>) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), list }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Adds one.
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

    /// Takes one out; its id is never given again.
    pub fn remove(&mut self, slot: u32) -> Option<Call> {
        let entry = &mut self.slots[slot as usize];
        let call = entry.call.take()?;
        entry.generation = (entry.generation + 1) & GENERATION_MASK;
        self.free.push(slot);
        Some(call)
    }

    /// The id of what is in a slot.
    pub fn id(&self, slot: u32) -> Id {
        u64::from(self.slots[slot as usize].generation) << 32 | u64::from(slot)
    }

    /// The slot of an id, while its call is under way.
    pub fn find(&self, id: Id) -> Option<u32> {
        let slot = id as u32;
        let entry = self.slots.get(slot as usize)?;
        (entry.call.is_some() && u64::from(entry.generation) == id >> 32).then_some(slot)
    }

    /// The call in a slot.
    pub fn get(&self, slot: u32) -> Option<&Call> {
        self.slots.get(slot as usize)?.call.as_ref()
    }

    /// The call in a slot, to change it.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Call> {
        self.slots.get_mut(slot as usize)?.call.as_mut()
    }

    /// The call in a slot with its waker, to poll it.
    pub fn get_to_poll(&mut self, slot: u32) -> Option<(&mut Call, &WakeHandle)> {
        let entry = self.slots.get_mut(slot as usize)?;
        Some((entry.call.as_mut()?, &entry.wake_handle))
    }

    /// Lets a slot be listed again: it is about to be polled.
    pub fn reset_wake(&self, slot: u32) {
        self.slots[slot as usize].wake_handle.reset();
    }

    /// Has a call polled.
    pub fn wake(&self, slot: u32) {
        self.slots[slot as usize].wake_handle.wake();
    }

    /// Every call under way with its slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Call)> {
        let entries = self.slots.iter().enumerate();
        entries.filter_map(|(slot, entry)| Some((slot as u32, entry.call.as_ref()?)))
    }
}
