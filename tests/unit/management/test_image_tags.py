"""Which images the versions of a cluster need."""

from dataclasses import replace

import pytest

from skysail_common.identifiers import ModelVersion
from skysail_management.containers.base import VersionSpec
from skysail_management.containers.docker.image_tags import (
    BaseImage,
    ImageTags,
    files_tag,
    packages_tag,
)

BASE = BaseImage("sha256:1", {"Labels": {"ai.skysail.python": "3.11.2"}})
VERSION = VersionSpec(ModelVersion("m", "1"), "a" * 64, "3.11.7", ("numpy",))
FILES = files_tag(BASE, "data/model.onnx b")


@pytest.mark.parametrize("mounts_files", [True, False])
def test_a_version_needs_its_image_and_that_of_its_packages(mounts_files: bool):
    tags = ImageTags(mounts_files=mounts_files)
    found = {tags.version(BASE, VERSION): {}, packages_tag(BASE, VERSION): {}, FILES: {}}
    assert tags.needed(found, BASE, [VERSION]) == found.keys() - {FILES}
    assert tags.needed(found, BASE, []) == set()


def test_an_image_with_all_files_differs_from_one_that_lacks_some():
    first, second = ImageTags(mounts_files=True), ImageTags(mounts_files=False)
    assert first.version(BASE, VERSION) != second.version(BASE, VERSION)


def test_the_image_of_large_files_is_needed_as_long_as_one_of_a_version_is_built_on_it():
    tags = ImageTags(mounts_files=False)
    own = tags.version(BASE, VERSION)
    found = {own: {"ai.skysail.files": FILES}, FILES: {}, "files-other": {}}
    assert FILES in tags.needed(found, BASE, [VERSION])
    assert "files-other" not in tags.needed(found, BASE, [VERSION])


def test_no_image_of_large_files_goes_while_a_version_is_being_built():
    tags = ImageTags(mounts_files=False)
    assert FILES in tags.needed({FILES: {}}, BASE, [VERSION])


def test_a_version_keeps_its_image_when_the_base_gets_another_python():
    tags = ImageTags(mounts_files=False)
    newer = BaseImage("sha256:2", {"Labels": {"ai.skysail.python": "3.12.1"}})
    labels = {
        "ai.skysail.artifact": VERSION.artifact_sha256,
        "ai.skysail.python": "3.11.2",
        "ai.skysail.files": FILES,
    }
    found = {tags.version(BASE, VERSION): labels, FILES: {}}
    assert found.keys() <= tags.needed(found, newer, [VERSION])
    other = replace(VERSION, artifact_sha256="c" * 64)
    assert tags.version(BASE, VERSION) not in tags.needed(found, newer, [other])
