import asyncio
import logging

from skysail_model_server import start_progress
from skysail_model_server.start_progress import StartProgress
from skysail_testing.clock import FakeClock


async def test_a_step_is_logged_at_its_start_and_while_it_lasts(monkeypatch, caplog):
    monkeypatch.setattr(start_progress, "_REPORT_EVERY_S", 0.0)
    clock = FakeClock()
    progress = StartProgress(clock)
    with caplog.at_level(logging.INFO):
        progress.begin("loading the model")
        progress.note("warming up, call 2")
        clock.advance(16.4)
        telling = asyncio.create_task(progress.run())
        for _ in range(10):
            await asyncio.sleep(0)
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
    assert caplog.messages[:2] == [
        "replica is not ready yet: loading the model",
        "replica is not ready yet: warming up, call 2, for 16 s",
    ]
