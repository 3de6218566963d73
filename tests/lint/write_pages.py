"""Writes docs/lint anew from the catalogue and its examples: `make pages`."""

from __future__ import annotations

from pathlib import Path

from policies.lint.catalogue import load_catalogue, render_index, render_page

HERE = Path(__file__).parent
PAGES = HERE.parents[1] / "docs" / "lint"
INDEX = "README.md"


def render_pages() -> dict[str, str]:
    """Return every page by its file name."""
    pages = {f"{code}.md": _page(code) for code in load_catalogue()}
    return {INDEX: render_index(), **pages}


def _page(code: str) -> str:
    folder = HERE / code
    beside = "---\n".join(
        (folder / name).read_text() for name in ("mesh.yaml", "before.yaml")
        if (folder / name).exists()
    )  # fmt: skip
    bad, good = (folder / "bad.yaml").read_text(), (folder / "good.yaml").read_text()
    return render_page(load_catalogue()[code], bad, good, beside)


def main() -> None:
    """Write the pages, and delete those of no code."""
    pages = render_pages()
    for path in PAGES.glob("MW*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (PAGES / name).write_text(text)


if __name__ == "__main__":
    main()
