//! Fair shares of the memory bounds: a few connections cannot use up the memory of all.

use super::core::Engine;
use super::refusal::too_much_untaken;

impl Engine {
    /// Return whether a connection has its share of an event queue that is above its bound.
    pub(super) fn exceeds_event_share(&self, index: u32) -> bool {
        let own_bytes = self.connections[index as usize].untaken_bytes(self.num_takes);
        self.is_over_share(own_bytes, self.event_bytes, self.limits.max_untaken_bytes)
    }

    /// Fail incomplete calls until the bytes received are below their bound.
    ///
    /// The connection with the most incomplete bytes loses its largest call. A peer that stays
    /// below the others can always finish, even if others never do.
    pub(super) fn fail_incomplete_calls(&mut self) {
        while self.event_bytes + self.partial_bytes > self.limits.max_untaken_bytes {
            let connections = self.connections.iter().map(|(_, connection)| connection);
            let Some(fullest) = connections.max_by_key(|connection| connection.partial_bytes)
            else {
                return;
            };
            let size_of = |&slot: &u32| self.calls.get(slot).map_or(0, |call| call.num_counted);
            match fullest.calls.iter().copied().max_by_key(size_of) {
                Some(slot) if size_of(&slot) > 0 => self.fail_call(slot, too_much_untaken()),
                _ => return,
            }
        }
    }

    /// Return whether the queues for all peers are above their bound and one connection exceeds its
    /// share.
    pub(super) fn exceeds_unsent_share(&self, own_bytes: usize) -> bool {
        self.is_over_share(own_bytes, self.unsent.get(), self.limits.max_total_unsent_bytes)
    }

    // Half of a bound is first come, first served. The other half is in equal shares for all
    // connections, so that a few cannot use up the memory of all. Shares taken by fewer connections
    // may add up to more than the bound; then each connection has the least share.
    fn is_over_share(&self, own_bytes: usize, all_bytes: usize, max_bytes: usize) -> bool {
        let half = max_bytes / 2;
        let num_shares = match all_bytes > max_bytes {
            true => self.limits.max_connections,
            false => self.connections.len(),
        };
        all_bytes > half && own_bytes > half / num_shares.max(1)
    }
}
