"""Hostile folders, denied permissions and full disks: true reasons, one-line errors, nothing lost."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from modelworks.data import documents as loading
from modelworks.retrieval.collection import Collection

QUESTION = "How long does the warranty of the Blue Kettle last?"
DATA = Path(__file__).resolve().parents[3] / "shared/data/documents/pdf"
WORDPROCESSING = "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"

pytestmark = [
    pytest.mark.usefixtures("starters"),
    pytest.mark.skipif(sys.platform == "win32", reason="builds files that Windows does not have"),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", f'<Types><Override ContentType="{WORDPROCESSING}"/></Types>')
        with archive.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(150):
                member.write(bytes(1 << 20))


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(300 << 20)


def bound_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(path.parent)  # a socket's path holds at most 107 bytes
        listener.bind(path.name)


def bytes_named(folder: Path) -> None:
    """File names are bytes; these are no UTF-8."""
    try:
        (folder / os.fsdecode(b"bytes\xff.txt")).write_text("text")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")


# name: how to make it, and the reason that its report must hold.
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.txt": (Path.touch, "empty file"),
    "random.bin": (lambda path: path.write_bytes(os.urandom(1 << 16)), "binary file"),
    "random.txt": (lambda path: path.write_bytes(os.urandom(1 << 16)), "binary file"),
    "huge.txt": (sparse, "over the size limit: 300 MiB"),
    "huge.pdf": (sparse, "over the size limit: 300 MiB"),
    "junk.pdf": (lambda path: path.write_bytes(b"%PDF-1.7\n" + os.urandom(4096)), "broken"),
    "cut.docx": (lambda path: path.write_bytes(b"PK\x03\x04" + os.urandom(512)), "broken"),
    "bomb.docx": (zip_bomb, "unsafe: word/document.xml unpacks to"),
    "script.html": (lambda path: path.write_text("<script>alert(1)</script>"), "no text"),
    "pipe.txt": (os.mkfifo, "not a regular file"),
    "socket.txt": (bound_socket, "not a regular file"),
    "dangling.md": (lambda path: path.symlink_to("nowhere.md"), "broken link"),
    "loop": (lambda path: path.symlink_to("loop"), "broken link"),
}
READABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "deep.html": (lambda path: path.write_text("<p>Top." + "<div>" * 9999 + "Deep." + "</div>" * 9999), "Top."),
    "deep.json": (lambda path: path.write_text("[" * 9999 + "]" * 9999), "[["),
    "line.txt": (lambda path: path.write_text("word and more words " * (1 << 14)), "word and more"),
    "latin.txt": (lambda path: path.write_bytes("Le café ouvre à huit heures, bien sûr.\n".encode("latin-1")), "café"),
    "wide.txt": (lambda path: path.write_text("The library opens at nine.", encoding="utf-16"), "opens at nine"),
    "line\nend.txt": (lambda path: path.write_text("A name of two lines."), "two lines"),
    "red\x1b[31m.txt": (lambda path: path.write_text("A name that colours."), "colours"),
    "日本 🎉.txt": (lambda path: path.write_text("A fine name."), "fine"),
}


def test_a_hostile_folder_is_indexed_to_the_end(run, handbook: Path, store: Path, monkeypatch) -> None:
    monkeypatch.chdir(handbook)
    for name, (make, _) in (HOSTILE | READABLE).items():
        make(handbook / name)
    (handbook / "self").symlink_to(".")
    bytes_named(handbook)
    asked = run("ask", handbook, QUESTION, "--store", store, "--json", "--wait", "0")
    assert asked.status == 0
    assert "three years" in json.loads(asked.out)["answer"]
    assert "\x1b" not in asked.err
    report = json.loads(run("index", handbook, "--store", store, "--json").out)
    files = {file["name"]: file for file in report["files"]}
    for name, (_, reason) in HOSTILE.items():
        assert files[name]["outcome"] == "skipped", name
        assert reason in files[name]["detail"], name
    assert "not UTF-8: rename it" in files["bytes\\udcff.txt"]["detail"]
    assert len(files) == len(HOSTILE) + len(READABLE) + 3  # the loop brings nothing twice
    with Collection(store) as collection:
        for name, (_, text) in READABLE.items():
            assert files[name]["outcome"] == "unchanged", name
            assert text in collection.document_text(name)
    listed = run("docs", "list", handbook, "--store", store).out
    assert "ok       line\\nend.txt: 1 page" in listed
    assert "ok       red\\x1b[31m.txt: 1 page" in listed


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared documents")
def test_real_encrypted_pdfs_and_one_cut_short(run, tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "pdfs"
    folder.mkdir()
    (folder / "password.pdf").symlink_to(DATA / "005-libreoffice-writer-password__libreoffice-writer-password.pdf")
    (folder / "encrypted.pdf").symlink_to(DATA / "pypdf__encrypted-file.pdf")
    whole = (DATA / "001-trivial__minimal-document.pdf").read_bytes()
    (folder / "cut.pdf").write_bytes(whole[: len(whole) // 2])
    files = {file["name"]: file for file in json.loads(run("index", folder, "--store", store, "--json").out)["files"]}
    assert {file["outcome"] for file in files.values()} == {"skipped"}
    assert files["password.pdf"]["detail"].startswith("password-protected")
    assert files["encrypted.pdf"]["detail"].startswith("password-protected")
    assert files["cut.pdf"]["detail"].startswith("broken")


def test_a_file_that_vanishes_while_it_is_read(run, handbook: Path, store: Path, monkeypatch) -> None:
    read = loading.load

    def vanishing(path: Path) -> object:
        if path.name == "office.txt":
            path.unlink()
        return read(path)

    monkeypatch.setattr(loading, "load", vanishing)
    result = run("index", handbook, "--store", store)
    assert result.status == 0
    assert "skipped   office.txt: it vanished while the folder was being read" in result.out
    assert "added     kettle.md" in result.out


def test_a_folder_whose_own_name_is_no_text(run, tmp_path: Path, store: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    (folder / "note.txt").write_text("A note.")
    run("index", folder, "--store", store).assert_one_line_error("caf\\udce9", "not UTF-8")


# What the current user must not read or write: root may, unless the process gives those capabilities up.
AS_A_USER = """
import ctypes, os, sys
if os.geteuid() == 0:
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        if ctypes.CDLL(None).prctl(24, capability, 0, 0, 0):  # PR_CAPBSET_DROP
            raise SystemExit("cannot drop capabilities")
os.execv(sys.executable, sys.argv[1:])
"""


@pytest.fixture
def as_user(command) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command as one to whom permissions apply."""

    def run_(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-c", AS_A_USER, *command(*arguments)]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        if "cannot drop capabilities" in done.stderr:
            pytest.skip("root here cannot give up its capabilities")
        return done

    if os.geteuid() == 0 and not hasattr(ctypes.CDLL(None), "prctl"):
        pytest.skip("permissions do not apply to root, and this system has no prctl")
    return run_


def test_what_may_not_be_read_is_reported(as_user, tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "locked").mkdir(parents=True)
    (folder / "secret.txt").write_text("secret")
    (folder / "secret.txt").chmod(0)
    (folder / "locked").chmod(0)
    done = as_user("index", folder, "--store", store)
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped   locked/: folder cannot be read: Permission denied" in done.stdout
    assert "skipped   secret.txt: unreadable: Permission denied" in done.stdout
    (folder / "locked").chmod(0o700)
    folder.chmod(0)
    done = as_user("index", folder, "--store", store)
    folder.chmod(0o700)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == f"modelworks: {folder}: Permission denied; name a folder that can be read\n"


def test_a_store_that_may_not_be_written(as_user, run, handbook: Path, store: Path) -> None:
    run("index", handbook, "--store", store)
    (handbook / "new.txt").write_text("Something new.")
    for file in store.iterdir():
        file.chmod(0o400)
    store.chmod(0o500)
    done = as_user("index", handbook, "--store", store)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert "read-only" in done.stderr
    asked = as_user("ask", handbook, QUESTION, "--no-sync", "--json", "--store", store)
    assert asked.returncode == 0, asked.stderr
    assert "three years" in json.loads(asked.stdout)["answer"]
    done = as_user("index", handbook, "--store", store / "below")
    store.chmod(0o700)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "Permission denied" in done.stderr


def test_a_disk_that_fills_loses_nothing_and_the_next_run_finishes(command, run, tmp_path: Path, store: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    paragraph = "The harbour light turns once in twelve seconds and is seen for nine miles. " * 12 + "\n\n"
    for number in range(12):
        (folder / f"{number:02}.txt").write_text(f"Light number {number}.\n\n" + paragraph * 120)

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        command("index", folder, "--store", store), capture_output=True, text=True, timeout=60, preexec_fn=limit
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"modelworks: {store / 'collection.db'}: ")
    assert done.stderr.count("\n") == 1
    with Collection(store) as collection:
        kept = [document.name for document in collection.documents()]
        assert 0 < len(kept) < 12
        assert collection.doctor().ok
    outcomes = {
        file["name"]: file["outcome"]
        for file in json.loads(run("index", folder, "--store", store, "--json").out)["files"]
    }
    assert {name: outcome for name, outcome in outcomes.items() if name in kept} == dict.fromkeys(kept, "unchanged")
    with Collection(store) as filled, Collection(tmp_path / "undisturbed") as undisturbed:
        undisturbed.sync(folder)
        assert filled.fingerprint() == undisturbed.fingerprint()
