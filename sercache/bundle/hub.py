"""Bundles on the Hugging Face hub: up and down, whole."""

import re
from pathlib import Path

from sercache.bundle.description import CARD_NAME, DESCRIPTION_NAME, read_description
from sercache.errors import BundleError

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


def push_bundle(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a bundle; the repository is made if it is not there. Returns its address.

    Raises:
        BundleError: the bundle is damaged, or the hub cannot be reached or refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    described = read_description(folder)
    try:
        hub = HfApi()
        address = hub.create_repo(repository, private=private, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=[CARD_NAME, DESCRIPTION_NAME, *described.files],
            commit_message=f"sercache bundle {described.name}",
        )
    except (OSError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled) as error:
        raise BundleError(f"{repository}: cannot be uploaded ({_first_line(error)})") from None
    return str(address)


def find_bundle(name: str) -> Path:
    """Return the folder of a bundle: a local one, or a repository of the hub, fetched as a whole.

    A repository is ``owner/name`` or ``owner/name@revision``; a folder of that name comes first.

    Raises:
        BundleError: there is neither.
    """
    folder = Path(name).expanduser()
    if folder.exists() or not _REPOSITORY.fullmatch(name):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise BundleError(f"bundle {name}: {what}; sercache bundle RUN -o {name} makes one")
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repository, _, revision = name.partition("@")
    try:
        return Path(snapshot_download(repository, revision=revision or None))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise BundleError(
            f"bundle {name} is neither a folder nor can it be fetched from the hub ({_first_line(error)})"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
