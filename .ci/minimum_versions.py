"""Print the oldest versions that a pyproject.toml allows, as constraints of pip."""

import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

project = tomllib.loads(Path(sys.argv[1]).read_text())["project"]
for text in project["dependencies"]:
    requirement = Requirement(text)
    oldest = [each.version for each in requirement.specifier if each.operator == ">="]
    if not oldest:
        sys.exit(f"{text} names no oldest version; say one with >=.")
    print(f"{requirement.name}=={oldest[0]}")
