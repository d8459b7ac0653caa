import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernels.native.compiler import find_compiler
from kernels.native.private import NotPrivateError

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "op").mkdir()
    path = tmp_path / "op" / "cpu.c"
    path.write_text("int answer(void) { return 41; }")
    return path


def test_a_source_is_compiled_once_and_again_when_it_changes(source, tmp_path):
    compiler = find_compiler(tmp_path / "cache")
    assert compiler.load(source).answer() == 41
    compiler.load(source)
    source.write_text("int answer(void) { return 42; }")
    assert compiler.load(source).answer() == 42
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_user_without_a_home_compiles_elsewhere(source, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert find_compiler().load(source).answer() == 41
    assert find_compiler().load(source).answer() == 41
    assert len(list(tmp_path.glob("manta-kernels-*/*.so"))) == 1


def stranger_made(folder):
    folder.mkdir(parents=True)
    os.chown(folder, 65534, 65534)


def everybody_may_write(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)


def everybody_may_replace(folder):
    folder.mkdir(parents=True)
    folder.parent.chmod(0o777)


def a_group_may_write(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o770)


def a_link_leads_there(folder):
    everybody_may_write(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


UNSAFE = [
    pytest.param(
        stranger_made,
        r"belongs to user 65534, must belong to user \d+; remove it",
        marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away"),
    ),
    (everybody_may_write, r"others can write to it \(mode 0777\); remove it, or what others put there is run"),
    (everybody_may_replace, r"others can write to it \(mode 0777\); run chmod go-w"),
    (a_group_may_write, r"others can write to it \(mode 0770\); remove it"),
    (a_link_leads_there, r"elsewhere: others can write to it"),
]


@pytest.mark.parametrize(("make", "said"), UNSAFE)
def test_nothing_is_loaded_from_where_others_can_write(source, tmp_path, monkeypatch, caplog, make, said):
    home, temporary = tmp_path / "home", tmp_path / "temporary"
    temporary.mkdir()
    temporary.chmod(0o1777)
    folder = home / ".cache" / "manta" / "kernels"
    folder.parent.mkdir(parents=True)
    make(folder)
    with pytest.raises(NotPrivateError, match=said):
        find_compiler(folder)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    assert find_compiler().load(source).answer() == 41
    assert not list(folder.iterdir()) and len(list(temporary.glob("manta-kernels-*/*.so"))) == 1
    assert re.search(said, caplog.text)


def test_a_folder_that_somebody_laid_in_wait_is_not_used_either(source, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "none" / "file"))
    (tmp_path / "none").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    laid = tmp_path / f"manta-kernels-{os.geteuid()}"
    everybody_may_write(laid)
    assert find_compiler().load(source).answer() == 41
    assert not list(laid.iterdir()) and len(list(tmp_path.glob("manta-kernels-*/*.so"))) == 1


@pytest.mark.parametrize("umask", [0, 0o077])
def test_others_can_write_to_nothing_whatever_the_umask_is(source, tmp_path, umask):
    before = os.umask(umask)
    try:
        assert find_compiler(tmp_path / "new" / "cache").load(source).answer() == 41
    finally:
        os.umask(before)
    made = [tmp_path / "new", *(tmp_path / "new").rglob("*")]
    assert len(made) == 3 and {path.stat().st_mode & 0o777 for path in made} == {0o700}


def test_a_shared_object_that_others_could_write_to_is_compiled_again(source, tmp_path, caplog):
    find_compiler(tmp_path / "cache").load(source)
    (path,) = (tmp_path / "cache").iterdir()
    path.unlink()
    path.write_bytes(b"not what was compiled")
    path.chmod(0o666)
    assert find_compiler(tmp_path / "cache").load(source).answer() == 41
    assert "others have access (mode 0666)" in caplog.text


def test_flags_of_the_environment_are_part_of_what_is_compiled(source, tmp_path, monkeypatch):
    source.write_text("int answer(void) { return ANSWER; }")
    for answer in (41, 42):
        monkeypatch.setenv("MANTA_CFLAGS", f"-DANSWER={answer}")
        found = find_compiler(tmp_path / "cache")
        assert found.load(source).answer() == answer
        assert found.for_instructions(found.instructions).load(source).answer() == answer


def test_many_may_compile_the_same_file_at_once(source, tmp_path):
    def load(_):
        library = find_compiler(tmp_path / "cache").load(source)
        return library.answer()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [41] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_does_not_compile_is_an_error_that_shows_the_compilers_words(source, tmp_path):
    source.write_text("int answer(void) { return nonsense; }")
    with pytest.raises(RuntimeError, match="nonsense"):
        find_compiler(tmp_path / "cache").load(source)
    assert not list((tmp_path / "cache").iterdir())
