"""Tiny random models of transformers, saved as the hub has them, and our decoder run over them step by step."""

from pathlib import Path

import torch
import transformers
from torch import Tensor

from engine.cache.cache_layout import CacheLayout
from engine.cache.kv_cache import KVCache
from engine.checkpoint.open import open_weights, read_arch
from engine.checkpoint.source import resolve
from engine.checkpoint.weight_cache import WeightCache
from engine.model.block_tables import BlockTables
from engine.model.decoder import Decoder
from engine.model.forward_batch import ForwardBatch
from engine.scheduling.scheduler_output import ScheduledSequence, SchedulerOutput
from kernels.kernel_set import KernelSet, load_kernels

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
CPU = torch.device("cpu")


def rope(kind: str, **more) -> dict:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


LLAMA3 = rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=32)

LONGROPE = {
    "original_max_position_embeddings": 32,
    **rope(
        "longrope",
        short_factor=[1.0, 1.1, 1.2, 1.4, 1.7, 2.0],
        long_factor=[1.0, 2.0, 3.0, 5.0, 9.0, 17.0],
        partial_rotary_factor=0.75,
    ),
}

FALCON_H1 = {
    "mamba_d_ssm": 96,
    "mamba_n_heads": 6,
    "mamba_n_groups": 2,
    "mamba_d_state": 20,
    "embedding_multiplier": 3.0,
    "lm_head_multiplier": 0.5,
    "attention_in_multiplier": 0.9,
    "attention_out_multiplier": 1.3,
    "key_multiplier": 0.7,
    "ssm_in_multiplier": 1.2,
    "ssm_out_multiplier": 0.8,
    "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
    "mlp_multipliers": [0.8, 1.4],
}

GEMMA4 = {
    "num_hidden_layers": 7,
    "head_dim": 16,
    "global_head_dim": 24,
    "sliding_window": 9,
    "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"],
    "vocab_size_per_layer_input": 97,
    "hidden_size_per_layer_input": 8,
    "tie_word_embeddings": True,
}

# name -> (transformers' family, what differs from SIZES)
FAMILIES = {
    "llama2": ("Llama", {"num_key_value_heads": 4}),
    "llama3": ("Llama", LLAMA3),
    "llama linear": ("Llama", rope("linear", factor=2.0)),
    "llama yarn": ("Llama", rope("yarn", factor=4.0, original_max_position_embeddings=32)),
    "llama biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama wide heads": ("Llama", {"head_dim": 32}),
    "llama whole groups": ("Llama", {"hidden_size": 64, "intermediate_size": 128}),
    "smollm2": ("Llama", {"tie_word_embeddings": True, "num_attention_heads": 3, "num_key_value_heads": 1}),
    "mistral": ("Mistral", {"sliding_window": 9, "head_dim": 16}),
    "mistral without window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2 windows": ("Qwen2", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "phi3": ("Phi3", {"sliding_window": 9, "pad_token_id": 0}),
    "phi3 whole groups": ("Phi3", {"hidden_size": 64, "intermediate_size": 128, "pad_token_id": 0}),
    "phi3 longrope": ("Phi3", {"hidden_size": 64, "pad_token_id": 0, "tie_word_embeddings": True, **LONGROPE}),
    "olmo2": ("Olmo2", {"pad_token_id": 0}),
    "olmo3": (
        "Olmo3",
        {
            "num_hidden_layers": 4,
            "sliding_window": 9,
            "pad_token_id": 0,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 10000.0,
                    "factor": 4.0,
                    "original_max_position_embeddings": 32,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "gemma": ("Gemma", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2",
        {
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "num_hidden_layers": 7,
            "head_dim": 16,
            "sliding_window": 9,
            "query_pre_attn_scalar": 24,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "gemma3n": (
        "Gemma3n",
        {
            "num_hidden_layers": 7,
            "head_dim": 16,
            "intermediate_size": [80, 64, 80, 80, 80, 80, 80],
            "activation_sparsity_pattern": [0.9, 0.0, 0.6, 0.0, 0.0, 0.5, 0.0],
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention"] * 3 + ["full_attention"],
            "num_kv_shared_layers": 3,
            "vocab_size_per_layer_input": 90,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 12,
            "altup_num_inputs": 3,
            "final_logit_softcapping": 4.0,
            "tie_word_embeddings": True,
        },
    ),
    "gemma4": (
        "Gemma4",
        {**GEMMA4, "num_kv_shared_layers": 4, "use_double_wide_mlp": True, "final_logit_softcapping": 4.0},
    ),
    "gemma4 moe": (
        "Gemma4",
        {
            **GEMMA4,
            "hidden_size_per_layer_input": 0,
            "attention_k_eq_v": True,
            "num_global_key_value_heads": 1,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
        },
    ),
    "gemma4 unified": (
        "Gemma4Unified",
        {
            "num_hidden_layers": 6,
            "head_dim": 16,
            "global_head_dim": 24,
            "num_global_key_value_heads": 1,
            "sliding_window": 9,
            "attention_k_eq_v": True,
            "tie_word_embeddings": True,
        },
    ),
    "qwen3 moe": (
        "Qwen3Moe",
        {
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "norm_topk_prob": True,
            "head_dim": 16,
        },
    ),
    "qwen3 moe whole groups": (
        "Qwen3Moe",
        {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "hidden_size": 64,
            "norm_topk_prob": True,
            "head_dim": 16,
        },
    ),
    "mixtral": ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 9, "head_dim": 16}),
    "olmoe": ("Olmoe", {"num_experts": 6, "num_experts_per_tok": 2, "pad_token_id": 0}),
    "gpt oss": (
        "GptOss",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "hidden_size": 64,
            "intermediate_size": 32,
            "head_dim": 16,
            "sliding_window": 9,
            **rope("yarn", factor=4.0, original_max_position_embeddings=32, truncate=False),
        },
    ),
    "glm": ("Glm", {"head_dim": 16, "pad_token_id": 0}),
    "glm4": ("Glm4", {"head_dim": 24, "pad_token_id": 0}),
    "smollm3": ("SmolLM3", {"num_hidden_layers": 4, "pad_token_id": 0}),
    "smollm3 windows": (
        "SmolLM3",
        {"no_rope_layers": [1, 0, 0], "use_sliding_window": True, "sliding_window": 9, "pad_token_id": 0},
    ),
    "granite": (
        "Granite",
        {
            "embedding_multiplier": 12.3,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.4,
            "logits_scaling": 7.0,
            "tie_word_embeddings": True,
        },
    ),
    "ministral": (
        "Ministral",
        {"head_dim": 16, "sliding_window": 9, "layer_types": ["sliding_attention", "full_attention", "full_attention"]},
    ),
    "exaone4": ("Exaone4", {"num_hidden_layers": 5, "sliding_window": 9, "head_dim": 16}),
    "exaone4 without windows": ("Exaone4", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "qwen3 biases": ("Qwen3", {"head_dim": 16, "attention_bias": True}),
    "ministral3": (
        "Ministral3",
        {
            "head_dim": 16,
            **rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=16,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.3,
            ),
        },
    ),
    "seed oss": ("SeedOss", {"head_dim": 16, "attention_out_bias": True}),
    "arcee": ("Arcee", {"head_dim": 16, "mlp_bias": True}),
    "apertus": ("Apertus", {"hidden_act": "xielu", "pad_token_id": 0}),
    "llama4": (
        "Llama4",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "intermediate_size_mlp": 64,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 9,
            "floor_scale": 8,
            "no_rope_layer_interval": 2,
        },
    ),
    "llama4 without norms": (
        "Llama4",
        {"head_dim": 16, "num_local_experts": 4, "use_qk_norm": False, "attn_temperature_tuning": False},
    ),
    "qwen2 moe": (
        "Qwen2Moe",
        {
            "num_hidden_layers": 4,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 40,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [1],
        },
    ),
    "glm4 moe": (
        "Glm4Moe",
        {
            "head_dim": 16,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "moe_intermediate_size": 32,
            "n_group": 4,
            "topk_group": 2,
            "routed_scaling_factor": 1.7,
            "use_qk_norm": True,
            "attention_bias": True,
            "num_mtp_layers": 0,
        },
    ),
    "deepseek v2": (
        "DeepseekV2",
        {
            "q_lora_rank": None,
            "num_key_value_heads": 4,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "topk_method": "group_limited_greedy",
            "first_k_dense_replace": 1,
            "routed_scaling_factor": 1.5,
        },
    ),
    "deepseek v3": (
        "DeepseekV3",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 20,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            "attention_bias": True,
            "num_mtp_layers": 0,
            **rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0),
        },
    ),
    "mistral4": (
        "Mistral4",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 20,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_group": 4,
            "topk_group": 2,
            "first_k_dense_replace": 1,
            **rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=16,
                mscale=1.0,
                mscale_all_dim=1.0,
                llama_4_scaling_beta=0.3,
            ),
        },
    ),
    "longcat flash": (
        "LongcatFlash",
        {
            "num_layers": 2,
            "ffn_hidden_size": 80,
            "num_key_value_heads": 4,
            "q_lora_rank": 20,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "head_dim": 8,
            "v_head_dim": 16,
            "moe_topk": 4,
            "n_routed_experts": 6,
            "zero_expert_num": 3,
            "expert_ffn_hidden_size": 32,
            "routed_scaling_factor": 2.0,
        },
    ),
    "glm4 moe lite": (
        "Glm4MoeLite",
        {
            "q_lora_rank": 20,
            "kv_lora_rank": 24,
            "qk_nope_head_dim": 12,
            "qk_rope_head_dim": 8,
            "v_head_dim": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "num_key_value_heads": 4,
        },
    ),
    "qwen3 next": (
        "Qwen3Next",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 12,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 40,
        },
    ),
    "qwen3.5": (
        "Qwen3_5",
        {
            "head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 12,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
        },
    ),
    "qwen3.5 moe": (
        "Qwen3_5Moe",
        {
            "head_dim": 16,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 12,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 40,
        },
    ),
    "lfm2": ("Lfm2", {"full_attn_idxs": [1], "block_multiple_of": 16, "conv_bias": True}),
    "lfm2 moe": (
        "Lfm2Moe",
        {
            "layer_types": ["conv", "full_attention", "conv"],
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "num_dense_layers": 1,
        },
    ),
    "granite hybrid": (
        "GraniteMoeHybrid",
        {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "shared_intermediate_size": 40,
            "attention_multiplier": 0.3,
            "mamba_n_heads": 6,
            "mamba_d_head": 16,
            "mamba_n_groups": 1,
            "mamba_d_state": 20,
            "mamba_expand": 2,
        },
    ),
    "granite hybrid dense": (
        "GraniteMoeHybrid",
        {
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "num_local_experts": 0,
            "shared_intermediate_size": 40,
            "position_embedding_type": "rope",
            "residual_multiplier": 0.7,
            "mamba_n_heads": 6,
            "mamba_d_head": 16,
            "mamba_n_groups": 2,
            "mamba_d_state": 20,
            "mamba_expand": 2,
        },
    ),
    "bamba": (
        "Bamba",
        {
            "attn_layer_indices": [1],
            "head_dim": 12,
            "mamba_n_heads": 6,
            "mamba_d_head": 16,
            "mamba_n_groups": 2,
            "mamba_d_state": 20,
            "mamba_expand": 2,
        },
    ),
    "falcon h1": ("FalconH1", {**FALCON_H1, "mamba_rms_norm": True}),
    "falcon h1 without norm": ("FalconH1", FALCON_H1),
    "nemotron h": (
        "NemotronH",
        {
            "layers_block_type": ["linear_attention", "moe", "full_attention", "mlp", "linear_attention"],
            "head_dim": 16,
            "mamba_num_heads": 6,
            "mamba_head_dim": 16,
            "n_groups": 2,
            "ssm_state_size": 20,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 40,
            "moe_latent_size": 32,
            "routed_scaling_factor": 1.5,
        },
    ),
    "dots1": (
        "Dots1",
        {
            "head_dim": 16,
            "n_routed_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "n_shared_experts": 2,
            "first_k_dense_replace": 1,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        },
    ),
    "minimax": (
        "MiniMax",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "block_size": 16,
            "num_local_experts": 4,
            "full_attn_alpha_factor": 3.5,
            "full_attn_beta_factor": 0.7,
            "linear_attn_alpha_factor": 2.5,
            "linear_attn_beta_factor": 0.8,
            "mlp_alpha_factor": 3.0,
            "mlp_beta_factor": 0.9,
        },
    ),
    "minimax m2": (
        "MiniMaxM2",
        {
            "head_dim": 16,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            **rope("default", partial_rotary_factor=0.5),
        },
    ),
    "granite moe": (
        "GraniteMoe",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "attention_multiplier": 0.3, "residual_multiplier": 0.5},
    ),
    "granite moe shared": (
        "GraniteMoeShared",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "shared_intermediate_size": 40, "logits_scaling": 3.0},
    ),
    "cohere": ("Cohere", {"tie_word_embeddings": True, "logit_scale": 0.3, "pad_token_id": 0}),
    "cohere2": (
        "Cohere2",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "sliding_window_pattern": 4,
        },
    ),
    "ernie": ("Ernie4_5", {"head_dim": 16, "use_bias": True, "tie_word_embeddings": True}),
    "ernie moe": (
        "Ernie4_5_Moe",
        {
            "moe_num_experts": 6,
            "moe_k": 2,
            "moe_intermediate_size": 32,
            "moe_num_shared_experts": 1,
            "tie_word_embeddings": True,
        },
    ),
    "hunyuan": ("HunYuanDenseV1", {"head_dim": 16, **rope("dynamic", alpha=4.0, factor=1.0), "pad_token_id": 0}),
    "youtu": (
        "Youtu",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 24,
            "kv_lora_rank": 32,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
            "pad_token_id": 0,
        },
    ),
    "internlm3": ("InternLM3", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "iquest coder": ("IQuestCoder", {"head_dim": 16}),
    "helium": ("Helium", {"head_dim": 12}),
    "cwm": ("Cwm", {"num_hidden_layers": 5, "head_dim": 16, "sliding_window": 9, "eos_token_id": 2, **LLAMA3}),
    "k-exaone": (
        "ExaoneMoe",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "pad_token_id": 0,
        },
    ),
    "solar open": (
        "SolarOpen",
        {"head_dim": 16, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "granite swa": (
        "GraniteSWA",
        {
            "num_hidden_layers": 5,
            "sliding_window": 9,
            "layer_rope_theta": [10000.0, 500.0, 0, 10000.0, 500.0],
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.2,
            "logits_scaling": 2.0,
            "pad_token_id": 0,
        },
    ),
    "hyperclova": (
        "HyperCLOVAX",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.7, "logits_scaling": 0.5, "pad_token_id": 0},
    ),
    "flex olmo": ("FlexOlmo", {"num_experts": 5, "num_experts_per_tok": 2, "pad_token_id": 0}),
    "mellum": (
        "Mellum",
        {
            "num_hidden_layers": 4,
            "head_dim": 16,
            "sliding_window": 9,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 1.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 1.0},
            },
        },
    ),
    "vaultgemma": (
        "VaultGemma",
        {"head_dim": 16, "sliding_window": 9, "query_pre_attn_scalar": 24, "tie_word_embeddings": True},
    ),
    "trinity": (
        "Afmoe",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "num_shared_experts": 2,
            "moe_intermediate_size": 32,
            "route_scale": 1.5,
            "mup_enabled": True,
        },
    ),
    "cohere2 moe": (
        "Cohere2Moe",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "num_experts": 6,
            "num_shared_experts": 1,
            "shared_expert_combination_strategy": "sum",
            "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
            + ["full_attention"],
            "mlp_layer_types": ["dense"] + ["sparse"] * 4,
            "prefix_dense_intermediate_size": 64,
            "tie_word_embeddings": True,
        },
    ),
    "lfm3": (
        "Lfm3",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "layer_types": ["conv", "sliding_attention", "full_attention", "conv", "sliding_attention"],
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
    ),
    "laguna": (
        "Laguna",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 9,
            "layer_types": ["full_attention", "sliding_attention"] * 2 + ["sliding_attention"],
            "num_attention_heads_per_layer": [4, 6, 4, 6, 6],
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 24,
            "moe_routed_scaling_factor": 1.5,
        },
    ),
    "olmo hybrid": (
        "OlmoHybrid",
        {
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 12,
            "linear_value_head_dim": 12,  # transformers saves convolutions of other sizes in equal parts
            "layer_types": ["linear_attention", "full_attention"] * 2,
            "pad_token_id": 0,
            "eos_token_id": 2,
        },
    ),
    "hunyuan 3": (
        "HYV3",
        {
            "head_dim": 16,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "router_scaling_factor": 1.5,
            "pad_token_id": 0,
        },
    ),
    "hunyuan moe": ("HunYuanMoEV1", {"head_dim": 16, "num_experts": 4, "moe_topk": 2, "pad_token_id": 0}),
}


def oracle(name: str, **more: object) -> transformers.PreTrainedModel:
    """A model of transformers with random weights, norms and biases included. `more`: changes of its config."""
    family, changes = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    kind = {
        "Gemma3": "Gemma3TextConfig",
        "Gemma3n": "Gemma3nTextConfig",
        "Gemma4": "Gemma4TextConfig",
        "Gemma4Unified": "Gemma4UnifiedTextConfig",
        "Llama4": "Llama4TextConfig",
        "Qwen3_5": "Qwen3_5TextConfig",
        "Qwen3_5Moe": "Qwen3_5MoeTextConfig",
    }.get(family, f"{family}Config")
    sizes = {name: size for name, size in SIZES.items() if name != "num_hidden_layers" or "num_layers" not in changes}
    config = getattr(transformers, kind)(**{**sizes, **changes, **more})
    config._attn_implementation = "eager"  # the others leave soft caps out
    made_of = getattr(transformers, f"{family}ForCausalLM", transformers.LlamaForCausalLM)  # or a Llama by config
    model = made_of(config).eval()
    with torch.no_grad():
        for parameter in (*model.parameters(), *_stored_buffers(model)):
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    return model


def _stored_buffers(model: transformers.PreTrainedModel) -> list[Tensor]:
    """Those that a checkpoint has and that may be any: routers' correction biases, scales of layers."""
    ends = ("e_score_correction_bias", "expert_bias", "layer_scalar")
    return [buffer for name, buffer in model.named_buffers() if name.endswith(ends)]


@torch.no_grad()
def oracle_logits(model: transformers.PreTrainedModel, tokens: list[int]) -> Tensor:
    return model(torch.tensor([tokens])).logits[0].float()


class Runner:
    """Our decoder with a cache of its own; computes token lists in any pieces and returns the logits of all rows."""

    def __init__(
        self,
        path: Path | str,
        dtype: torch.dtype = torch.float32,
        block_size: int = 4,
        kernels: KernelSet | None = None,
        cache_dtype: torch.dtype | None = None,
        keeps_ints: bool = True,
        max_model_len: int = 256,
        device: torch.device = CPU,
        weight_cache: WeightCache | None = None,
    ) -> None:
        self.device = device
        files = resolve(str(path))
        arch = read_arch(files)
        cache = weight_cache or WeightCache(0)
        self.block_size = block_size
        self.width = 256 // block_size
        kernels = kernels or load_kernels(CPU, dtype, cache_dtype=cache_dtype, memory=cache)
        keeps_ints = keeps_ints and kernels.quantized_linear is not None

        def build() -> Decoder:
            return Decoder(arch, open_weights(files, arch, dtype, device, keeps_ints, cache), kernels, max_model_len)

        self.decoder = cache.load(files, f"{kernels.name} {dtype} {keeps_ints}", build)
        layout = CacheLayout.of(arch, block_size, max_model_len)
        self.num_groups = len(layout.groups)
        self.kv = KVCache(layout, 20 * self.width * self.num_groups, cache_dtype or dtype, device, num_states=20)

    def step(self, pieces: list[tuple[int, int, list[int]]]) -> Tensor:
        """Computes (sequence, start, tokens) pieces together and returns the logits of their last rows."""
        sequences = tuple(
            ScheduledSequence(seq, start, tuple(tokens), self.blocks(seq, start + len(tokens)), True, state=seq)
            for seq, start, tokens in pieces
        )
        scheduled = SchedulerOutput(0, sequences)
        tables = BlockTables.of(scheduled, self.block_size, self.kv.layout.groups)
        return self.decoder.forward(ForwardBatch.from_scheduled(scheduled, tables, self.device), self.kv)

    def blocks(self, seq: int, num_tokens: int) -> tuple[tuple[int, ...], ...]:
        # neighboring sequences share no run of blocks: block w of sequence s in group g is (w * 20 + s) * groups + g
        numbers = range(-(-num_tokens // self.block_size))
        return tuple(tuple((w * 20 + seq) * self.num_groups + g for w in numbers) for g in range(self.num_groups))

    def logits(self, tokens: list[int], chunk: int) -> Tensor:
        """The logits after each chunk of one sequence."""
        return torch.cat(
            [self.step([(0, start, tokens[start : start + chunk])]) for start in range(0, len(tokens), chunk)]
        )


def error(out: Tensor, expected: Tensor) -> float:
    assert not out.isnan().any()
    return ((out - expected).norm() / expected.norm()).item()
