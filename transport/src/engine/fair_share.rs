//! Fair shares of the memory bounds: a few connections cannot use up the memory of all.

use super::core::Engine;
use super::refusal::too_much_untaken;

impl Engine {
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
                Some(slot) if size_of(&slot) > 0 => self.fail_call(slot, too_much_untaken()),
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
}
