"""NVIDIA's Nemotron models. Nemotron-H and Nemotron 3 have layers of one part each: Mamba-2, attention, an MLP or
experts.
"""

from engine.arch import gguf_config as gguf
from engine.arch.families.granite import step_limit
from engine.arch.families.llama import biases
from engine.arch.feed_forward_spec import FeedForward, MoE, Router, UngatedMlp
from engine.arch.hub_config import Config, HubFamily, attention, decoder, layer_norm, ungated
from engine.arch.layer_spec import LayerSpec
from engine.arch.mixer_spec import Mamba2, Mixer
from engine.arch.model_arch import ModelArch
from engine.errors import ModelError

__all__ = ["GGUF", "HUB"]


def _nemotron(config: Config) -> ModelArch:
    """Nemotron 4 and Minitron."""
    mlp = ungated(config, config["mlp_bias"])
    return decoder(config, attention(config, **biases(config)), mlp, **layer_norm(config["norm_eps"]), norm_offset=1.0)


def _nemotron_h(config: Config) -> ModelArch:
    for key in ("mlp_hidden_act", "mamba_hidden_act"):
        known = "relu2" if key == "mlp_hidden_act" else "silu"
        if config.get(key, known) != known:
            raise ModelError(f"{key} {config[key]!r} is not supported; supported is {known}")
    parts: dict[str, tuple[Mixer | None, FeedForward | None]] = {
        "mamba": (_mamba(config), None),
        "attention": (attention(config, rope=None), None),
        "mlp": (
            None,
            UngatedMlp(dim=config["intermediate_size"], activation="relu2", bias=config.get("mlp_bias", False)),
        ),
    }
    kinds = _kinds(config)
    if "moe" in kinds:
        parts["moe"] = None, _moe(config)
    layers = tuple(LayerSpec(mixer=parts[kind][0], feed_forward=parts[kind][1], norms="single") for kind in kinds)
    return ModelArch(
        vocab_size=config["vocab_size"],
        model_dim=config["hidden_size"],
        layers=layers,
        norm_eps=config.get("layer_norm_epsilon", 1e-5),
        max_model_len=config["max_position_embeddings"],
        tied=config.get("tie_word_embeddings", False),
    )


def _kinds(config: Config) -> list[str]:
    if pattern := config.get("hybrid_override_pattern"):
        return [{"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}[letter] for letter in pattern]
    usual = {"linear_attention": "mamba", "full_attention": "attention"}
    kinds = config.get("layers_block_type") or config["layer_types"]
    return [usual.get(kind, kind) for kind in kinds]


def _mamba(config: Config) -> Mamba2:
    return Mamba2(
        num_heads=config["mamba_num_heads"],
        head_dim=config["mamba_head_dim"],
        num_groups=config["n_groups"],
        state_dim=config["ssm_state_size"],
        kernel_size=config["conv_kernel"],
        conv_bias=config.get("use_conv_bias", True),
        bias=config.get("use_bias", False),
        step_limit=step_limit(config),
    )


def _moe(config: Config) -> MoE:
    router = Router(
        num_experts=config["n_routed_experts"],
        experts_per_token=config["num_experts_per_tok"],
        scoring="sigmoid",
        renormalizes=config.get("norm_topk_prob", True),
        correction_bias=True,
        num_groups=config.get("n_group") or 1,
        groups_per_token=config.get("topk_group") or 1,
        scale=config.get("routed_scaling_factor", 1.0),
    )
    shared_dim = config["moe_shared_expert_intermediate_size"]
    return MoE(
        router=router,
        dim=config["moe_intermediate_size"],
        activation="relu2",
        shared=UngatedMlp(dim=shared_dim, activation="relu2") if config.get("n_shared_experts", 1) else None,
        latent_dim=config.get("moe_latent_size") or 0,
    )


ATTENTION = {f".mixer.{name}_proj.": f".self_attn.{name}_proj." for name in "qkvo"}
MAMBA = {
    f".mixer.{name}": f".mamba.{name}" for name in ("in_proj", "conv1d", "out_proj", "A_log", "D", "dt_bias", "norm")
}

HUB = {
    "nemotron": HubFamily(
        _nemotron, {"partial_rotary_factor": 0.5, "norm_eps": 1e-5, "mlp_bias": False, "hidden_act": "relu2"}
    ),
    "nemotron_h": HubFamily(
        _nemotron_h,
        {
            "head_dim": 128,
            "num_key_value_heads": 8,
            "mamba_num_heads": 128,
            "mamba_head_dim": 64,
            "n_groups": 8,
            "ssm_state_size": 128,
            "conv_kernel": 4,
            "intermediate_size": 21504,
            "max_position_embeddings": 4096,
        },
        {
            "backbone.": "model.",
            "model.embeddings.": "model.embed_tokens.",
            "model.norm_f.": "model.norm.",
            **ATTENTION,
            **MAMBA,
            ".mixer.": ".mlp.",
        },
    ),
}


# -- GGUF


def _gguf_nemotron_h(file: gguf.Metadata) -> ModelArch:
    """What a layer is follows from its tensors."""
    shapes = file.shapes
    full = gguf.attention(file, rope=None)
    mamba = gguf.mamba2(file)

    def of_layer(layer: int) -> tuple[Mixer | None, FeedForward | None]:
        at = f"blk.{layer}."
        if f"{at}ssm_in.weight" in shapes:
            return mamba, None
        if f"{at}attn_q.weight" in shapes:
            return full, None
        return None, _gguf_moe(file, at) if f"{at}ffn_gate_inp.weight" in shapes else _gguf_mlp(file, f"{at}ffn_up")

    mixers, ffns = zip(*map(of_layer, range(gguf.num_layers(file))), strict=True)
    return gguf.decoder(file, mixers, ffns, "single")


def _gguf_mlp(file: gguf.Metadata, name: str) -> UngatedMlp:
    return UngatedMlp(dim=file.shapes[f"{name}.weight"][0], activation="relu2", bias=f"{name}.bias" in file.shapes)


def _gguf_nemotron(file: gguf.Metadata) -> ModelArch:
    return gguf.decoder(file, gguf.attention(file), gguf.ungated(file, "relu2"), **gguf.layer_norm(file))


def _gguf_moe(file: gguf.Metadata, at: str) -> MoE:
    shared = _gguf_mlp(file, f"{at}ffn_up_shexp") if f"{at}ffn_up_shexp.weight" in file.shapes else None
    latent_dim = file.shapes.get(f"{at}ffn_latent_down.weight", (0,))[0]
    return gguf.experts(file, renormalizes=True, activation="relu2", shared=shared, latent_dim=latent_dim)


GGUF_NAMES = {
    **gguf.MAMBA_NAMES,
    "attn_norm": "norm",
    "ffn_latent_down": "mlp.fc1_latent_proj",
    "ffn_latent_up": "mlp.fc2_latent_proj",
}
GGUF = {
    "nemotron": gguf.GgufFamily(_gguf_nemotron),
    **dict.fromkeys(("nemotron_h", "nemotron_h_moe"), gguf.GgufFamily(_gguf_nemotron_h, GGUF_NAMES)),
}
