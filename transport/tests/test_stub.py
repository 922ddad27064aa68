"""The stub matches the module."""

import inspect
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import skysail_transport as st
from harness import BIDI, ECHO, Raw, Server, message

# Names that only the type checker knows, and attributes that only PyO3 adds.
ONE_SIDED = ["Call", "Event", "MetadataToSend", "Reply", "__all__"]


def test_stub_and_module_agree(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    allowed = tmp_path / "allowed"
    allowed.write_text("".join(f"skysail_transport._engine.{name}\n" for name in ONE_SIDED))
    command = [sys.executable, "-m", "mypy.stubtest", "skysail_transport"]
    command += ["--allowlist", str(allowed)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


def test_all_names_exist() -> None:
    public = {name for name, _ in inspect.getmembers(st) if not name.startswith("_")}
    assert {*public, "__version__"} == set(st.__all__)


@pytest.mark.parametrize("limits", [{"stream_window": 1 << 31}, {"keepalive_s": -1},
                                    {"keepalive_s": float("nan")}, {"max_message_bytes": 1 << 32}])  # fmt: skip
def test_limits_out_of_range(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"at most|from 0 to a year"):
        st.Limits(**limits)


@pytest.mark.parametrize(
    "replies",
    [[(1,)], [1], [(1, "text")], [(1, 3, "x", None)], [(1, -3, "x", None, None)], [(-1, b"")]],
)
def test_malformed_replies(replies: list) -> None:
    engine = st.Engine()
    with pytest.raises((TypeError, OverflowError)):
        engine.flush(replies)
    engine.close()


@pytest.mark.parametrize("pair", [("X-Upper", "1"), ("grpc-status", "0"), ("x", "a\nb"), ("", "1")])
def test_trailers_that_cannot_be_sent(pair: tuple[str, str]) -> None:
    engine = st.Engine()
    with pytest.raises(ValueError, match=r"is not a metadata key|is not printable"):
        engine.flush([(1, 0, "", [pair], b"")])
    engine.close()


def test_ids_of_ended_calls_are_ignored(server: Server) -> None:
    engine = server.engine
    for id in (0, 1, 1 << 40, (1 << 64) - 1):
        engine.flush([(id, b"x"), (id, 5, "x", None, None)], [(id, b"x")], [(id, 1)])
        engine.cancel(id)
        engine.accept(id)
        engine.finish_sending(id)
        assert engine.unsent(id) == 0


def test_take_waits_without_the_interpreter(has_own_thread: bool) -> None:
    engine = st.Engine(has_own_thread=has_own_thread)
    port = engine.listen("127.0.0.1:0", unary=[ECHO], streams=[BIDI])
    done = threading.Event()

    def send() -> None:
        raw = Raw(port)
        raw.call(1, message(b"hello"))
        done.wait(10)
        raw.close()

    sender = threading.Thread(target=send)
    sender.start()
    calls: list = []
    while not calls:
        calls = engine.take(-1)[0]
    assert calls[0][1:4] == (ECHO, b"hello", None)
    assert calls[0][4].pairs() == []
    done.set()
    sender.join()
    engine.close()
    assert engine.take(-1) == ([], [])
