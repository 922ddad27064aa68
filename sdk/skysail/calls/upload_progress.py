"""Events about the progress of an upload."""

from skysail.descriptions import DeployEvent
from skysail.progress import UPLOADING, OnEvent
from skysail_common.clock import MONOTONIC, Clock

_LARGE_BYTES = 16 * 1024 * 1024
"""Smallest upload with events."""
_INTERVAL_S = 0.5


class UploadProgress:
    """The progress of one upload, over all its attempts."""

    def __init__(self, on_event: OnEvent | None, clock: Clock = MONOTONIC) -> None:
        """Report to `on_event`, if it is given, for large uploads and at most twice a second."""
        self._on_event = on_event
        self._clock = clock
        self._total: int | None = None
        self._done = 0
        self._began_at = self._shown_at = clock()
        self._sent = 0

    def begin(self, missing_bytes: int) -> None:
        """Note the bytes that are missing at the beginning of an attempt."""
        if self._total is None:
            self._total = missing_bytes
            self._began_at = self._shown_at = self._clock()
        # A lost blob may be missing again.
        self._total = max(self._total, missing_bytes)
        self._done = self._total - missing_bytes

    def note(self, num_bytes: int) -> None:
        """Note bytes that were sent."""
        assert self._total is not None
        self._done += num_bytes
        self._sent += num_bytes
        now = self._clock()
        if self._on_event is None or self._total < _LARGE_BYTES:
            return
        if now - self._shown_at < _INTERVAL_S and self._done < self._total:
            return
        self._shown_at = now
        rate = self._sent / max(now - self._began_at, 1e-3)
        message = f"uploaded {self._done >> 20} of {self._total >> 20} MiB ({rate / 1e6:.0f} MB/s)"
        event = DeployEvent(
            UPLOADING, message, "", "", 0, 0, bytes_done=self._done, bytes_total=self._total
        )
        self._on_event(event)
