"""TemplateFlow's templates: from its cache (shared with fMRIPrep), else downloaded into it.

The client of TemplateFlow checks no hash and writes in place; so the few files that are needed are fetched by
pooch: whole files, and with the MD5 of TemplateFlow's own git-annex (it has no better one).
Their SHA-256 is recorded with what was made from them.
Source: Ciric et al. 2022, "TemplateFlow: FAIR-sharing of multi-scale, multi-species brain models",
Nature Methods 19:1568, doi:10.1038/s41592-022-01681-2.
"""

import hashlib
import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

ADDRESS = "https://templateflow.s3.amazonaws.com"
TIMEOUT = 5.0  # s without an answer: no network

# space -> last part of the name -> MD5, github.com/templateflow/tpl-<space> (2009cAsym: de693d2), 1 mm
PUBLISHED = {
    "MNI152NLin2009cAsym": {
        "T1w": "6c64ebf985fe30d93e49a4baa41b9278",
        "desc-brain_mask": "dc727a2781ca720df0385f9501ace07d",
        "label-GM_probseg": "66e5d662e1dbafc52099b4aadc608454",
        "label-WM_probseg": "674a64b55dac300f348d5e2602ade05d",
    },
    "MNI152NLin6Asym": {
        "T1w": "a50c78510a328cbb12d37e7d566109fe",
        "desc-brain_mask": "f74c778d0bac6b6132d510cedb1a6efa",
    },
}


def templateflow_home() -> Path:
    """TEMPLATEFLOW_HOME, else the user's cache, as the client of TemplateFlow has it."""
    import pooch

    given = os.environ.get("TEMPLATEFLOW_HOME")
    return Path(given).expanduser() if given else Path(pooch.os_cache("templateflow"))


def templateflow_file(space: str, what: str) -> Path | None:
    """One of the PUBLISHED files, None where it cannot be had; why is told in the log.

    An empty file is a place-holder of TemplateFlow's client. A file of another content is never replaced.
    """
    md5, name = PUBLISHED[space][what], f"tpl-{space}_res-01_{what}.nii.gz"
    path = templateflow_home() / f"tpl-{space}" / name
    if path.is_file() and path.stat().st_size > 0:
        if _md5(path) == md5:
            return path
        log.warning("%s is damaged or not the published file; passed over. Delete it to get it anew.", path)
        return None
    return _download(f"{ADDRESS}/tpl-{space}/{name}", md5, path)


def _download(address: str, md5: str, path: Path) -> Path | None:
    import pooch

    log.info("downloading %s to %s.", address, path)
    downloader = pooch.HTTPDownloader(timeout=TIMEOUT)
    try:
        got = pooch.retrieve(
            address, known_hash=f"md5:{md5}", fname=path.name, path=path.parent, downloader=downloader
        )
    except Exception as error:  # requests, urllib3 and pooch raise their own kinds; a wrong hash a ValueError
        log.warning("%s could not be had from TemplateFlow (%s).", path.name, type(error).__name__)
        log.debug("%s", address, exc_info=True)
        return None
    return Path(got)


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
