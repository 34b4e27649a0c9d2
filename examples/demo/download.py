"""The movie-review snippets: fetched from PyPI once with pip, then read from examples/data/.

10,605 snippets of reviews, each with the mean rating that about twenty readers gave it, collected by C.J. Hutto and
Eric Gilbert for "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text" (ICWSM 2014).
They come inside the source distribution of vaderSentiment 0.5 (MIT license).
"""

import io
import os
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

CACHED_FILE = Path(__file__).resolve().parents[1] / "data" / "movieReviewSnippets_GroundTruth.txt"
# pip runs a source distribution's setup.py to learn its metadata; with the hash it runs only the one we looked at.
REQUIREMENT = "vaderSentiment==0.5 --hash=sha256:5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a"
INNER_ARCHIVE = "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz"
INNER_FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


class DataUnavailable(Exception):
    """The review file is not cached and could not be fetched; the message says what to do."""


def review_file() -> Path:
    """The cached review file, downloaded first if it is not there yet."""
    if not CACHED_FILE.exists():
        print("Fetching the movie reviews (vaderSentiment 0.5 from PyPI, 2.4 MB) ...", flush=True)
        write_atomically(CACHED_FILE, _download())
    return CACHED_FILE


def _download() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder, "requirements.txt")
        requirements.write_text(REQUIREMENT + "\n", encoding="utf-8")
        pip_download(
            ["--requirement", str(requirements), "--dest", folder],
            what="the movie reviews",
            otherwise="  1. run `pip download --no-deps vaderSentiment==0.5` and unpack the archive,\n"
            f"  2. unpack {INNER_ARCHIVE},\n"
            f"  3. copy {INNER_FILE} to {CACHED_FILE} or name it with --data FILE.",
        )
        (archive,) = Path(folder).glob("*.zip")
        with zipfile.ZipFile(archive) as sdist:
            inner = io.BytesIO(sdist.read(INNER_ARCHIVE))
    with tarfile.open(fileobj=inner) as tar:
        return tar.extractfile(INNER_FILE).read()


def pip_download(arguments: list[str], what: str, otherwise: str) -> None:
    """`pip download`; where it fails, an error that says how to get the file `otherwise`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip = subprocess.run([*command, *arguments], capture_output=True, text=True, errors="replace")
    if pip.returncode != 0:
        raise DataUnavailable(
            f"pip could not fetch {what}:\n\n{pip.stderr.strip()}\n\n"
            "Check that this Python has pip and that pip reaches a package index (see `pip config list`), "
            f"or, on a machine that does,\n{otherwise}"
        )


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside the target and rename, so that an interrupted run never leaves half a file under the final name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as partial:
        try:
            partial.write(content)
            partial.close()
            os.replace(partial.name, path)
        except BaseException:
            os.unlink(partial.name)
            raise
