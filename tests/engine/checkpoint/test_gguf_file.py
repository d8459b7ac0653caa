import time

import gguf
import numpy as np
import pytest

from engine.checkpoint.gguf_file import read_index, read_metadata
from engine.errors import ModelError


@pytest.fixture
def write(tmp_path):
    def write_file(fill):
        writer = gguf.GGUFWriter(tmp_path / "tiny.gguf", "llama")
        fill(writer)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return tmp_path / "tiny.gguf"

    return write_file


def fill(writer):
    writer.add_uint32("a.int", 7)
    writer.add_float32("a.float", 0.5)
    writer.add_bool("a.bool", True)
    writer.add_string("a.string", "grüße")
    writer.add_array("a.strings", ["x", "", "Ġy"])
    writer.add_array("a.numbers", [1, -2, 3])
    writer.add_tensor("one", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.add_tensor("two", np.arange(4, dtype=np.float16))


def test_every_kind_of_value_is_read(write):
    pairs = read_metadata(write(fill))
    assert pairs["general.architecture"] == "llama"
    assert (pairs["a.int"], pairs["a.float"], pairs["a.bool"], pairs["a.string"]) == (7, 0.5, True, "grüße")
    assert (pairs["a.strings"], pairs["a.numbers"]) == (["x", "", "Ġy"], [1, -2, 3])


def test_tensors_are_where_their_infos_say(write):
    path = write(fill)
    one, two = read_index(path)[1]
    data = path.read_bytes()
    assert (one.name, one.shape, one.type) == ("one", (2, 3), "F32")
    assert np.frombuffer(data[one.offset :][: one.num_bytes], np.float32).tolist() == list(range(6))
    assert (two.name, two.shape, two.type) == ("two", (4,), "F16")
    assert np.frombuffer(data[two.offset :][: two.num_bytes], np.float16).tolist() == list(range(4))


def test_a_file_cut_anywhere_is_an_error(write, tmp_path):
    data = write(fill).read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(0, len(data) - 32, 5):  # the last tensor may be followed by padding
        cut.write_bytes(data[:size])
        with pytest.raises(ModelError):
            read_index(cut)


def test_a_file_with_any_byte_broken_is_read_or_refused(write, tmp_path):
    data = write(fill).read_bytes()
    broken = tmp_path / "broken.gguf"
    for at in range(len(data)):
        broken.write_bytes(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :])
        try:
            infos = read_index(broken)[1]
        except ModelError:
            continue
        assert all(info.offset + info.num_bytes <= len(data) for info in infos)


def test_a_large_vocabulary_is_read_quickly(write):
    words = [f"word{i}" for i in range(50_000)]

    def fill(writer):
        writer.add_array("tokenizer.ggml.tokens", words)
        writer.add_array("tokenizer.ggml.merges", words)

    path = write(fill)
    started = time.process_time()
    assert read_metadata(path)["tokenizer.ggml.merges"] == words
    assert time.process_time() - started < 0.5
