"""The table of model families of engine/arch/README.md: python -m scripts.families prints it."""

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["FAMILIES", "Family", "rows"]


class Family(NamedTuple):
    """A row of the table: model_type or GGUF architectures, and the models that people know."""

    types: tuple[str, ...]
    gguf: tuple[str, ...]
    models: str
    layers: str


# model_types, GGUF architectures, models, layers
FAMILIES = (
    Family(("llama",), ("llama",), "Llama 2 and 3.x, SmolLM2", "attention"),
    Family(("llama4_text",), ("llama4",), "Llama 4", "chunked attention, NoPE layers; MoE with a shared expert"),
    Family(
        ("mistral", "ministral", "ministral3"),
        ("llama", "mistral3"),
        "Mistral, Ministral, Small 3",
        "attention, sliding windows",
    ),
    Family(("mistral4",), ("mistral4",), "Mistral Small 4", "MLA; MoE"),
    Family(("mixtral",), ("llama",), "Mixtral", "attention; MoE"),
    Family(("qwen2", "qwen3"), ("qwen2", "qwen3"), "Qwen 2, 2.5, 3, QwQ", "attention"),
    Family(("qwen2_moe", "qwen3_moe"), ("qwen2moe", "qwen3moe"), "Qwen 2 and 3 MoE", "attention; MoE"),
    Family(("mellum",), (), "Mellum 2", "attention, sliding windows; dense or MoE"),
    Family(
        ("qwen3_next", "qwen3_5_moe_text"),
        ("qwen3next", "qwen35moe"),
        "Qwen3-Next, 3.5 MoE",
        "gated delta net, gated attention; MoE",
    ),
    Family(("qwen3_5_text",), ("qwen35",), "Qwen 3.5", "gated delta net, gated attention"),
    Family(
        ("gemma", "gemma2", "gemma3_text"), ("gemma", "gemma2", "gemma3"), "Gemma 1 to 3", "attention, sliding windows"
    ),
    Family(("vaultgemma",), (), "VaultGemma", "attention, sliding windows"),
    Family(
        ("gemma3n_text",),
        ("gemma3n",),
        "Gemma 3n",
        "attention, sliding windows, shared KV, per-layer embeddings, AltUp, LAuReL",
    ),
    Family(
        ("gemma4_text", "gemma4_unified_text"),
        ("gemma4",),
        "Gemma 4",
        "attention, sliding windows, shared KV, per-layer embeddings; dense or MoE",
    ),
    Family(
        ("deepseek_v2", "deepseek_v3", "kimi_k2"),
        ("deepseek2",),
        "DeepSeek V2, V3, R1, Kimi K2",
        "MLA; MoE, dense first",
    ),
    Family(("deepseek_v32",), (), "DeepSeek V3.2", "MLA with an indexer (sparse attention); MoE, dense first"),
    Family(("glm_moe_dsa",), (), "GLM-5", "MLA with an indexer in some layers (sparse attention); MoE, dense first"),
    Family(
        ("kimi_linear",),
        ("kimi-linear",),
        "Kimi Linear",
        "Kimi delta attention, MLA without positions; MoE, dense first",
    ),
    Family(("bailing_hybrid",), (), "Ling 3", "Kimi delta attention with bounded decays, gated MLA; MoE, dense first"),
    Family(
        ("longcat_flash",), (), "LongCat-Flash", "two of MLA and MLP a layer; MoE beside the second, with zero experts"
    ),
    Family(("glm", "glm4"), ("glm4",), "GLM-4", "attention"),
    Family(("glm4_moe",), ("glm4moe",), "GLM-4.5 to 4.7", "attention; MoE, dense first"),
    Family(("solar_open",), (), "Solar Open", "attention; MoE"),
    Family(("glm4_moe_lite",), ("deepseek2",), "GLM-4.7-Flash", "MLA; MoE, dense first"),
    Family(
        ("minimax", "minimax_text_01", "minimax_m1"), (), "MiniMax-Text-01, M1", "lightning attention, attention; MoE"
    ),
    Family(("minimax_m2",), ("minimax-m2",), "MiniMax M2", "attention; MoE"),
    Family(("gpt_oss",), ("gpt-oss",), "gpt-oss", "attention with sinks, sliding windows; MoE"),
    Family(("lfm2", "lfm2_moe"), ("lfm2", "lfm2moe"), "LFM2", "short convolution, attention; dense or MoE"),
    Family(("lfm3",), (), "LFM3", "short convolution, gated attention, sliding windows"),
    Family(("granite",), ("granite",), "Granite 3", "attention"),
    Family(("granitemoe", "granitemoeshared"), ("granitemoe",), "Granite 3 MoE", "attention; MoE"),
    Family(("granitemoehybrid",), ("granitehybrid",), "Granite 4", "Mamba-2, attention; dense or MoE"),
    Family(
        ("granite_swa", "granitemoe_swa"),
        (),
        "Granite with windows",
        "attention with sinks, sliding windows, NoPE layers; dense or MoE",
    ),
    Family(("bamba",), ("granitehybrid",), "Bamba", "Mamba-2, attention"),
    Family(("hyperclovax",), (), "HyperCLOVA X SEED", "attention"),
    Family(("falcon_h1",), ("falcon-h1",), "Falcon-H1", "attention beside Mamba-2"),
    Family(
        ("nemotron_h",),
        ("nemotron_h", "nemotron_h_moe"),
        "Nemotron-H, Nemotron 3",
        "Mamba-2, attention, MLP or MoE, one a layer",
    ),
    Family(("phi3",), ("phi3",), "Phi-3, 3.5, 4-mini", "attention"),
    Family(("phi",), ("phi2",), "Phi-1, 1.5, 2", "attention beside the MLP; LayerNorm"),
    Family(("phimoe",), ("phimoe",), "Phi-3.5 MoE", "attention, sliding windows; MoE; LayerNorm"),
    Family(("olmo",), ("olmo",), "OLMo", "attention; LayerNorm"),
    Family(("olmo2", "olmo3"), ("olmo2",), "OLMo 2 and 3", "attention, sliding windows"),
    Family(("olmo_hybrid",), (), "OLMo Hybrid", "gated delta net, attention"),
    Family(("olmoe",), ("olmoe",), "OLMoE", "attention; MoE"),
    Family(("flex_olmo",), (), "FlexOlmo", "attention; MoE"),
    Family(("exaone4",), ("exaone4",), "EXAONE 4", "sliding windows, NoPE layers"),
    Family(("exaone_moe",), (), "K-EXAONE", "sliding windows, NoPE layers; MoE, dense first"),
    Family(
        ("cohere", "cohere2"),
        ("command-r", "cohere2"),
        "Command R, R7B, A",
        "attention beside the MLP; sliding windows, NoPE layers",
    ),
    Family(("cohere2_moe",), (), "Command A MoE", "attention beside MoE, dense first; sliding windows, NoPE layers"),
    Family(("ernie4_5", "ernie4_5_moe"), ("ernie4_5", "ernie4_5-moe"), "ERNIE 4.5", "attention; dense or MoE"),
    Family(
        ("hunyuan_v1_dense", "hunyuan_v1_moe"), ("hunyuan-dense", "hunyuan-moe"), "Hunyuan", "attention; dense or MoE"
    ),
    Family(("hy_v3",), (), "Hunyuan 3", "attention; MoE, dense first"),
    Family(("youtu",), (), "Youtu-LLM", "MLA"),
    Family(("dots1",), ("dots1",), "dots.llm1", "attention; MoE, dense first"),
    Family(("seed_oss",), ("seed_oss",), "Seed-OSS", "attention"),
    Family(("apertus", "arcee"), ("apertus", "arcee"), "Apertus, Arcee AFM", "attention; MLP without gate"),
    Family(("smollm3",), ("smollm3",), "SmolLM3", "attention, NoPE layers"),
    Family(("internlm3", "iquestcoder", "helium"), (), "InternLM 3, IQuest Coder, Helium", "attention"),
    Family(("afmoe",), (), "Trinity", "gated attention, sliding windows, NoPE layers; MoE, dense first"),
    Family(("laguna",), (), "Laguna", "gated attention, sliding windows; MoE, dense first"),
    Family(
        ("mimo_v2_flash",),
        (),
        "MiMo V2 Flash",
        "attention with values smaller than keys, sinks, sliding windows; MoE, dense first",
    ),
    Family(("minicpm3",), ("minicpm3",), "MiniCPM 3", "MLA"),
    Family(("nanochat",), (), "nanochat", "attention; MLP without gate"),
    Family(("kolibri1",), (), "Kolibri", "attention, sliding windows, NoPE layers; MoE"),
    Family(("axk1",), (), "A.X K1", "MLA; MoE, dense first"),
    Family(("flint",), (), "Flint", "attention with sinks, sliding windows, NoPE layers; MoE, dense first"),
    Family(("nemotron",), ("nemotron",), "Nemotron 4, Minitron", "attention; MLP without gate; LayerNorm"),
    Family(("stablelm",), ("stablelm",), "StableLM 2", "attention, beside the MLP in some; LayerNorm"),
    Family(("starcoder2",), ("starcoder2",), "StarCoder 2", "attention, sliding windows; MLP without gate; LayerNorm"),
    Family(("jais2",), ("jais2",), "Jais 2", "attention; MLP without gate; LayerNorm"),
    Family(("gpt_neox",), ("gptneox",), "GPT-NeoX, Pythia", "attention beside the MLP; LayerNorm"),
    Family(("falcon",), (), "Falcon", "attention beside the MLP; LayerNorm"),
    Family(("cwm",), (), "Code World Model", "attention, sliding windows"),
)


def rows() -> Iterator[str]:
    yield "| model | `model_type` | GGUF | layers |"
    yield "|---|---|---|---|"
    for family in FAMILIES:
        types, gguf = (", ".join(f"`{name}`" for name in names) for names in (family.types, family.gguf))
        yield f"| {family.models} | {types} | {gguf or '-'} | {family.layers} |"


if __name__ == "__main__":
    print("\n".join(rows()))
