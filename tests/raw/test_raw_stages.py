"""Stages are kept by the content of what they are made from."""

import os
from pathlib import Path

import pytest

from bjepa.preproc.files import sha256_of_file, write_json
from bjepa.preproc.raw import stages
from bjepa.preproc.raw.stages import content_sha256, finished, stage_key


def test_a_stage_is_finished_only_with_its_key_and_all_products(tmp_path: Path) -> None:
    product, sidecar = tmp_path / "image.nii.gz", tmp_path / "image.json"
    assert finished(sidecar, "a", [product]) is None
    write_json(sidecar, {"key": "a", "told": 3})
    assert finished(sidecar, "a", [product]) is None
    product.write_bytes(b"x")
    assert finished(sidecar, "a", [product]) == {"key": "a", "told": 3}
    assert finished(sidecar, "b", [product]) is None


@pytest.mark.parametrize("broken", ["", "[1]", '{"key": "a"', "null"])
def test_a_damaged_sidecar_is_a_stage_to_be_done(tmp_path: Path, broken: str) -> None:
    sidecar = tmp_path / "image.json"
    sidecar.write_text(broken)
    assert finished(sidecar, "a", []) is None


def test_keys_differ_by_stage_and_by_each_thing_it_is_made_from() -> None:
    keys = [stage_key("a", 1, "x"), stage_key("b", 1, "x"), stage_key("a", 2, "x"), stage_key("a", 1, "y")]
    assert len(set(keys)) == 4
    assert stage_key("a", {"p": 1, "q": 2}) == stage_key("a", {"q": 2, "p": 1})


def test_a_hash_follows_the_content_and_is_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, path = tmp_path / "out", tmp_path / "t1w.nii.gz"
    path.write_bytes(b"first")
    first = content_sha256(path, output)
    calls: list[Path] = []

    def watched(read: Path) -> str:
        calls.append(read)
        return sha256_of_file(read)

    monkeypatch.setattr(stages, "sha256_of_file", watched)
    assert content_sha256(path, output) == first and calls == []
    os.utime(path, ns=(1, 1))  # copied anew: read again, the same content
    assert content_sha256(path, output) == first and calls == [path]
    path.write_bytes(b"other")
    assert content_sha256(path, output) != first


def test_a_damaged_memory_is_not_believed(tmp_path: Path) -> None:
    output, path = tmp_path / "out", tmp_path / "t1w.nii.gz"
    path.write_bytes(b"first")
    first = content_sha256(path, output)
    for note in (output / "work" / "raw" / "hashes").glob("*.json"):
        note.write_text("{")
    assert content_sha256(path, output) == first
