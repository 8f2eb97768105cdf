"""The oldest versions that are tested are those that setup.cfg allows."""

from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
# Other builds of torch are gigabytes; the extras of developers and of texts need be new
# only.
NEW_ONLY = {"torch"}
EXTRAS = ("images", "progress", "onnx", "plots", "test-core")


def floors():
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    lines = setup["options"]["install_requires"].split("\n")
    for extra in EXTRAS:
        lines += setup["options.extras_require"][extra].split("\n")
    requirements = [Requirement(line) for line in lines if line.strip()]
    return {
        each.name: Version(next(iter(each.specifier)).version)
        for each in requirements
        if each.specifier and each.name not in NEW_ONLY
    }


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    pinned = [line.split("#")[0].strip() for line in lines]
    versions = dict(line.split("==") for line in pinned if line)
    return {name: Version(version) for name, version in versions.items()}


def test_oldest_versions_are_the_floors():
    oldest = pins("constraints-oldest.txt")
    assert len(floors()) > 15
    assert {name: oldest[name] for name in floors()} == floors()


def test_pinned_versions_are_at_least_the_floors():
    pinned = pins("constraints.txt")
    assert [name for name, floor in floors().items() if pinned[name] < floor] == []
