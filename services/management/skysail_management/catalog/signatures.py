"""Signatures that the first replica of a version learns."""

from skysail_common.artifacts import SignatureRecord
from skysail_common.errors import InputTypeMismatch
from skysail_common.identifiers import ModelVersion
from skysail_common.tensors import Signature, TensorSpec
from skysail_management.records import Records


async def learn_signature(
    records: Records, version: ModelVersion, artifact_sha256: str, learned: Signature | None
) -> str:
    """Record the signature that a replica has learned, and return why its replica is unusable.

    Args:
        records: The records.
        version: The version of the replica.
        artifact_sha256: The artifact of the replica.
        learned: What the replica learned; None if the artifact states its signature.

    Returns:
        An empty text if the replica fits the version.

    Raises:
        SkysailError: the records cannot be changed now.
    """
    record = records.versions.get(str(version))
    if learned is None and record is not None and record.to_signature().is_known:
        # A known signature does not change, so that the replica becomes ready without a wait for the lock.
        return ""
    async with records.lock:
        record = records.versions.get(str(version))
        if record is None or record.artifact_sha256 != artifact_sha256:
            # The reconciler stops a replica of other content.
            return ""
        known = record.to_signature()
        if known.is_known:
            return "" if learned == known else _difference(known, learned)
        if learned is None or not learned.is_known:
            return (
                "it cannot learn the inputs and outputs of the model; deploy it from a machine that "
                "can run it"
            )
        changed = record.model_copy(update={"signature": SignatureRecord.of(learned)})
        try:
            await records.commit([records.versions.put(str(version), changed)])
        except InputTypeMismatch as error:
            return error.message
    return ""


def _difference(known: Signature, learned: Signature | None) -> str:
    """Describe the first difference between two signatures."""
    assert learned is not None
    pairs = (("input", known.inputs, learned.inputs), ("output", known.outputs, learned.outputs))
    for kind, before, after in pairs:
        if before != after:
            return (
                f"its model has the {kind}s {_specs(after)}, and that of an earlier replica has "
                f"{_specs(before)}; every replica must learn the same ones"
            )
    return ""


def _specs(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype.name} {list(spec.shape)}" for spec in specs)
