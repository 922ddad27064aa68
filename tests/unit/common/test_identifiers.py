import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skysail_common.errors import InvalidInput
from skysail_common.identifiers import (
    MAX_NAME_LENGTH,
    ModelVersion,
    ReplicaId,
    check_application_name,
    check_name,
)
from skysail_testing.examples import examples

ends = st.sampled_from(string.ascii_letters + string.digits)
middles = st.text(string.ascii_letters + string.digits + "._-", max_size=MAX_NAME_LENGTH - 2)
names = st.one_of(ends, st.builds("{}{}{}".format, ends, middles, ends))
versions = st.builds(ModelVersion, names, names)
replicas = st.builds(ReplicaId, versions, st.integers(0, 999_999_999))
# The strategy mixes near misses of legal names with arbitrary texts.
near_texts = st.one_of(st.text(), st.text("a0.-_:/ \n", max_size=70))


@settings(max_examples=examples(50))
@given(versions)
def test_a_version_is_read_back_from_its_text(version):
    assert ModelVersion.parse(str(version)) == version


@settings(max_examples=examples(50))
@given(replicas)
def test_a_replica_is_read_back_from_its_text(replica):
    assert ReplicaId.parse(str(replica)) == replica


@settings(max_examples=examples(50))
@given(near_texts)
def test_a_text_is_a_version_only_if_it_is_that_version_s_text(text):
    try:
        version = ModelVersion.parse(text)
    except InvalidInput:
        return
    assert str(version) == text


@settings(max_examples=examples(50))
@given(st.one_of(near_texts, st.builds("a:1/{}".format, near_texts)))
def test_a_text_is_a_replica_only_if_it_is_that_replica_s_text(text):
    try:
        replica = ReplicaId.parse(text)
    except InvalidInput:
        return
    assert str(replica) == text


@settings(max_examples=examples(50))
@given(names)
def test_every_legal_name_is_returned_as_it_is(name):
    assert check_name("model", name) == name


@pytest.mark.parametrize("name", ["a", "0", "1.0", "2024-06-01", "a_b", "A" * MAX_NAME_LENGTH])
def test_names_that_people_give_are_legal(name):
    assert check_name("version", name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "-a",
        "a-",
        ".",
        "..",
        ".a",
        "_a",
        "a_",
        "a b",
        "a/b",
        "a:b",
        "a\n",
        "\na",
        "a\0",
        "é",
        "٣",
        "A" * (MAX_NAME_LENGTH + 1),
        "../../etc/passwd",
        "a" * 1_000_000,
    ],
    ids=lambda name: ascii(name[:20]),
)
def test_the_error_about_a_bad_name_has_its_kind_and_its_beginning(name):
    with pytest.raises(InvalidInput) as caught:
        check_name("cluster", name)
    assert caught.value.message.startswith("cluster ")
    assert "is not a legal name" in caught.value.message
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("name", ["v1", "v2", "metrics", "health", "admin", "docs"])
def test_an_application_cannot_have_the_name_of_an_http_path(name):
    with pytest.raises(InvalidInput, match="HTTP paths begin with it"):
        check_application_name(name)
    assert check_name("model", name) == name


def test_an_application_may_have_any_other_legal_name():
    assert check_application_name("v3") == "v3"
    with pytest.raises(InvalidInput, match="application 'a b'"):
        check_application_name("a b")


@pytest.mark.parametrize("text", ["", "sum", ":", "sum:", ":3", "sum:3:4", "sum 3", "sum:3/0"])
def test_a_text_that_is_not_a_version_is_refused(text):
    with pytest.raises(InvalidInput):
        ModelVersion.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sum:3",
        "sum:3/",
        "sum:3/-1",
        "sum:3/+1",
        "sum:3/01",
        "sum:3/1_0",
        "sum:3/٣",
        "sum:3/0 ",
        "sum:3/0\n",
        "sum/0",
        "/0",
        "sum:3//0",
        "sum:3/" + "9" * 5000,
    ],
    ids=lambda text: ascii(text[:20]),
)
def test_a_text_that_is_not_a_replica_is_refused(text):
    with pytest.raises(InvalidInput):
        ReplicaId.parse(text)


def test_a_checked_version_has_legal_names():
    assert ModelVersion.checked("sum", "3") == ("sum", "3")
    with pytest.raises(InvalidInput, match="model 'a/b'"):
        ModelVersion.checked("a/b", "3")
    with pytest.raises(InvalidInput, match="version ''"):
        ModelVersion.checked("sum", "")


def test_replicas_are_ordered_by_index_within_a_version():
    texts = ["sum:1/10", "sum:1/2", "add:1/3"]
    found = sorted(ReplicaId.parse(text) for text in texts)
    assert [str(replica) for replica in found] == ["add:1/3", "sum:1/2", "sum:1/10"]
