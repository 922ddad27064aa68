"""The only durable state: a server that speaks the Redis protocol."""

from skysail_common.store.keys import Table
from skysail_common.store.owner import Owner, StoreState
from skysail_common.store.store import Change, Contents, Store, Stored

__all__ = ["Change", "Contents", "Owner", "Store", "StoreState", "Stored", "Table"]
