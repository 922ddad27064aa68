"""Wheels of the client that travel to a local cluster."""

from pathlib import Path

import skysail
from skysail_testing.container_managers import make_wheel


def test_a_wheel_travels_and_its_content_decides(client: skysail.Client, tmp_path: Path):
    def answer(texts):
        import own_wheel

        return [own_wheel.ANSWER for _ in texts]

    def deploy(name: str, value: str) -> object:
        wheel = make_wheel(tmp_path, "own_wheel", f"ANSWER = {value!r}")
        client.deploy(
            answer, name=name, input_type="strings", check=False, pkgs_to_install=[str(wheel)]
        )
        # The cluster no longer needs the file.
        wheel.unlink()
        return client.predict(name, "?").output

    # The file has the same name and version, but other content.
    assert deploy("first", "one") == "one"
    assert deploy("second", "two") == "two"
    assert client.predict("first", "?").output == "one"
