"""A version that is deployed again under its name, with other content and perhaps another signature."""

import pytest

from skysail_common.errors import NoReadyReplica
from skysail_common.tensors import DataType, TensorSpec
from skysail_frontend.core.query import Outcome
from skysail_frontend.core.routes import ServedVersion
from unit.frontend.parts import Frontend, served, signature_of

OLD = served(artifact_sha256="old")
NEW = served(
    signature=signature_of(TensorSpec("x", DataType.INT32, (-1, 7))), artifact_sha256="new"
)


def refused(frontend: Frontend, query) -> bool:
    error = frontend.settled[query].error
    return isinstance(error, NoReadyReplica)


def test_what_waits_for_the_old_is_told_so_and_never_sent_to_the_new():
    frontend = Frontend(OLD)
    frontend.replica.is_ready = False
    query = frontend.submit(within_s=5.0)
    frontend.loop.turn()
    frontend.apply(NEW)
    replica = frontend.add_replica()
    frontend.loop.turn()
    assert refused(frontend, query)
    assert "retry" in frontend.settled[query].error.message
    assert replica.sent == []
    assert frontend.dispatcher.num_unsettled == 0


def test_a_query_that_was_checked_for_the_old_is_refused_by_the_new():
    frontend = Frontend(OLD)
    query = frontend.query()
    frontend.apply(NEW)
    replica = frontend.add_replica()
    frontend.dispatcher.submit(query)
    frontend.loop.turn()
    assert refused(frontend, query)
    assert replica.sent == []


@pytest.mark.parametrize("end", ["cancelled", "expired", "answered", "lost"])
def test_what_the_old_has_in_hand_ends_without_a_trace_in_the_new(end):
    frontend = Frontend(OLD)
    old_replica = frontend.replica
    query = frontend.submit(within_s=0.1)
    frontend.loop.turn()
    frontend.apply(NEW)
    replica = frontend.add_replica()
    if end == "cancelled":
        frontend.dispatcher.cancel(query)
    elif end == "expired":
        frontend.loop.advance(0.2)
    elif end == "answered":
        old_replica.answer()
        assert frontend.settled[query].outcome is Outcome.OK
    else:
        old_replica.lose()
    frontend.loop.turn()
    assert frontend.dispatcher.num_unsettled == 0
    assert replica.sent == []
    version = frontend.version()
    assert len(version.queue) == 0
    assert version.batcher.profile.is_empty


def test_the_same_content_again_keeps_what_was_learned():
    frontend = Frontend(OLD)
    version = frontend.version()
    frontend.apply(served(max_batch_size=4, artifact_sha256="old"))
    assert frontend.version() is version
    assert version.served.serving.max_batch_size == 4


@pytest.mark.parametrize("after", [NEW, served("m:2", artifact_sha256="old")])
def test_versions_of_other_name_or_content_are_told_apart(after: ServedVersion):
    assert after.identity != OLD.identity
