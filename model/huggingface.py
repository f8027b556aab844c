"""Model folders on the Hugging Face Hub: fetched into its cache, and put there.

Only the files of a model folder travel, and none of them is executed. The package huggingface_hub is needed
here alone (`pip install 'bjepa[hub]'`) and imported when first used.
"""

import re
from pathlib import Path
from typing import Any

from bjepa.preproc.errors import InputError

FILES = ("config.json", "model.safetensors", "gradients.csv", "atlas.tsv", "scaling.tsv", "README.md")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def is_hub_name(source: str) -> bool:
    """Whether it could be `owner/name` on the hub."""
    return _NAME.fullmatch(source) is not None


def fetch_model(name: str, *, revision: str | None = None) -> Path:
    """The folder of the model `owner/name` in the cache, fetched where it is not there or older.

    Parameters
    ----------
    revision
        Branch, tag or commit; None: the newest. A commit is what makes results repeatable.

    Raises
    ------
    InputError
        No huggingface_hub; no such model or revision, no right to read it, no connection and nothing cached.
    """
    hub = _import_hub(f"There is no folder {name}, and to look for it on the Hugging Face Hub")
    try:
        return Path(hub.snapshot_download(name, revision=revision, allow_patterns=list(FILES)))
    except _errors() as error:
        at = f" (revision {revision})" if revision else ""
        raise InputError(
            f"There is no folder {name}, and from the Hugging Face Hub it was not to be had{at}: "
            f"{_first_line(error)}",
            hint="Check the path or the name; a private model needs `hf auth login`.",
        ) from error


def push_folder(folder: Path, name: str, *, private: bool, message: str, token: str | None) -> str:
    """Put the files of a model folder to `owner/name`, made if missing; the address of the commit.

    Raises
    ------
    InputError
        No huggingface_hub; a name that cannot be; no right to write, no connection.
    """
    if not is_hub_name(name):
        raise InputError(f"A model on the Hugging Face Hub is named owner/name, got {name!r}.")
    hub = _import_hub("To put a model on the Hugging Face Hub")
    try:
        api = hub.HfApi(token=token)
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=list(FILES), commit_message=message
        )
    except _errors() as error:
        raise InputError(
            f"{name} could not be put on the Hugging Face Hub: {_first_line(error)}",
            hint="Log in with `hf auth login`, or give a token that may write.",
        ) from error
    return str(commit.commit_url)


def _import_hub(why: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise InputError(
            f"{why}, the package huggingface_hub is needed, which is not installed.",
            hint="pip install 'bjepa[hub]', or give the path of a model folder.",
        ) from error
    return huggingface_hub


def _errors() -> tuple[type[Exception], ...]:
    """What goes wrong between here and there; a damaged name or a refused token are ValueErrors."""
    from huggingface_hub.errors import HfHubHTTPError

    # its base is the general error of the HTTP library beneath, which also tells of no connection
    of_http = tuple(base for base in HfHubHTTPError.__bases__ if base is not Exception)
    return (HfHubHTTPError, *of_http, OSError, ValueError)


def _first_line(error: Exception) -> str:
    told = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
    return f"{type(error).__name__}: {told.rstrip('.')}."
