#!/usr/bin/env python3
# scripts/check_docs.py: runs the Python of README.md and docs/, and follows the links between the project's files.
"""A ```python block is run; one with >>> prompts is a doctest. The blocks of a page share their names, from top to bottom. A page ends
where a door says which package it lacks."""

import doctest
import re
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)[^)]*\)")


def run_block(text: str, where: str, names: dict[str, object]) -> bool:
    if ">>>" in text:
        test = doctest.DocTestParser().get_doctest(text, names, where, None, None)
        failed = doctest.DocTestRunner().run(test, clear_globs=False).failed
        names |= test.globs
        return failed == 0
    try:
        exec(compile(text, where, "exec"), names)
    except Exception as error:
        if isinstance(error, ImportError) and "pip install" in str(error):
            raise
        traceback.print_exc()
        return False
    return True


def check(page: Path) -> tuple[int, int]:
    """The number of blocks and links of a page, and of those that fail."""
    text = page.read_text()
    names: dict[str, object] = {"__name__": str(page)}
    results = []
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start()) + 2
        where = f"{page.relative_to(ROOT)}:{line}"
        try:
            results.append(run_block(block[1], where, names))
        except ImportError as error:
            print(f"{where}: left out: {error}")
            break
    for link in LINK.findall(text):
        results.append((page.parent / link).exists())
        if not results[-1]:
            print(f"{page.relative_to(ROOT)}: nothing is at {link}", file=sys.stderr)
    return len(results), results.count(False)


def main() -> int:
    pages = [ROOT / "README.md", *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG")), *sorted((ROOT / "docs").rglob("*.md"))]
    checked, failed = map(sum, zip(*(check(page) for page in pages), strict=True))
    print(f"{len(pages)} pages, {checked} snippets and links, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
