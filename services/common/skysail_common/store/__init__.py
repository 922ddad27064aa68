"""The only durable state: a server that speaks the Redis protocol."""

from skysail_common.store.keys import Table
from skysail_common.store.store import Change, Store, Stored

__all__ = ["Change", "Store", "Stored", "Table"]
