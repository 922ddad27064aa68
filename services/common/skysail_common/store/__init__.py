"""The only durable state of a cluster, in a server that speaks the Redis protocol."""

from skysail_common.store.keys import Table
from skysail_common.store.owner import Owner, StoreState
from skysail_common.store.store import Contents, RecordChange, Store, Stored

__all__ = ["Contents", "Owner", "RecordChange", "Store", "StoreState", "Stored", "Table"]
