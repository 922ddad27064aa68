"""Who may lead, decided from what a lease says and from when that was seen to change.

    nobody holds it, or we do ─────────────────────► take it
    another does, and its spec changed just now ───► wait
    … and has not changed for its duration ────────► take it

The clocks of two machines are never compared: the instants in a lease are for people, and each
watcher times by its own clock how long nothing has changed.

Source: client-go, tools/leaderelection, `tryAcquireOrRenew`. Changed: a lease that is not there is
not made (whoever deletes it wants it gone), and the times follow from one.
"""

from dataclasses import dataclass
from datetime import datetime, timezone

from skysail_common.clock import Clock
from skysail_common.kubernetes.kinds import Object


@dataclass(frozen=True)
class LeaseTimes:
    """Times of a lease; client-go's are 15, 10 and 2 s."""

    duration_s: int
    """Time without a change after which another may take it."""

    @property
    def renew_deadline_s(self) -> float:
        """Time after the last renewal at which the holder stops to work."""
        return self.duration_s * 2 / 3

    @property
    def renew_every_s(self) -> float:
        """Time between renewals."""
        return self.duration_s * 2 / 15

    @property
    def look_every_s(self) -> float:
        """Time between looks of who waits: one that was let go of is soon taken."""
        return self.duration_s / 15

    @property
    def attempt_s(self) -> float:
        """Longest time of one attempt; one that hangs leaves time for another."""
        return self.duration_s / 3


class Election:
    """What one candidate knows of a lease."""

    def __init__(self, identity: str, duration_s: int, clock: Clock) -> None:
        """Starts before the first look.

        Args:
            identity: Name of the candidate, unique among all.
            duration_s: Duration that it gives to the lease.
            clock: Its own clock.
        """
        self._identity = identity
        self._duration_s = duration_s
        self._clock = clock
        self._spec: Object = {}
        self._changed_at = clock()

    @property
    def holder(self) -> str:
        """Who holds the lease; empty if nobody."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def is_ours(self) -> bool:
        """True while the candidate is the holder."""
        return self.holder == self._identity

    def observe(self, lease: Object) -> None:
        """Take note of what a lease says now."""
        spec = lease.get("spec") or {}
        if spec != self._spec:
            self._spec = spec
            self._changed_at = self._clock()

    def may_take(self) -> bool:
        """Return whether the candidate may write itself into the lease that it saw last."""
        if not self.holder or self.is_ours:
            return True
        # What its holder goes by counts, not what we would.
        duration_s = self._spec.get("leaseDurationSeconds") or self._duration_s
        return self._clock() >= self._changed_at + duration_s

    def claim(self) -> Object:
        """Return the spec by which the candidate takes the lease, or keeps it."""
        stamp = _now()
        claim = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._duration_s,
            "renewTime": stamp,
        }
        if not self.is_ours:
            claim["acquireTime"] = stamp
            claim["leaseTransitions"] = (self._spec.get("leaseTransitions") or 0) + 1
        return {**self._spec, **claim}

    def release_spec(self) -> Object:
        """Return the spec by which the candidate lets go of the lease."""
        return {**self._spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
