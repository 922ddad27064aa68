"""A removed version whose name is used again for another function."""

import numpy as np
import pytest

from skysail import errors


def first(x):
    return x + 1


def second(x):
    return x + 2


def wider(x):
    return x.sum(axis=1, keepdims=True)


for each in (first, second, wider):
    each.__module__ = "__main__"


def deploy(client, function, columns: int) -> None:
    client.deploy(function, name="again", version="1", example=np.zeros((1, columns)))
    client.tune("again", cache_ttl_s=3600)


def remove(client) -> None:
    client.undeploy("again", force=True)
    client.unregister_model("again")


def test_a_new_version_under_an_old_name_is_not_answered_by_the_old_one(client):
    deploy(client, first, 3)
    for _ in range(2):
        assert client.predict("again", np.zeros(3), timeout_s=5).output.tolist() == [1, 1, 1]
    remove(client)
    deploy(client, second, 3)
    assert client.predict("again", np.zeros(3), timeout_s=5).output.tolist() == [2, 2, 2]
    remove(client)
    deploy(client, wider, 4)
    with pytest.raises(errors.InvalidInput):
        client.predict("again", np.zeros(3), timeout_s=5)
    assert client.predict("again", np.ones(4), timeout_s=5).output.tolist() == [4]
    remove(client)
