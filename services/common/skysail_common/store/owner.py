"""The owner of a store, and the time at which another may follow it."""

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
    """A management, as others see it in the store."""

    locks: tuple[str, ...]
    """Locks and leases that it holds. No two processes can, so the next holder of one knows that the
    owner is gone."""
    host: str
    """Machine or pod."""
    place: str
    """Data directory and process."""
    since: str
    """When it became the owner, as people read it."""

    def to_json(self) -> str:
        """Return it as the store keeps it."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, text: str) -> "Owner | None":
        """Return the owner that the store names; None if it has none."""
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
    """Empty if no management ever owned it, or its data are lost."""
    epoch: int
    revision: int
    num_records: int
    owner: Owner | None
    renewed: str
    """As stored; empty without an owner."""
    idle_s: float
    """Time since the owner's last renewal, by the server's clock."""

    def holder(self, candidate: Owner) -> Owner | None:
        """Return the owner that keeps a candidate from taking the store; None if it may."""
        if self.owner is None or set(self.owner.locks) & set(candidate.locks):
            return None
        # An instant in the future counts too, because the server's clock may have been set back.
        return self.owner if abs(self.idle_s) <= LEASE_S else None
