"""Where a model or a text is: a folder, a file, a hub id, or a file inside an installed package.

    PATH                               a folder with config.json and *.safetensors, or a .gguf file
    OWNER/NAME                         a model of the hub (downloaded once, then cached)
    package:IMPORT_NAME/REL/FILE       a data file of an installed package, which is located but never imported
    A + B + C                          the parts of one file, in order (joined once, into the cache)
    ...#sha256=HEX                     any file of the above, refused unless its bytes have this hash

The hash stands in the path itself, so that a preset pins its file and another path given by the user carries no
hash of the preset's along."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
from pathlib import Path

PACKAGE = "package:"
HASH = "#sha256="
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PATTERNS = ["*.json", "*.safetensors", "tokenizer*", "*.model", "merges.txt", "vocab.txt", "*.jinja"]


def resolve_model(path: str) -> Path:
    """The folder or .gguf file that `path` names (see above). FileNotFoundError, or ValueError on a wrong hash."""
    location, sha256 = split_hash(path)
    if not location.startswith(PACKAGE) and " + " not in location:
        local = Path(location).expanduser()
        if not local.exists() and HUB_ID.fullmatch(location) and local.suffix != ".gguf":
            return download(location)
    found = resolve_file(path)
    if found.is_dir() and sha256 is not None:
        raise ValueError(f"{found} is a folder: a sha256 can only be checked for a file")
    return found


def resolve_file(path: str) -> Path:
    """An existing file or folder; its hash checked where `path` carries one."""
    location, sha256 = split_hash(path)
    parts = [resolve_part(part.strip()) for part in location.split(" + ")]
    found = parts[0] if len(parts) == 1 else join_parts(parts)
    if sha256 is not None and found.is_file():
        check_sha256(found, sha256)
    return found


def split_hash(path: str) -> tuple[str, str | None]:
    """`PATH#sha256=HEX` -> (PATH, HEX); (path, None) where there is no hash."""
    location, mark, sha256 = path.partition(HASH)
    if not location:
        raise ValueError(f"no model or text path in {path!r}; {ACCEPTED}")
    return location, sha256.lower() if mark else None


def check_sha256(path: Path, expected: str) -> None:
    """ValueError unless the file's bytes have this hash."""
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected.lower():
        raise ValueError(f"{path} has sha256 {found}, expected {expected}: not the file that was meant, or damaged")


def resolve_part(location: str) -> Path:
    if location.startswith(PACKAGE):
        return package_file(location)
    local = Path(location).expanduser()
    if not local.exists():
        raise FileNotFoundError(f"{location} does not exist; {ACCEPTED}")
    return local.resolve()


def package_file(location: str) -> Path:
    """The file of `package:IMPORT_NAME/REL/FILE`; the package is found without running any of its code."""
    package, _, rest = location.removeprefix(PACKAGE).partition("/")
    if not package.isidentifier() or not rest:
        raise ValueError(f"{location!r} is not of the form package:IMPORT_NAME/REL/FILE")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"the package {package!r} is not installed (`make setup` installs the embedded model and text); "
            f"or give another path: {ACCEPTED}"
        )
    for root in spec.submodule_search_locations:
        if (Path(root) / rest).is_file():
            return (Path(root) / rest).resolve()
    raise FileNotFoundError(f"the installed package {package!r} holds no file {rest!r}")


def join_parts(parts: list[Path]) -> Path:
    """One file from its parts, written once to the cache and named after their sizes and times."""
    facts = "".join(f"{part}:{part.stat().st_size}:{part.stat().st_mtime_ns};" for part in parts)
    stem = Path(re.sub(r"\.part\d+$", "", parts[0].name))
    name = f"{stem.stem}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}{stem.suffix}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bitpalette"
    joined = cache / name
    if joined.is_file():
        return joined
    cache.mkdir(parents=True, exist_ok=True)
    partial = cache / f"{name}.partial-{os.getpid()}"
    with partial.open("wb") as out:
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(1 << 22):
                    out.write(chunk)
    partial.replace(joined)
    return joined


def download(hub_id: str) -> Path:
    """The cached snapshot of a hub model: config, tokenizer and safetensors only (no pickles, no code)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"{hub_id!r} is no local path, and the model hub did not give it ({reason}). Check the name and the "
            f"network, or download the model elsewhere and give its folder: model.path=FOLDER or model.path=FILE.gguf"
        ) from error


ACCEPTED = "accepted: a folder with config.json and *.safetensors, a .gguf file, OWNER/NAME, package:IMPORT_NAME/FILE"
