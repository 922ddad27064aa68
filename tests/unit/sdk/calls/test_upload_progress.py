from skysail.calls.upload_progress import UploadProgress
from skysail.descriptions import DeployEvent
from skysail_testing.clock import FakeClock

MIB = 2**20


def events_of(total: int, clock: FakeClock, *steps: tuple[int, float]) -> list[DeployEvent]:
    """Return the events of an upload whose steps send bytes after seconds."""
    events: list[DeployEvent] = []
    progress = UploadProgress(events.append, clock)
    progress.begin(total)
    for num_bytes, seconds in steps:
        clock.advance(seconds)
        progress.note(num_bytes)
    return events


def test_a_small_upload_has_no_events(clock: FakeClock):
    assert events_of(15 * MIB, clock, (15 * MIB, 10.0)) == []


def test_a_large_upload_tells_bytes_and_rate(clock: FakeClock):
    first, last = events_of(100 * MIB, clock, (50 * MIB, 1.0), (50 * MIB, 0.1))
    assert first.step == "UPLOADING"
    assert first.message == "uploaded 50 of 100 MiB (52 MB/s)"
    assert (first.bytes_done, first.bytes_total) == (50 * MIB, 100 * MIB)
    # The end is told at once.
    assert (last.bytes_done, last.bytes_total) == (100 * MIB, 100 * MIB)


def test_events_come_at_most_twice_a_second(clock: FakeClock):
    events = events_of(1000 * MIB, clock, *[(MIB, 0.1)] * 100)
    assert len(events) == 20


def test_a_second_attempt_goes_on_counting(clock: FakeClock):
    events: list[DeployEvent] = []
    progress = UploadProgress(events.append, clock)
    progress.begin(100 * MIB)
    progress.note(60 * MIB)
    # Some of the bytes were not stored.
    progress.begin(50 * MIB)
    clock.advance(1.0)
    progress.note(10 * MIB)
    assert events[-1].bytes_done == 60 * MIB
    assert events[-1].bytes_total == 100 * MIB


def test_blobs_that_are_missing_again_raise_the_total(clock: FakeClock):
    events: list[DeployEvent] = []
    progress = UploadProgress(events.append, clock)
    progress.begin(50 * MIB)
    progress.begin(100 * MIB)
    progress.note(100 * MIB)
    assert (events[-1].bytes_done, events[-1].bytes_total) == (100 * MIB, 100 * MIB)
