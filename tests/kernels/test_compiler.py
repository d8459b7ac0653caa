import ctypes
from concurrent.futures import ThreadPoolExecutor

import pytest

from kernels.native.compiler import find_compiler

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
    assert len(list(tmp_path.glob("manta-kernels-*/*.so"))) == 1


def test_many_may_compile_the_same_file_at_once(source, tmp_path):
    def load(_):
        library: ctypes.CDLL = find_compiler(tmp_path / "cache").load(source)
        return library.answer()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(load, range(4))) == [41] * 4
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_what_does_not_compile_is_an_error_that_shows_the_compilers_words(source, tmp_path):
    source.write_text("int answer(void) { return nonsense; }")
    with pytest.raises(RuntimeError, match="nonsense"):
        find_compiler(tmp_path / "cache").load(source)
    assert not list((tmp_path / "cache").iterdir())
