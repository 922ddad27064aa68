//! The health table: a status for each service, and the calls that watch it.

use std::collections::HashMap;

use super::calls::Id;

/// Statuses by service, and watchers.
#[derive(Default)]
pub struct HealthTable {
    /// Status by name of service.
    pub statuses: HashMap<String, u32>,
    /// Watching calls, each with its service.
    pub watchers: Vec<(Id, String)>,
}

impl HealthTable {
    /// Return whether the application has set any status.
    pub fn is_known(&self) -> bool {
        !self.statuses.is_empty()
    }
}
