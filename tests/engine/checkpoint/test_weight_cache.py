import logging
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import gguf
import numpy as np
import pytest
import torch

from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.packed_file import HEAD, PAGE, DamagedFileError, PackedFile, PackedFileWriter
from engine.checkpoint.source import resolve
from engine.checkpoint.weight_cache import WeightCache, weight_key
from engine.model.decoder import Decoder
from engine.parallel.tensor_parallel import TensorParallel
from kernels.kernel_set import load_kernels
from kernels.native.compiler import find_compiler
from tests.engine.checkpoint.test_gguf_weights import write
from tests.engine.model.tiny import CPU, Runner, oracle
from tests.engine.model.tiny_families import FAMILIES

TOKENS = torch.randint(97, (40,), generator=torch.Generator().manual_seed(2)).tolist()
LARGE = 1 << 30

needs_a_compiler = pytest.mark.skipif(find_compiler() is None, reason="no C compiler")


def quantized(path):
    """A file of 4 bits, in which down projections stay fp32: what is stacked is, and is not, of one kind."""

    def quantize(tensors):
        for name, (array, _) in tensors.items():
            kind = gguf.GGMLQuantizationType.Q8_0 if "attn_v" in name else gguf.GGMLQuantizationType.Q4_1
            if array.shape[-1] % 32 == 0 and array.ndim == 2:
                tensors[name] = (gguf.quants.quantize(np.ascontiguousarray(array), kind), kind)

    return write(oracle("llama wide heads"), path, "llama", quantize)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quantized(tmp_path_factory.mktemp("model") / "tiny.gguf")


def start(model, folder, max_bytes=LARGE):
    runner = Runner(model, torch.bfloat16, weight_cache=WeightCache(max_bytes, folder, least_bytes=0))
    return runner.logits(TOKENS, 7)


@pytest.fixture
def starts(model, tmp_path, caplog):
    """Starts a model; returns its logits and whether it packed weights for that or found them."""

    def run(path=model, **changes):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="engine.checkpoint.weight_cache"):
            logits = start(path, tmp_path, **changes)
        said = " ".join(record.message for record in caplog.records)
        return logits, "packed" if "packed into" in said else "mapped" if "mapped from" in said else "alone"

    return run


def the_file(folder):
    (path,) = folder.glob("*.packed")
    return path


@needs_a_compiler
@pytest.mark.parametrize("name", [*FAMILIES, "4 bits"])
def test_logits_are_bitwise_those_of_weights_that_are_packed_at_each_start(name, tmp_path):
    if name == "4 bits":
        path = quantized(tmp_path / "tiny.gguf")
    else:
        path = tmp_path / "model"
        oracle(name).save_pretrained(path)
    alone = Runner(path, torch.bfloat16).logits(TOKENS, 7)
    first, second = (start(path, tmp_path / "cache") for _ in range(2))
    assert torch.equal(first, alone) and torch.equal(second, alone)
    assert the_file(tmp_path / "cache").stat().st_mode & 0o777 == 0o600


class Padded(TensorParallel):
    """The last of two ranks, on its own: its head has a row of zeros, and its columns may go through a group."""

    def gather_columns(self, x_RV, num_columns):
        return x_RV


@needs_a_compiler
@pytest.mark.parametrize("name", ["llama3", "4 bits"])
def test_a_ranks_shard_is_found_again(name, tmp_path):
    path = quantized(tmp_path / "tiny.gguf") if name == "4 bits" else tmp_path / "model"
    if name != "4 bits":
        oracle(name).save_pretrained(path)
    files = resolve(str(path))
    arch = read_arch(files)
    x_RM, logits = torch.randn(2, arch.model_dim).bfloat16(), []
    for max_bytes in (0, LARGE, LARGE):
        cache = WeightCache(max_bytes, tmp_path / "cache", least_bytes=0)
        kernels = load_kernels(CPU, torch.bfloat16, memory=cache)
        build = partial(rank_of, files, arch, kernels, cache)
        logits.append(cache.load(files, "rank 1 of 2", build).logits(x_RM))
    assert all(torch.equal(one, logits[0]) for one in logits)


def rank_of(files, arch, kernels, cache):
    weights = open_weights(files, arch, torch.bfloat16, CPU, kernels.quantized_linear is not None, cache)
    return Decoder(arch, weights, kernels, 64, Padded(1, 2))


@needs_a_compiler
def test_only_the_first_start_packs(starts):
    assert [starts()[1] for _ in range(3)] == ["packed", "mapped", "mapped"]


@needs_a_compiler
def test_two_starts_at_once_pack_once(model, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="engine.checkpoint.weight_cache"), ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: start(model, tmp_path), range(2))
    assert torch.equal(first, second)
    assert sum("packed into" in record.message for record in caplog.records) == 1


def cut_off(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    os.truncate(path, 0)


def flip(at):
    def change(path):
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)

    return change


def replace_by_another_models(path):
    other = PackedFileWriter(path, "another key", LARGE)
    other.add("packed 0", torch.arange(9))
    other.finish()


def let_others_write(path):
    path.chmod(0o666)


def put_a_link_there(path):
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


@needs_a_compiler
@pytest.mark.parametrize(
    "damage",
    [cut_off, empty, flip(0), flip(HEAD.size - 1), flip(PAGE), flip(-1), replace_by_another_models, let_others_write,
     put_a_link_there],
)  # fmt: skip
def test_a_damaged_or_foreign_file_is_noticed_and_written_again(damage, starts, tmp_path):
    logits, _ = starts()
    damage(the_file(tmp_path))
    for expected in ("packed", "mapped"):
        found, how = starts()
        assert how == expected and torch.equal(found, logits)


@needs_a_compiler
def test_what_a_crash_left_is_not_read(starts, tmp_path):
    starts()
    path = the_file(tmp_path)
    path.rename(path.with_suffix(".tmp"))
    assert starts()[1] == "packed"
    assert not path.with_suffix(".tmp").exists()


@needs_a_compiler
def test_a_checkpoint_that_has_changed_is_packed_anew_into_the_same_file(starts, model, tmp_path, caplog):
    before = model.stat()
    starts()
    path = the_file(tmp_path)
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert [starts()[1] for _ in range(2)] == ["packed", "mapped"]
    os.utime(model, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert starts()[1] == "packed" and the_file(tmp_path) == path
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


def test_settings_are_part_of_the_key(model):
    files = resolve(str(model))
    assert weight_key(files, "rank 0 of 2") != weight_key(files, "rank 1 of 2")


def test_each_setting_has_a_file_of_its_own(model, tmp_path):
    for settings in ("rank 0 of 2", "rank 1 of 2"):
        WeightCache(LARGE, tmp_path, least_bytes=0).load(resolve(str(model)), settings, lambda: None)
    assert len(list(tmp_path.glob("*.packed"))) == 2


@needs_a_compiler
def test_the_least_recently_used_files_go(starts, model, tmp_path):
    starts()
    size, times = the_file(tmp_path).stat().st_size, [1, 2, 3]
    for time in times:
        (tmp_path / f"{time}.packed").write_bytes(bytes(size))
        os.utime(tmp_path / f"{time}.packed", (time, time))
    the_file_of_model = next(path for path in tmp_path.glob("*.packed") if path.stem not in "123")
    the_file_of_model.unlink()
    assert starts(max_bytes=2 * size + 1000)[1] == "packed"
    assert {path.stem for path in tmp_path.glob("*.packed")} == {the_file_of_model.stem, "3"}


@needs_a_compiler
def test_what_is_larger_than_the_folder_may_be_is_not_kept(starts, tmp_path, caplog):
    logits, how = starts(max_bytes=10_000)
    assert how == "alone" and "more than 10000 bytes" in caplog.text
    assert not [*tmp_path.glob("*.packed"), *tmp_path.glob("*.tmp")]
    assert torch.equal(starts()[0], logits)


def test_it_can_be_off(starts, tmp_path):
    assert starts(max_bytes=0)[1] == "alone"
    assert not list(tmp_path.iterdir())


@needs_a_compiler
def test_a_folder_that_cannot_be_made_costs_the_sharing_alone(model, tmp_path, caplog):
    (tmp_path / "file").touch()
    logits = start(model, tmp_path / "file" / "cache")
    assert torch.equal(start(model, tmp_path), logits)
    assert "engine.weight_cache_bytes" in caplog.text


def test_a_failure_of_the_model_itself_is_not_hidden_and_leaves_nothing(model, tmp_path):
    def build():
        raise OSError("no such tensor")

    with pytest.raises(OSError, match="no such tensor"):
        WeightCache(LARGE, tmp_path, least_bytes=0).load(resolve(str(model)), "key", build)
    assert not [*tmp_path.glob("*.packed"), *tmp_path.glob("*.tmp")]


def test_pieces_are_what_was_added(tmp_path):
    path = tmp_path / "a.packed"
    writer, tensor = PackedFileWriter(path, "key", LARGE), torch.randn(3, 5000)
    writer.add("a", tensor.T, facts=["float32", 5000, 3])
    writer.add("b", torch.tensor([7], dtype=torch.uint8), num_bytes=3)
    writer.add("c")
    writer.finish()
    file = PackedFile(path, "key")
    assert torch.equal(file.tensor("a").view(torch.float32).view(5000, 3), tensor.T)
    assert file.tensor("b").tolist() == [7, 0, 0] and file.tensor("c").tolist() == []
    assert file.pieces["a"]["facts"] == ["float32", 5000, 3] and file.tensor("a").data_ptr() % PAGE == 0
    with pytest.raises(DamagedFileError, match="something else"):
        PackedFile(path, "another")
