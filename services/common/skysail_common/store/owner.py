"""The owner of a store, and the lease after which another management may take the store."""

import dataclasses
import json
from dataclasses import dataclass
from datetime import datetime, timezone

LEASE_S = 15.0
"""Time without a renewal after which any management may take a store."""

RENEW_EVERY_S = 5.0
"""Time between two renewals."""


@dataclass(frozen=True)
class Owner:
    """The management that owns a store, as recorded in the store."""

    locks: tuple[str, ...]
    """Locks and leases of the owner. A lock has one holder, so that its next holder knows that the
    owner has ended."""
    host: str
    """Machine or pod."""
    place: str
    """Data directory and process."""
    since: str
    """Start of the ownership, for people."""

    def to_json(self) -> str:
        """Return the JSON of the owner for the store."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, text: str) -> "Owner | None":
        """Return the owner from the JSON of the store; None if the text is empty."""
        if not text:
            return None
        try:
            values = json.loads(text)
            names = ("host", "place", "since")
            return cls(tuple(values["locks"]), *(str(values[name]) for name in names))
        except (ValueError, KeyError, TypeError):
            # A record that another Skysail wrote still names an owner.
            return cls((), "another version of Skysail", text[:100], "")

    def __str__(self) -> str:
        return f"{self.host} ({self.place}), since {self.since or 'an unknown time'}"


def present_time() -> str:
    """Return the time of the wall clock, for people."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")


@dataclass(frozen=True)
class StoreState:
    """A store at one instant."""

    id: str
    """Name of the store; empty if no management ever owned it, or its data are lost."""
    epoch: int
    revision: int
    num_records: int
    owner: Owner | None
    renewed: str
    """Stored time of the last renewal; empty without an owner."""
    idle_s: float
    """Time since the owner's last renewal, by the server's clock."""

    def holder(self, candidate: Owner) -> Owner | None:
        """Return the owner that prevents a candidate from taking the store; None if it may."""
        if self.owner is None or set(self.owner.locks) & set(candidate.locks):
            return None
        # An instant in the future counts too, because the server's clock may have been set back.
        return self.owner if abs(self.idle_s) <= LEASE_S else None
