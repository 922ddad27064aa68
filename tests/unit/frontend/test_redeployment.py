"""Redeployed versions with other content, in some cases with another signature."""

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


def test_queries_queued_for_old_content_fail_and_are_not_sent_to_the_new():
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


def test_a_query_validated_for_old_content_is_refused_by_the_new():
    frontend = Frontend(OLD)
    query = frontend.query()
    frontend.apply(NEW)
    replica = frontend.add_replica()
    frontend.dispatcher.submit(query)
    frontend.loop.turn()
    assert refused(frontend, query)
    assert replica.sent == []


@pytest.mark.parametrize("end", ["cancelled", "expired", "answered", "lost"])
def test_batches_in_flight_of_old_content_leave_no_trace_in_the_new(end):
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


def test_redeploying_the_same_content_keeps_its_latencies():
    frontend = Frontend(OLD)
    version = frontend.version()
    frontend.apply(served(max_batch_size=4, artifact_sha256="old"))
    assert frontend.version() is version
    assert version.served.serving.max_batch_size == 4


@pytest.mark.parametrize("after", [NEW, served("m:2", artifact_sha256="old")])
def test_versions_of_another_name_or_content_have_another_identity(after: ServedVersion):
    assert after.identity != OLD.identity
