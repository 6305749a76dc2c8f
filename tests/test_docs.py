"""What the documents say of the code is true."""

import re
from pathlib import Path

from gyrostat.findings import CATALOGUE

ROOT = Path(__file__).resolve().parent.parent


def test_every_code_has_its_row_on_the_findings_page():
    page = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in lines]
    expected = [[f"`{c.slug}`", str(c.severity), c.title, c.advice] for c in CATALOGUE.values()]
    assert rows == expected


def test_links_between_documents_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("benches/*.md")]:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
