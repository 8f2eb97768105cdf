"""Files that are replaced: links, permissions, and what killed processes leave behind."""

import os
import stat
import subprocess
import sys

import pytest

from sklearn_hscl.runtime.atomic_write import atomic_write

NAME = "model [1].safetensors"  # a name that is also a pattern


def write(path, content=b"new"):
    with atomic_write(path) as file:
        file.write(content)


@pytest.fixture
def path(tmp_path):
    return tmp_path / NAME


@pytest.mark.parametrize("is_absolute", [True, False])
@pytest.mark.parametrize("exists", [True, False])
def test_a_symbolic_link_stays(tmp_path, exists, is_absolute):
    (tmp_path / "versions").mkdir()
    target, middle = tmp_path / "versions" / "v1", tmp_path / "middle"
    link = tmp_path / "latest"
    middle.symlink_to(target if is_absolute else "versions/v1")
    link.symlink_to(middle if is_absolute else "middle")
    if exists:
        target.write_bytes(b"old")
    write(link)
    assert link.is_symlink() and middle.is_symlink() and not target.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "versions") == ["v1"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o400])
def test_permissions_are_kept_from_the_first_byte(path, mode):
    path.write_bytes(b"old")
    path.chmod(mode)
    with atomic_write(path) as file:
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == mode
        file.write(b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert path.read_bytes() == b"new"


def test_a_new_file_has_the_permissions_of_the_umask(path):
    before = os.umask(0o027)
    try:
        write(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_what_killed_processes_left_is_removed(path):
    code = (
        "import os, pathlib, sys\n"
        "from sklearn_hscl.runtime.atomic_write import atomic_write\n"
        "with atomic_write(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'half')\n"
        "    file.flush()\n"
        "    os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=False)
    assert len(os.listdir(path.parent)) == 1
    others = [
        f"{NAME}.part",
        f"other{NAME}.0a.part",
        f"{NAME}.backup.part",
        "model 1.0a.part",
    ]
    for name in others:
        (path.parent / name).touch()
    write(path)
    assert sorted(os.listdir(path.parent)) == sorted([*others, NAME])


def test_a_file_that_is_being_written_is_no_leftover(path):
    with atomic_write(path) as file:
        write(path, b"second")
        file.write(b"first")
    assert path.read_bytes() == b"first"
    assert os.listdir(path.parent) == [NAME]


def test_an_error_leaves_the_earlier_file(path):
    def write_half():
        with atomic_write(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_bytes() == b"old"
    assert os.listdir(path.parent) == [NAME]
