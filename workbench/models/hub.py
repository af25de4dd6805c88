"""Models named by a hub id: safetensors, JSON and vocabularies only, from the cache first."""

import re
import socket
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

from workbench.core.errors import MissingPart, ModelError
from workbench.models import files, kinds


def fetch(name: str) -> files.Found:
    """The model of a hub id, from the cache or, failing that, downloaded. No code and no pickle is ever taken.

    Raises `MissingPart` naming the cache folder when it is neither in the cache nor within reach.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        return files.inspect(Path(snapshot_download(name, local_files_only=True)), name)
    except (OSError, ValueError, ModelError):
        pass  # not in the cache, or not whole
    try:
        _reach(constants.ENDPOINT)
        wanted = choose(HfApi().list_repo_files(name))
        folder = Path(snapshot_download(name, allow_patterns=wanted))
    except ModelError:
        raise
    except Exception as error:  # the hub's client lets through the errors of several libraries
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingPart(
            f"{name!r} is no file or folder here, is not in the hub's cache ({constants.HF_HUB_CACHE}) and could not "
            f"be downloaded ({why}). Go online once, copy the model into that cache, or give a folder."
        ) from None
    return files.inspect(folder, name)


def _reach(endpoint: str) -> None:
    """Raise OSError at once where the hub is out of reach: its client would try for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise OSError("HF_HUB_OFFLINE is set")
    if {"http", "https", "all"} & getproxies().keys():
        return  # a proxy may reach what this machine cannot name
    where = urlsplit(endpoint)
    port = where.port or (443 if where.scheme == "https" else 80)
    socket.create_connection((where.hostname or "", port), timeout=10).close()


def choose(listing: Iterable[str]) -> list[str]:
    """The files of a repository that make up the model: of each part its JSON, its text and one set of weights.

    Raises `MissingPart` where the weights are pickled only.
    """
    there = sorted(listing)
    rooms = [""]
    if "model_index.json" in there:
        rooms = [f"{part}/" for part in (*kinds.PARTS, "scheduler")]
    chosen = [name for name in there if name == "model_index.json"]
    for room in rooms:
        inside = [name for name in there if name.startswith(room) and "/" not in name.removeprefix(room)]
        chosen += [name for name in inside if name.endswith((".json", ".txt", "spiece.model")) and "index" not in name]
        chosen += _weights(inside, room)
    return list(dict.fromkeys(chosen))


def _weights(inside: list[str], room: str) -> list[str]:
    stems = "|".join(files.STEMS)
    plain = re.compile(rf"{room}({stems})(\.safetensors|-\d+-of-\d+\.safetensors|\.safetensors\.index\.json)")
    narrow = re.compile(rf"{room}({stems})\.fp16\.safetensors")
    found = [name for name in inside if plain.fullmatch(name)] or [name for name in inside if narrow.fullmatch(name)]
    pickled = [name for name in inside if Path(name).suffix in files.PICKLES]
    if pickled and not found:
        raise MissingPart(
            f"The hub's repository has {pickled[0]} but no safetensors of it; only those are loaded. Download it and "
            "run workbench convert on the file."
        )
    return found
