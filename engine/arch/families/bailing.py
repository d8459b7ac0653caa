"""inclusionAI's Ling 3."""

from engine.arch.families.deepseek import dense_first, latent_attention
from engine.arch.families.kimi import deepseek_keys
from engine.arch.hub_config import Config, HubFamily, decoder
from engine.arch.mixer_spec import KimiDeltaAttention, OutputGate
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["HUB"]


def _bailing_hybrid(config: Config) -> ModelArch:
    """Mostly Kimi Delta Attention, with bounded decays, and MLA whose heads have gates; MoE as DeepSeek-V3's."""
    if "kda_lower_bound" not in config:
        raise ModelError("config.json has no kda_lower_bound: the lightning attention of Ling 2.5 is not implemented")
    config = deepseek_keys(config)
    linear = KimiDeltaAttention(
        num_heads=config.get("linear_num_heads") or config["num_attention_heads"],
        head_dim=config.get("linear_head_dim") or config["head_dim"],
        kernel_size=config["short_conv_kernel_size"],
        log_decay_bound=config["kda_lower_bound"] if config.get("kda_safe_gate", True) else None,
    )
    full = latent_attention(config, gate=OutputGate(per_head=True))
    period, count = config["layer_group_size"], config["num_hidden_layers"]
    usual = ["linear_attention" if (layer + 1) % period else "full_attention" for layer in range(count)]
    mixers = [full if kind == "full_attention" else linear for kind in config.get("layer_types") or usual]
    return decoder(config, mixers, dense_first(config), interleaved_rope=True)


HUB = {
    "bailing_hybrid": HubFamily(
        _bailing_hybrid,
        {
            "head_dim": 128,
            "short_conv_kernel_size": 4,
            "layer_group_size": 6,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "v_head_dim": 128,
            "rope_theta": 6_000_000.0,
            "first_k_dense_replace": 2,
            "n_group": 8,
            "topk_group": 4,
            "routed_scaling_factor": 2.5,
            "max_position_embeddings": 262_144,
            "n_routed_experts": 512,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
        },
        {
            "model.word_embeddings.": "model.embed_tokens.",
            ".attention.": ".self_attn.",
            ".self_attn.dense.": ".self_attn.o_proj.",
            ".mlp.gate.expert_bias": ".mlp.gate.e_score_correction_bias",
        },
    )
}
