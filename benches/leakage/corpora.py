"""Two corpora out of Debian packages, built once and cached.

``short``: descriptions of the packages of two releases, bookworm and trixie: 133 thousand documents
of 400 bytes, half of them unchanged. ``long``: the pages of eight packages of documentation: 40
thousand of 8 kB, two thirds of them with characters beyond ASCII, and one family of 1,690 pages
made from one template, which alone has 1.4 million pairs.

Both come from the mirror that apt is configured for, on a Debian bookworm.
"""

import gzip
import html
import lzma
import re
import subprocess
import tempfile
import urllib.request
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "leakage"
PACKAGES = [
    "openjdk-17-doc",
    "qtbase5-doc-html",
    "ghc-doc",
    "linux-doc-6.1",
    "libboost1.81-doc",
    "libstdc++-12-doc",
    "python3.11-doc",
    "postgresql-doc-15",
]
APT, DPKG = "/usr/bin/apt-get", "/usr/bin/dpkg-deb"
TAG = re.compile(r"(?is)<(script|style)\b.*?</\1>|<[^>]+>")
PAGE = re.compile(r"\.(html|txt|rst|yaml)(\.gz)?$")


def short():
    """Long descriptions of packages in two releases."""
    uri = subprocess.run(
        [APT, "download", "--print-uris", "ghc-doc"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    mirror = uri.split("'")[1].partition("/pool/")[0]
    texts = []
    for suite in ("bookworm", "trixie"):
        address = f"{mirror}/dists/{suite}/main/i18n/Translation-en.xz"
        with urllib.request.urlopen(address) as answer:  # noqa: S310 - what apt itself reads
            blocks = lzma.decompress(answer.read()).decode("utf-8", "replace").split("\n\n")
        for block in blocks:
            _, described, text = block.partition("Description-en:")
            text = re.sub(r"\n ", "\n", re.sub(r"\n \.\n", "\n\n", text)).strip()
            if described and len(text) >= 40:
                texts.append(text)
    return texts


def long():
    """Pages of documentation as text."""
    texts = []
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)
        there.chmod(0o755)  # apt fetches as a user of its own
        subprocess.run([APT, "download", "-q", *PACKAGES], cwd=there, check=True)
        for package in sorted(there.glob("*.deb")):
            subprocess.run([DPKG, "-x", package, there / "pages"], check=True)
        for path in sorted((there / "pages").rglob("*")):
            if path.is_symlink() or not path.is_file() or not PAGE.search(path.name):
                continue
            data = path.read_bytes()
            if path.suffix == ".gz":
                data = gzip.decompress(data)
            text = data.decode("utf-8", "replace")
            if ".html" in path.name:
                text = html.unescape(TAG.sub(" ", text))
            text = re.sub(r"[ \t]+", " ", text).strip()
            if len(text) >= 200:
                texts.append(text)
    return texts


CORPORA = {"short": short, "long": long}


def read(name):
    """The documents of a corpus as an Arrow array."""
    path = CACHE / f"{name}.parquet"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Lone surrogates come from character references of HTML and have no UTF-8.
        texts = [text.encode("utf-8", "replace").decode() for text in CORPORA[name]()]
        part = path.with_suffix(".part")
        parquet.write_table(pa.table({"text": pa.array(texts, pa.large_string())}), part)
        part.rename(path)
    return parquet.read_table(path)["text"].combine_chunks()
