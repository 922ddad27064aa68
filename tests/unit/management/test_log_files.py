from contextlib import aclosing
from pathlib import Path

import pytest

from skysail_management.containers.exit_reasons import LOG_READ_BYTES, log_excerpt
from skysail_management.containers.local.log_files import older_log, read_log, read_log_end


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "replica.log"


async def tail(path: Path, num_lines: int) -> list[str]:
    return [line async for line in read_log(path, num_lines, None)]


@pytest.mark.parametrize("num_lines", [1, 2, 3, 5, 100])
async def test_last_lines_span_a_rotation(path: Path, num_lines: int):
    older_log(path).write_text("1\n2\n3\n")
    path.write_text("4\n5\n")
    assert await tail(path, num_lines) == ["1", "2", "3", "4", "5"][-num_lines:]
    # Just rotated, and nothing written since.
    path.write_text("")
    assert await tail(path, num_lines) == ["1", "2", "3"][-num_lines:]


async def test_missing_log_raises(path: Path):
    with pytest.raises(FileNotFoundError):
        await tail(path, 1)


async def test_follow_survives_two_rotations(path: Path):
    path.write_text("0\n")
    # The second look is after the replica has ended.
    looks = iter([False, True])
    async with aclosing(read_log(path, 10, lambda: next(looks, True))) as lines:
        assert await anext(lines) == "0"
        with path.open("a") as file:
            file.write("1\n")
        for number in (2, 3):
            path.replace(older_log(path) if number == 3 else path.with_name("gone"))
            path.write_text(f"{number}\n")
        assert [line async for line in lines] == ["1", "2", "3"]


async def test_unterminated_line_is_yielded_at_the_end(path: Path):
    path.write_text("a\nb")
    async with aclosing(read_log(path, 2, lambda: True)) as lines:
        assert await anext(lines) == "a"
        with path.open("a") as file:
            file.write("b\nc")
        assert [line async for line in lines] == ["bb", "c"]


def test_log_end_spans_a_rotation(path: Path):
    assert read_log_end(path) == b""
    older_log(path).write_text("KeyError: why\n")
    path.write_text("")
    assert log_excerpt(read_log_end(path)) == "KeyError: why\n"
    path.write_text("bye\n")
    assert log_excerpt(read_log_end(path)) == "KeyError: why\nbye\n"


def test_end_of_a_large_log_begins_with_a_whole_line(path: Path):
    line = "x" * 99 + "\n"
    path.write_text(line * (LOG_READ_BYTES // 100 + 50))
    found = read_log_end(path)
    assert LOG_READ_BYTES - 100 <= len(found) <= LOG_READ_BYTES
    assert found.startswith(b"x" * 99 + b"\n")


def test_overlong_line_is_cut_to_its_end(path: Path):
    path.write_text("x" * (2 * LOG_READ_BYTES) + "because\n")
    told = log_excerpt(read_log_end(path))
    assert told.endswith("xbecause\n")
    assert len(told) < 4_000
