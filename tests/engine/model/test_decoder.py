import dataclasses
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from engine.cache.cache_layout import CacheLayout
from engine.checkpoint.open import read_arch
from engine.checkpoint.source import resolve
from engine.errors import ModelError
from engine.model.block_tables import BlockTables
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.kernel_set import load_kernels
from tests.engine.model.tiny import CPU, SIZES, Runner, error, oracle, oracle_logits
from tests.engine.model.tiny_families import FAMILIES

TOKENS = torch.randint(97, (50,), generator=torch.Generator().manual_seed(1)).tolist()


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory):
    """(our runner, transformers' logits of every position)"""
    model = oracle(request.param)
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return Runner(folder), oracle_logits(model, TOKENS)


def test_a_whole_prompt_gives_transformers_logits(pair):
    runner, expected = pair
    assert error(runner.logits(TOKENS, 50), expected[-1:]) < 1e-4


def test_chunks_of_three_give_transformers_logits(pair):
    runner, expected = pair
    assert error(runner.logits(TOKENS, 3), expected[[*range(2, 50, 3), 49]]) < 1e-4


def test_single_tokens_give_transformers_logits(pair):
    runner, expected = pair
    assert error(runner.logits(TOKENS, 1), expected) < 1e-4


def test_sequences_in_one_batch_do_not_touch_each_other(pair):
    runner, expected = pair
    runner.step([(0, 0, TOKENS[:20]), (1, 0, TOKENS[:7]), (2, 0, TOKENS[:33])])
    out = runner.step([(0, 20, TOKENS[20:21]), (1, 7, TOKENS[7:12]), (2, 33, TOKENS[33:34])])
    assert error(out, expected[[20, 11, 33]]) < 1e-4


@pytest.fixture
def folder(tmp_path):
    oracle("llama3").save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_shards_are_found_through_the_index(tmp_path):
    model = oracle("qwen2")
    model.save_pretrained(tmp_path, max_shard_size="60KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_a_missing_shard_is_named(tmp_path):
    oracle("qwen2").save_pretrained(tmp_path, max_shard_size="60KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        Runner(tmp_path)


def test_a_missing_tensor_is_named(folder):
    rewrite(folder, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        Runner(folder)


def test_a_tensor_too_many_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(48)}))
    with pytest.raises(ModelError, match=r"model\.layers\.0\.self_attn\.q_proj\.bias"):
        Runner(folder)


@pytest.mark.parametrize(
    "name", ["layers.1.scale", "layers.1.self_attn.slope_rate", "layers.1.mlp.experts.9.up_proj.weight"]
)
def test_what_only_other_families_leave_unread_is_named(folder, name):
    rewrite(folder, lambda tensors: tensors.update({f"model.{name}": torch.zeros(4)}))
    with pytest.raises(ModelError, match=f"does not know: model.{name}"):
        Runner(folder)


def test_stored_rotary_frequencies_are_ignored(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}))
    assert Runner(folder).logits(TOKENS[:3], 3).shape == (1, 97)


def test_a_wrong_shape_is_named(folder):
    rewrite(folder, lambda tensors: tensors.update({"model.norm.weight": torch.zeros(47)}))
    with pytest.raises(ModelError, match=r"model\.norm\.weight has the shape \[47\].*\[48\]"):
        Runner(folder)


def test_a_broken_file_is_named(folder):
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(ModelError, match=r"model\.safetensors: not a readable"):
        Runner(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "'bert' is not supported; supported are llama, .*, mistral, .*, qwen2"),
        ({"model_type": "mamba"}, "'mamba' is not supported: the first Mamba's selective scan"),
        ({"model_type": None}, "is not supported"),
        ({"model_type": "mistral_large4"}, "'mistral_large4' is not supported: latents that layers share"),
        ({"model_type": "gemma4_text", "use_bidirectional_attention": "all"}, "use_bidirectional_attention"),
        ({"model_type": "longcat_flash", "router_bias": True}, "router_bias"),
        ({"model_type": "longcat_flash", "zero_expert_type": "copy"}, "zero_expert_type 'copy'"),
        ({"hidden_act": "gelu"}, "'gelu' is not supported"),
        (
            {"quantization_config": {"quant_method": "bitsandbytes"}},
            "'bitsandbytes' is not supported; supported is gptq",
        ),
        ({"quantization_config": {"quant_method": "gptq", "bits": 3}}, "3 bits is not supported; supported is 4 and 8"),
        ({"quantization_config": {"quant_method": "awq", "version": "gemv"}}, "'gemv' with 4 bits is not supported"),
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "in the form None is not supported"),
        ({"quantization_config": [1]}, "quantization_config is not complete"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1.0}}, "'dynamic' is not supported"),
        ({"rope_parameters": {"rope_type": "longrope", "long_factor": [1.0]}}, "not complete.*short_factor"),
        ({"hidden_size": None}, "not complete"),
        ({"model_type": "gemma3"}, "not complete.*text_config"),
        ({"model_type": "olmoe", "clip_qkv": 8.0}, "clip_qkv"),
        ({"model_type": "phi", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "stablelm", "qk_layernorm": True}, "qk_layernorm"),
        ({"model_type": "falcon", "alibi": True}, "alibi"),
        ({"model_type": "starcoder2", "hidden_act": "selu"}, "hidden_act 'selu' is not supported; supported are relu2"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "3 of 2 experts"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "use_bidirectional_attention"),
        ({"model_type": "gemma2", "hidden_activation": "relu"}, "hidden_activation 'relu' is not supported"),
    ],
)
def test_an_unknown_model_says_what_is_known(folder, change, message):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(ModelError, match=message):
        Runner(folder)


def test_factors_of_a_long_context_follow_from_how_long_it_may_get(tmp_path):
    model = oracle("phi3 longrope")
    model.save_pretrained(tmp_path)
    short, long = (Runner(tmp_path, max_model_len=most).logits(TOKENS[:32], 7)[-1:] for most in (32, 33))
    assert error(short, oracle_logits(model, TOKENS[:32])[-1:]) < 1e-4
    assert error(long, oracle_logits(model, TOKENS)[31:32]) < 1e-4
    assert error(short, long) > 1e-2


def test_a_window_that_no_sequence_outgrows_is_none(tmp_path):
    kernels, seen = load_kernels(CPU, torch.float32), []

    def attend(*args, **options):
        seen.append(args[3].window)
        return kernels.paged_attention(*args, **options)

    oracle("phi3").save_pretrained(tmp_path)
    watched = dataclasses.replace(kernels, paged_attention=attend)
    for window, expected in ((9, 9), (255, 255), (256, 0)):
        rewrite_config(tmp_path, lambda config, window=window: config.update(sliding_window=window))
        Runner(tmp_path, kernels=watched).logits(TOKENS[:3], 3)
        assert seen.pop() == expected


def forward_batch(runner, sequences):
    scheduled = SchedulerOutput(0, tuple(sequences))
    tables = BlockTables.of(scheduled, runner.block_size, runner.kv.layout.groups)
    return ForwardBatch.from_scheduled(scheduled, tables, CPU)


@pytest.mark.parametrize("family", ["gemma3n", "gemma4"])
def test_layers_that_write_no_keys_compute_the_sampled_rows_of_a_prompt_alone(tmp_path, family):
    kernels, seen = load_kernels(CPU, torch.float32), []

    def attend(*args, **options):
        seen.append(len(args[0]))
        return kernels.paged_attention(*args, **options)

    oracle(family).save_pretrained(tmp_path)
    runner = Runner(tmp_path, kernels=dataclasses.replace(kernels, paged_attention=attend))
    readers = sum(source != layer for layer, source in enumerate(map(runner.decoder.arch.kv_layer, range(7))))
    pieces = [(0, 0, TOKENS[:20], True), (1, 0, TOKENS[:9], False), (2, 0, TOKENS[:1], True)]
    sequences = tuple(
        ScheduledSequence(seq, start, tuple(tokens), runner.blocks(seq, len(tokens)), samples)
        for seq, start, tokens, samples in pieces
    )
    batch = forward_batch(runner, sequences)
    found = runner.decoder.forward(batch, runner.kv)
    assert seen == [30] * (7 - readers) + [2] * readers
    whole = runner.decoder.forward(dataclasses.replace(batch, samples_last=False), runner.kv)
    assert error(found, whole) < 1e-5
    # of a prompt that goes on, no row is needed there
    seen.clear()
    nothing = forward_batch(runner, sequences[1:2])
    assert runner.decoder.forward(nothing, runner.kv).shape == (0, 97)
    assert seen == [9] * (7 - readers)


def test_a_stack_of_matrices_that_has_other_rows_is_named(tmp_path):
    oracle("phi3").save_pretrained(tmp_path)
    name = "model.layers.1.self_attn.qkv_proj.weight"
    rewrite(tmp_path, lambda tensors: tensors.update({name: torch.zeros(95, 48)}))
    with pytest.raises(ModelError, match=r"layers\.1\.self_attn\.qkv_proj.*\[95, 48\].* 96 rows"):
        Runner(tmp_path)


def rewrite_config(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def test_configs_of_older_transformers_are_read(folder):
    def change(config):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope

    expected = Runner(folder).logits(TOKENS, 50)
    rewrite_config(folder, change)
    assert torch.equal(Runner(folder).logits(TOKENS, 50), expected)


def test_old_gemma_configs_leave_out_what_their_class_knows(tmp_path):
    def change(config):
        rope = config.pop("rope_parameters")
        config["rope_scaling"] = {"rope_type": "linear", "factor": rope["full_attention"]["factor"]}
        config["sliding_window_pattern"] = 6
        for key in ("layer_types", "hidden_activation", "tie_word_embeddings", "use_bidirectional_attention"):
            del config[key]

    oracle("gemma3").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)


def test_the_first_gemma_means_the_gelu_that_it_was_trained_with(tmp_path):
    model = oracle("gemma")
    model.save_pretrained(tmp_path)
    rewrite_config(tmp_path, lambda config: config.update(hidden_act="gelu", hidden_activation=None))
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4


TEXT = {**SIZES, "num_hidden_layers": 2, "head_dim": 16}
EYES = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 48}
OTHER_EYES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
MROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]}
DELTA = {"linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 12}
SEEING = {
    "Qwen2_5_VL": ({"head_dim": 12, "rope_parameters": {**MROPE, "mrope_section": [2, 2, 2]}}, EYES),
    "Qwen3VL": ({"rope_parameters": MROPE}, {**EYES, "deepstack_visual_indexes": [0]}),
    "Qwen3_5": ({**DELTA, "layer_types": ["linear_attention", "full_attention"]}, EYES),
    "Mistral3": ({}, OTHER_EYES),
    "Gemma4": (
        {
            "global_head_dim": 24,
            "vocab_size_per_layer_input": 97,
            "hidden_size_per_layer_input": 8,
            "tie_word_embeddings": True,
            "pad_token_id": 96,
        },
        {**OTHER_EYES, "head_dim": 16},
    ),
    "Gemma4Unified": (
        {"global_head_dim": 24, "tie_word_embeddings": True, "pad_token_id": 96},
        {"patch_size": 2, "mm_embed_dim": 16, "mm_posemb_size": 8, "output_proj_dims": 16},
    ),
    "Llama4": (
        {"num_local_experts": 2, "intermediate_size_mlp": 64},
        {**OTHER_EYES, "vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32},
    ),
}


@pytest.mark.parametrize("family", SEEING)
def test_the_text_part_of_a_model_that_sees_is_transformers(tmp_path, family):
    text, eyes = SEEING[family]
    torch.manual_seed(1)
    config = getattr(transformers, f"{family}Config")(text_config={**TEXT, **text}, vision_config=eyes)
    config._attn_implementation = config.get_text_config()._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForConditionalGeneration")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    model.save_pretrained(tmp_path)
    assert error(Runner(tmp_path).logits(TOKENS, 7)[-1:], oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_keys_and_values_of_layers_that_read_those_of_another_may_be_there(tmp_path):
    model = oracle("gemma4")
    model.save_pretrained(tmp_path)
    at = "model.layers.6.self_attn"
    rewrite(tmp_path, lambda tensors: tensors.update({f"{at}.k_proj.weight": torch.zeros(48, 48)}))
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4
    rewrite(tmp_path, lambda tensors: tensors.update({"model.layers.0.self_attn.x_proj.weight": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"does not know: model\.layers\.0\.self_attn\.x_proj"):
        Runner(tmp_path)


def test_layers_of_gemma4_configs_have_numbers_of_one_length(tmp_path):
    def change(config):
        config["per_layer_config"] = {key.zfill(2): heads for key, heads in config["per_layer_config"].items()}

    oracle("gemma4").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)


def test_released_gemma4_configs_have_the_heads_of_all_global_layers(tmp_path):
    def change(config):
        del config["per_layer_config"], config["rope_parameters"]
        config.update(global_head_dim=24, num_global_key_value_heads=1)

    oracle("gemma4 moe").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)


def test_layers_that_read_keys_and_values_of_another_have_no_cache(tmp_path):
    oracle("gemma4").save_pretrained(tmp_path)
    arch = read_arch(resolve(str(tmp_path)))
    assert [arch.kv_layer(layer) for layer in range(7)] == [0, 1, 2, 1, 2, 1, 1]
    layout = CacheLayout.of(arch, 1)
    assert [layout.pages[layer] for layer in (3, 4, 5, 6)] == [layout.pages[layer] for layer in (1, 2, 1, 1)]
    assert {layer: group.window for group in layout.groups for layer in group.layers} == {0: 9, 1: 0, 2: 9}


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_of_a_model_that_sees_the_language_model_is_served(tmp_path, prefix, caplog):
    model = oracle("gemma3")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {prefix + name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    senses = {
        "vision_tower.vision_model.post_layernorm.bias",
        "multi_modal_projector.mm_soft_emb_norm.weight",
        "audio_tower.conformer.0.bias",
    }
    save_file(tensors | {name: torch.zeros(3) for name in senses}, tmp_path / "model.safetensors")
    text = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gemma3", "text_config": text}))
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4
    assert "images and audio are not read: 3 tensors" in caplog.text
    rewrite(tmp_path, lambda tensors: tensors.update({"smell_tower.weight": torch.zeros(3)}))
    with pytest.raises(ModelError, match=r"does not know: smell_tower\.weight"):
        Runner(tmp_path)


@pytest.mark.parametrize("pattern", [4, "LLLG", None])
def test_which_layers_have_windows_can_be_a_pattern(tmp_path, pattern):
    def change(config):
        del config["layer_types"]
        config["sliding_window_pattern"] = pattern

    oracle("exaone4").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)


def test_older_configs_scale_only_the_layers_that_see_everything(tmp_path):
    def change(config):
        rope = config.pop("rope_parameters")["full_attention"]
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope
        del config["layer_types"]  # every fourth is known

    oracle("olmo3").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)


def test_minimax_names_its_factors_otherwise_than_transformers(tmp_path):
    def change(config):
        kinds = config.pop("layer_types")
        for name in [name for name in config if name.endswith("_factor")]:
            kind, which = name.removesuffix("_factor").rsplit("_", 1)
            config[f"layernorm_{kind.replace('attn', 'attention')}_{which}"] = config.pop(name)
        config |= {"model_type": "minimax_m1", "postnorm": True, "shared_intermediate_size": [0] * 4}
        config["attn_type_list"] = [int(kind == "full_attention") for kind in kinds]

    oracle("minimax").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)
    rewrite_config(tmp_path, lambda config: config.update(postnorm=False))
    with pytest.raises(ModelError, match="postnorm"):
        Runner(tmp_path)


def test_the_released_mimo_config_names_layers_by_numbers(tmp_path):
    def change(config):
        kinds, sparse, ropes = (config.pop(key) for key in ("layer_types", "mlp_layer_types", "rope_parameters"))
        config["hybrid_layer_pattern"] = [int(kind == "sliding_attention") for kind in kinds]
        config["moe_layer_freq"] = [int(kind == "sparse") for kind in sparse]
        config["sliding_window_size"] = config.pop("sliding_window") - 1
        config["layernorm_epsilon"] = config.pop("rms_norm_eps")
        full, local = ropes["full_attention"], ropes["sliding_attention"]
        config |= {"rope_theta": full["rope_theta"], "swa_rope_theta": local["rope_theta"]}
        config |= {"partial_rotary_factor": full["partial_rotary_factor"], "swa_num_key_value_heads": 4}

    oracle("mimo v2 flash").save_pretrained(tmp_path)
    expected = Runner(tmp_path).logits(TOKENS, 50)
    rewrite_config(tmp_path, change)
    assert torch.equal(Runner(tmp_path).logits(TOKENS, 50), expected)
    rewrite_config(tmp_path, lambda config: config.update(swa_head_dim=32))
    with pytest.raises(ModelError, match="swa_head_dim is not supported other than head_dim"):
        Runner(tmp_path)


def test_the_masks_in_old_gpt_neox_checkpoints_stay_unread(tmp_path):
    model = oracle("gpt neox")
    model.save_pretrained(tmp_path)
    at = "gpt_neox.layers.1.attention"
    masks = {f"{at}.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool), f"{at}.masked_bias": torch.tensor(-1e9)}
    rewrite(tmp_path, lambda tensors: tensors.update(masks))
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_released_ax_k1_checkpoints_have_no_corrections_and_norms_behind_dense_layers(tmp_path):
    model = oracle("a.x k1")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.mlp.gate.e_score_correction_bias.zero_()
    model.save_pretrained(tmp_path)
    corrections = [f"model.layers.{layer}.mlp.gate.e_score_correction_bias" for layer in (1, 2)]

    def change(tensors):
        for name in corrections:
            del tensors[name]
        tensors["model.layers.0.post_mlp_layernorm.weight"] = torch.ones(48)

    rewrite(tmp_path, change)
    assert error(Runner(tmp_path).logits(TOKENS, 50), oracle_logits(model, TOKENS)[-1:]) < 1e-4


def test_phi_moe_scales_queries_and_keys_by_how_long_the_context_may_get(tmp_path):
    factors = {"short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0], "long_factor": [1.0, 2.0, 3.0, 5.0, 9.0, 17.0]}
    scales = {"short_mscale": 1.2, "long_mscale": 1.4, "original_max_position_embeddings": 32}
    model = oracle("phi moe", rope_parameters={"rope_type": "longrope", "rope_theta": 1e4, **factors, **scales})
    model.save_pretrained(tmp_path)
    short = Runner(tmp_path, max_model_len=32).logits(TOKENS[:32], 7)[-1:]
    assert error(short, oracle_logits(model, TOKENS[:32])[-1:]) < 1e-4
    # long factors that are the short ones leave the other scale alone
    rewrite_config(tmp_path, lambda config: config["rope_parameters"].update(long_factor=factors["short_factor"]))
    model.config.rope_parameters["short_mscale"] = 1.4
    long = Runner(tmp_path, max_model_len=64).logits(TOKENS[:32], 7)[-1:]
    assert error(long, oracle_logits(model, TOKENS[:32])[-1:]) < 1e-4
    assert error(long, short) > 1e-2
