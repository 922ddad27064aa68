import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.identifiers import ModelVersion
from skysail_common.tokens import is_token_of, replica_token
from skysail_testing.examples import examples

VERSION = ModelVersion("sum", "3")
SHA256 = "ab" * 32


def test_a_token_depends_on_version_content_and_secret():
    token = replica_token("secret", VERSION, SHA256)
    assert is_token_of(token, "secret", VERSION, SHA256)
    assert not is_token_of(token, "secret", ModelVersion("sum", "4"), SHA256)
    assert not is_token_of(token, "other secret", VERSION, SHA256)


def test_a_token_does_not_fit_later_content_under_the_same_name():
    assert not is_token_of(replica_token("secret", VERSION, SHA256), "secret", VERSION, "cd" * 32)


def test_a_token_is_stable_after_a_restart_and_reveals_nothing():
    token = replica_token("secret", VERSION, SHA256)
    assert len(token) == 64
    assert token == replica_token("secret", VERSION, SHA256)
    assert "secret" not in token
    assert "sum" not in token


@pytest.mark.parametrize("token", ["", "é", "\0", "a" * 64])
def test_an_invalid_token_is_refused(token):
    assert not is_token_of(token, "secret", VERSION, SHA256)


@settings(max_examples=examples(30))
@given(st.text(), st.integers(0, 63), st.characters(exclude_categories=["Cs"]))
def test_a_token_with_another_character_is_refused(secret, place, character):
    token = replica_token(secret, VERSION, SHA256)
    changed = token[:place] + character + token[place + 1 :]
    assert is_token_of(changed, secret, VERSION, SHA256) == (changed == token)
