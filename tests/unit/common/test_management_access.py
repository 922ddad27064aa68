from pathlib import Path

import pytest

from skysail_common.errors import FailedPrecondition
from skysail_common.rpc.management_access import (
    ManagementAccess,
    bearer,
    is_same_token,
    read_token,
    token_of,
)

TOKEN = "0123456789abcdef"


def test_a_token_is_read_without_white_space_around_it(tmp_path: Path):
    path = tmp_path / "token"
    path.write_text(f"  {TOKEN}\n")
    assert read_token(path) == TOKEN


@pytest.mark.parametrize("text", ["", "\n", "short", f"{TOKEN}\n{TOKEN}", "é" * 20, "\0" * 20])
def test_an_unusable_token_is_refused(tmp_path: Path, text: str):
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(FailedPrecondition, match=r"cannot use the token in .*openssl rand"):
        read_token(path)


def test_the_error_names_an_unreadable_file(tmp_path: Path):
    with pytest.raises(FailedPrecondition, match=r"cannot read .*none: no such file"):
        read_token(tmp_path / "none")
    with pytest.raises(
        FailedPrecondition, match=r"no such file or directory; set SKYSAIL_A_FILE to"
    ):
        read_token(tmp_path / "none", "SKYSAIL_A_FILE")
    access = ManagementAccess(ca_file=tmp_path / "none")
    with pytest.raises(FailedPrecondition, match=r"cannot read .*none: no such file"):
        access.open_channel("somewhere:8003")


def test_a_token_is_hidden_in_the_repr():
    assert TOKEN not in repr(ManagementAccess(TOKEN))


def test_a_call_has_a_token_or_none():
    assert token_of(dict([bearer(TOKEN)])) == TOKEN
    assert token_of({}) == ""
    assert token_of({"authorization": b"bytes"}) == ""
    assert is_same_token(TOKEN, TOKEN)
    assert not is_same_token("", TOKEN)
    assert not is_same_token("é", TOKEN)
