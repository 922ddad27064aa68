"""The election of a leader from the content of a lease and the time of its last change.

    no holder, or this candidate ──────────────────► take the lease
    another holder, and the spec changed recently ─► wait
    another holder, unchanged for its duration ────► take the lease

The clocks of two machines are never compared: the timestamps in a lease are for people. Each
candidate measures by its own clock how long the lease is unchanged.

Source: client-go, tools/leaderelection, `tryAcquireOrRenew`. Changed: a missing lease is not
created (someone deleted it on purpose), and all times follow from one.
"""

from dataclasses import dataclass
from datetime import datetime, timezone

from skysail_common.clock import Clock
from skysail_common.kubernetes.kinds import Object


@dataclass(frozen=True)
class LeaseTimes:
    """Times of a lease; client-go uses 15, 10 and 2 s."""

    duration_s: int
    """Time without a change after which another candidate may take the lease, in seconds."""

    @property
    def renew_deadline_s(self) -> float:
        """Time after the last renewal at which the holder exits."""
        return self.duration_s * 2 / 3

    @property
    def renew_every_s(self) -> float:
        """Time between renewals."""
        return self.duration_s * 2 / 15

    @property
    def look_every_s(self) -> float:
        """Time between polls of a candidate, short so that a released lease is soon taken."""
        return self.duration_s / 15

    @property
    def attempt_s(self) -> float:
        """Timeout of one attempt, short enough for a second one."""
        return self.duration_s / 3


class Election:
    """The state of a lease at one candidate."""

    def __init__(self, identity: str, duration_s: int, clock: Clock) -> None:
        """Create the state before the first observation.

        Args:
            identity: Name of the candidate, unique among all.
            duration_s: Duration that the candidate writes into the lease.
            clock: Clock of the candidate.
        """
        self._identity = identity
        self._duration_s = duration_s
        self._clock = clock
        self._spec: Object = {}
        self._changed_at = clock()

    @property
    def holder(self) -> str:
        """Identity of the holder; empty without one."""
        return str(self._spec.get("holderIdentity") or "")

    @property
    def is_ours(self) -> bool:
        """True while the candidate is the holder."""
        return self.holder == self._identity

    def observe(self, lease: Object) -> None:
        """Record the present content of the lease."""
        spec = lease.get("spec") or {}
        if spec != self._spec:
            self._spec = spec
            self._changed_at = self._clock()

    def may_take(self) -> bool:
        """Return whether the candidate may take the lease that it last observed."""
        if not self.holder or self.is_ours:
            return True
        # The duration of the holder counts, not that of the candidate.
        duration_s = self._spec.get("leaseDurationSeconds") or self._duration_s
        return self._clock() >= self._changed_at + duration_s

    def claim(self) -> Object:
        """Return the spec with which the candidate takes or renews the lease."""
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
        """Return the spec with which the candidate releases the lease."""
        return {**self._spec, "holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": _now()}


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
