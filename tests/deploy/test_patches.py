"""The engine's patches: numbered, one concern each, and each explains its purpose."""

import re
from pathlib import Path

import pytest

PATCHES = sorted((Path(__file__).parents[2] / "deploy" / "patches").iterdir())


def test_patches_are_applied_in_the_order_of_their_numbers() -> None:
    """The files are named 0001-..., 0002-..., without a gap, and there are no other files."""
    numbers = [re.fullmatch(r"(\d{4})-[a-z0-9_-]+\.patch", path.name) for path in PATCHES]
    assert [match and int(match[1]) for match in numbers] == list(range(1, len(PATCHES) + 1))


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_explains_itself(path: Path) -> None:
    """Before its first hunk a patch has a subject, and says what it does, why, what is gained and what upstream has."""
    header, _, diff = path.read_text().partition("\n--- a/")
    assert re.match(r"\S.*\.\n\n", header)
    told = re.findall(r"^(What|Why|Gain|Upstream)(?=:| \()", header, re.MULTILINE)
    assert told == ["What", "Why", "Gain", "Upstream"]
    assert re.findall(r"^\+\+\+ b/(vendor/|CMakeLists.txt|pyproject.toml)", diff, re.MULTILINE)
