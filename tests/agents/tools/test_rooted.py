from __future__ import annotations

import os
import stat
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelworks.agents.tools.rooted import FileError, Rooted


@pytest.fixture
def place(tmp_path: Path) -> Rooted:
    """A root with files, folders and links, beside a secret; `tmp_path / "root"`."""
    root = tmp_path / "root"
    (root / "in" / "deep").mkdir(parents=True)
    (root / "in" / "file").write_text("inside")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to("..")
    (root / "out").symlink_to(tmp_path / "outside")
    (root / "within").symlink_to("in")
    return Rooted(root)


_PARTS = "in deep file .. link up out within new".split()


@given(st.lists(st.sampled_from([*_PARTS, ".", "", "secret", "/"]), max_size=6))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_leads_out(place: Rooted, parts: list[str]) -> None:
    """Held to `realpath`: what is read is below the root, and the same file."""
    path = "/".join(parts)
    try:
        data = place.read(path, 100)
    except FileError:
        return
    real = os.path.realpath(f"{place.root}/{path}")
    assert real.startswith(os.path.realpath(place.root) + "/")
    assert data == Path(real).read_bytes() == b"inside"


@given(st.lists(st.sampled_from(_PARTS), min_size=1, max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_nothing_outside_is_written(place: Rooted, parts: list[str]) -> None:
    outside = Path(place.root).parent
    with suppress(FileError):
        place.write("/".join(parts), b"harm")
    assert (outside / "secret").read_text() == (outside / "outside" / "file").read_text() == "secret"
    assert sorted(path.name for path in outside.iterdir()) == ["outside", "root", "secret"]
    assert [path.name for path in (outside / "outside").iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/passwd", "is absolute"),
        ("~/x", "is absolute"),
        ("in/../../secret", "leads out"),
        ("link", "is a link"),
        ("out/file", "through a link"),
        ("within/file", "through a link"),
        ("in/file/x", "no folder"),
        ("none", "does not exist"),
        ("in", "is a folder"),
        ("", "the folder itself"),
        ("a\0b", "null"),
        ("x" * 300, "too long"),
    ],
)
def test_what_cannot_be_read_says_why(place: Rooted, path: str, said: str) -> None:
    with pytest.raises(FileError, match=said):
        place.read(path, 100)


def test_a_fifo_and_a_device_are_no_files_and_nothing_waits(place: Rooted) -> None:
    os.mkfifo(f"{place.root}/pipe")
    with pytest.raises(FileError, match="no plain file"):
        place.read("pipe", 100)
    with pytest.raises(FileError, match="not replaced"):
        place.write("pipe", b"")


def test_a_race_of_links_reads_nothing_outside(place: Rooted, tmp_path: Path) -> None:
    """A folder that is a folder when looked at and a link when used."""
    root = Path(place.root)
    (root / "a").mkdir()
    (root / "a" / "file").write_text("inside")
    (root / "b").symlink_to(tmp_path / "outside")
    done = threading.Event()

    def flip() -> None:
        while not done.is_set():
            (root / "a").rename(root / "c")
            (root / "b").rename(root / "a")
            (root / "a").rename(root / "b")
            (root / "c").rename(root / "a")

    thread = threading.Thread(target=flip)
    thread.start()
    read = set()
    try:
        for _ in range(3000):
            try:
                read.add(place.read("a/file", 100))
            except FileError:
                read.add(None)
    finally:
        done.set()
        thread.join()
    assert read <= {b"inside", None}


def test_a_file_is_written_whole_or_not_at_all(place: Rooted, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place.write("new/folder/file", b"first")
    path = Path(place.root) / "new" / "folder" / "file"
    path.chmod(0o640)
    assert not place.write("new/folder/file", b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640

    def full(file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FileError, match="the disk is full"):
        place.write("new/folder/file", b"third")
    assert path.read_bytes() == b"second"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_link_is_not_replaced(place: Rooted, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="is a link, and is not replaced"):
        place.write("link", b"harm")
    assert (tmp_path / "secret").read_text() == "secret"


def test_a_walk_passes_links_over_and_goes_any_depth(place: Rooted) -> None:
    assert [path for path, _ in place.walk()] == ["in/file"]
    here = os.open(place.root, os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    assert [path for path, _ in place.walk("d")] == ["d/" * 300 + "end"]


def test_more_than_asked_for_is_not_read(place: Rooted) -> None:
    with pytest.raises(FileError, match="6 bytes, more than the 5"):
        place.read("in/file", 5)
