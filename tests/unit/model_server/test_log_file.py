import stat
import subprocess
import sys
import textwrap
from pathlib import Path


def run(path: Path, program: str) -> None:
    """Run a program in a separate process, because a log file replaces descriptors 1 and 2."""
    head = "import os, subprocess, sys\nfrom pathlib import Path\n" + (
        "from skysail_model_server.log_file import LogFile\npath = Path(sys.argv[1])\n"
    )
    subprocess.run(
        [sys.executable, "-c", head + textwrap.dedent(program), str(path)],
        timeout=30,
        check=True,
    )


def test_output_and_errors_go_to_the_file_in_order(tmp_path: Path):
    path = tmp_path / "replica.log"
    path.write_text("of before\n")
    run(
        path,
        """
        LogFile(path, 10_000).rotate_if_full()
        print("printed", flush=True)
        sys.stderr.write("error\\n")
        os.write(1, b"from C\\n")
        subprocess.run(["echo", "of a child"], check=True)
        """,
    )
    assert path.read_text() == "of before\nprinted\nerror\nfrom C\nof a child\n"
    assert not path.with_name("replica.log.1").exists()


def test_a_full_file_is_rotated_without_losing_a_line_and_one_older_is_kept(tmp_path: Path):
    path = tmp_path / "replica.log"
    run(
        path,
        """
        file = LogFile(path, 1000)
        for number in range(400):
            os.write(1 + number % 2, b"line %03d\\n" % number)
            if number % 10 == 0:
                file.rotate_if_full()
        """,
    )
    older = path.with_name("replica.log.1").read_text()
    newer = path.read_text()
    numbers = [int(line.split()[1]) for line in (older + newer).splitlines()]
    assert numbers == list(range(numbers[0], 400)), "the last lines, in order, none missing"
    assert 1000 <= len(older) < 1200
    assert len(newer) < 1200
    assert sorted(each.name for each in tmp_path.iterdir()) == ["replica.log", "replica.log.1"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_child_process_keeps_writing_to_its_file(tmp_path: Path):
    path = tmp_path / "replica.log"
    run(
        path,
        """
        file = LogFile(path, 10)
        child = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        os.write(1, b"more than ten bytes\\n")
        file.rotate_if_full()
        child.communicate(b"late\\n")
        os.write(1, b"new\\n")
        """,
    )
    assert path.with_name("replica.log.1").read_text() == "more than ten bytes\nlate\n"
    assert path.read_text() == "new\n"
