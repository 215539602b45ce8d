"""Every page with something to type is followed by a test. The kind of fault: a page that goes wrong alone."""

from guide_house import ROOT
from guide_page import Command, read_page


def test_every_page_with_commands_is_followed() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs" / "guides").glob("*.md"))]
    typed = {
        str(page.relative_to(ROOT)) for page in pages if any(isinstance(step, Command) for step in read_page(page))
    }
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "guides").glob("test_guide_*.py"))
    followed = {page for page in typed if f'"{page}"' in tests}
    assert typed == followed, f"no test types what these say: {sorted(typed - followed)}"
