"""Every key in the store.

All keys of a cluster share the hash tag `{skysail:<cluster>}`, so that a Redis Cluster keeps them
in one slot and a script may change several at once.

| key | type | field → value | written by |
|---|---|---|---|
| `{skysail:<cluster>}:applications` | hash | application → record | register, update, route |
| `{skysail:<cluster>}:models` | hash | model → record: current and previous versions | promote, roll back |
| `{skysail:<cluster>}:versions` | hash | model:version → record, immutable | register, deploy |
| `{skysail:<cluster>}:deployments` | hash | model:version → record: desired state | deploy, scale |
| `{skysail:<cluster>}:profiles` | hash | model:version → record: learned latencies | reports of frontends |
| `{skysail:<cluster>}:meta` | hash | see below | every commit, and the owner |

A record is stored as its revision, a line feed, and JSON. The fields of `meta`:

| field | value |
|---|---|
| `format` | version of this layout |
| `id` | random name that the first owner gives to the store; another or no name means that the data were lost |
| `revision` | number of the last commit; it never falls |
| `last_commit` | id of the last commit |
| `secret` | key of the replicas' tokens |
| `epoch` | number of the present owner, which each new owner raises; commits of other epochs are refused |
| `claim` | random name of the present ownership |
| `owner` | the management that owns the store, as JSON; absent after an orderly end |
| `renewed` | time of the owner's last renewal, in milliseconds of the server's clock |
"""

import enum

FORMAT = "2"
"""Version of this layout."""


class Table(enum.Enum):
    """A hash of records."""

    APPLICATIONS = "applications"
    MODELS = "models"
    VERSIONS = "versions"
    DEPLOYMENTS = "deployments"
    PROFILES = "profiles"


def table_key(cluster: str, table: Table) -> str:
    """Return the key of a table."""
    return f"{{skysail:{cluster}}}:{table.value}"


def meta_key(cluster: str) -> str:
    """Return the key of the values of the cluster itself."""
    return f"{{skysail:{cluster}}}:meta"
