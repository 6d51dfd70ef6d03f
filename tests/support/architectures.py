"""Small random checkpoints of many architectures of transformers, in folders with a tokenizer of DNA."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tr
from tokenizers import Tokenizer, models, pre_tokenizers, processors

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "pad_token_id": 1,
    "bos_token_id": 3,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
ENCODER: dict[str, Any] = {"intermediate_size": 24, "max_position_embeddings": 50}
DECODER: dict[str, Any] = {"intermediate_size": 24, "max_position_embeddings": 48, "num_key_value_heads": 1}
GEMMA: dict[str, Any] = {**DECODER, "head_dim": 8, "sliding_window": 6}
GPT: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 48}


def _made(kind: str, head: str, **fields: Any) -> Callable[[], tr.PreTrainedModel]:
    """A model of class `kind` + `head`, whose configuration has these fields."""

    def make() -> tr.PreTrainedModel:
        config = getattr(tr, f"{kind}Config")(**SIZES | fields)
        model: tr.PreTrainedModel = getattr(tr, kind.removesuffix("Text") + head)(config)
        return model

    return make


ARCHITECTURES: dict[str, Callable[[], tr.PreTrainedModel]] = {
    # --- decoders ---
    "gpt_neox": _made("GPTNeoX", "ForCausalLM", intermediate_size=24, max_position_embeddings=48),
    "gpt_neo": _made(
        "GPTNeo", "ForCausalLM", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]],
        max_position_embeddings=48, window_size=6,
    ),
    "gptj": _made("GPTJ", "ForCausalLM", **GPT, rotary_dim=4),
    "gpt_bigcode": _made("GPTBigCode", "ForCausalLM", **GPT),
    "codegen": _made("CodeGen", "ForCausalLM", **GPT | {"n_head": 4}, num_attention_heads=4, rotary_dim=2, n_ctx=48),
    "bloom": _made("Bloom", "ForCausalLM", n_layer=2, n_head=2),
    "mpt": _made("Mpt", "ForCausalLM", d_model=16, n_heads=2, n_layers=2, max_seq_len=48, expansion_ratio=2),
    "falcon": _made("Falcon", "ForCausalLM", new_decoder_architecture=False, max_position_embeddings=48),
    "gemma": _made("Gemma", "ForCausalLM", **DECODER, head_dim=8),
    "gemma2": _made("Gemma2", "ForCausalLM", **GEMMA),
    "gemma3_text": _made("Gemma3Text", "ForCausalLM", **GEMMA),
    "phi": _made("Phi", "ForCausalLM", **DECODER | {"num_key_value_heads": 2}),
    "phi3": _made("Phi3", "ForCausalLM", **DECODER),
    "mixtral": _made("Mixtral", "ForCausalLM", **DECODER, num_local_experts=2),
    "qwen2_moe": _made(
        "Qwen2Moe", "ForCausalLM", **DECODER, num_experts=2, moe_intermediate_size=8,
        shared_expert_intermediate_size=8, num_experts_per_tok=1,
    ),
    "qwen3_moe": _made("Qwen3Moe", "ForCausalLM", **DECODER, num_experts=2, moe_intermediate_size=8, head_dim=8,
                       num_experts_per_tok=1),
    "olmo": _made("Olmo", "ForCausalLM", **DECODER),
    "olmo2": _made("Olmo2", "ForCausalLM", **DECODER),
    "stablelm": _made("StableLm", "ForCausalLM", **DECODER),
    "starcoder2": _made("Starcoder2", "ForCausalLM", **DECODER, sliding_window=6),
    "cohere": _made("Cohere", "ForCausalLM", **DECODER),
    "granite": _made("Granite", "ForCausalLM", **DECODER),
    "smollm3": _made("SmolLM3", "ForCausalLM", **DECODER),
    "glm": _made("Glm", "ForCausalLM", **DECODER, head_dim=8),
    "nemotron": _made("Nemotron", "ForCausalLM", **DECODER),
    "persimmon": _made("Persimmon", "ForCausalLM", intermediate_size=24, max_position_embeddings=48),
    "biogpt": _made("BioGpt", "ForCausalLM", **ENCODER),
    "xglm": _made("XGLM", "ForCausalLM", d_model=16, ffn_dim=24, num_layers=2, attention_heads=2,
                  max_position_embeddings=48),
    "ctrl": _made("CTRL", "LMHeadModel", **GPT, dff=24),
    "openai-gpt": _made("OpenAIGPT", "LMHeadModel", **GPT),
    "mamba": _made("Mamba", "ForCausalLM", state_size=4),
    "mamba2": _made("Mamba2", "ForCausalLM", state_size=4, head_dim=8, num_heads=4, expand=2, n_groups=1,
                    chunk_size=4),
    "falcon_mamba": _made("FalconMamba", "ForCausalLM", state_size=4),
    "recurrent_gemma": _made("RecurrentGemma", "ForCausalLM", intermediate_size=32, lru_width=16,
                             attention_window_size=8, num_hidden_layers=3),
    "rwkv": _made("Rwkv", "ForCausalLM"),
    # --- encoders ---
    "modernbert": _made("ModernBert", "ForMaskedLM", **ENCODER, local_attention=8, cls_token_id=3, sep_token_id=2),
    "distilbert": _made("DistilBert", "ForMaskedLM", dim=16, n_layers=2, n_heads=2, hidden_dim=24,
                        max_position_embeddings=50),
    "electra": _made("Electra", "ForPreTraining", **ENCODER, embedding_size=8),
    "big_bird": _made("BigBird", "ForMaskedLM", **ENCODER, attention_type="block_sparse", block_size=4),
    "xlm-roberta": _made("XLMRoberta", "ForMaskedLM", **ENCODER),
    "camembert": _made("Camembert", "ForMaskedLM", **ENCODER),
    "roberta-prelayernorm": _made("RobertaPreLayerNorm", "ForMaskedLM", **ENCODER),
    "data2vec-text": _made("Data2VecText", "TextForMaskedLM", **ENCODER),
    "mpnet": _made("MPNet", "ForMaskedLM", **ENCODER),
    "ernie": _made("Ernie", "ForMaskedLM", **ENCODER),
    "rembert": _made("RemBert", "ForMaskedLM", **ENCODER, input_embedding_size=8, output_embedding_size=8),
    "roformer": _made("RoFormer", "ForMaskedLM", **ENCODER, embedding_size=16),
    "deberta": _made("Deberta", "ForMaskedLM", **ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"]),
    "deberta-v2": _made("DebertaV2", "ForMaskedLM", **ENCODER, relative_attention=True, pos_att_type=["c2p", "p2c"],
                        share_att_key=True, position_buckets=8),
    "longformer": _made("Longformer", "ForMaskedLM", **ENCODER, attention_window=4),
    "nystromformer": _made("Nystromformer", "ForMaskedLM", **ENCODER),
    "megatron-bert": _made("MegatronBert", "ForMaskedLM", **ENCODER),
    "convbert": _made("ConvBert", "ForMaskedLM", **ENCODER, embedding_size=8, head_ratio=1),
    "mobilebert": _made("MobileBert", "ForMaskedLM", **ENCODER, embedding_size=8, intra_bottleneck_size=8),
    "xlnet": _made("XLNet", "LMHeadModel", d_model=16, n_layer=2, n_head=2, d_inner=24),
    "xlm": _made("XLM", "WithLMHeadModel", emb_dim=16, n_layers=2, n_heads=2, max_position_embeddings=48),
    "albert": _made("Albert", "ForMaskedLM", **ENCODER, embedding_size=8),
    "fnet": _made("FNet", "ForMaskedLM", **ENCODER),
    "squeezebert": _made("SqueezeBert", "ForMaskedLM", **ENCODER, embedding_size=16, q_groups=1, k_groups=1, v_groups=1,
                         post_attention_groups=1, intermediate_groups=1, output_groups=1),
    "ibert": _made("IBert", "ForMaskedLM", **ENCODER),
    "canine": _made("Canine", "Model", **ENCODER),
    "nomic_bert": _made("NomicBert", "ForMaskedLM", **ENCODER),
    "eurobert": _made("EuroBert", "ForMaskedLM", **DECODER),
    # --- encoder-decoders ---
    "t5": _made("T5", "ForConditionalGeneration", d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
    "bart": _made("Bart", "ForConditionalGeneration", d_model=16, encoder_layers=2, decoder_layers=2,
                  encoder_attention_heads=2, decoder_attention_heads=2, max_position_embeddings=48),
}  # fmt: skip
"""By `model_type`; each has some of: learned, rotary or no positions, fused or convolutional projections, gates,
experts, sliding windows, tied embeddings, heads of several kinds."""


def save_tokenizer(folder: Path, *, pad: bool = True, begin: bool = True) -> None:
    """Bases as tokens, behind a first token where `begin`."""
    words = ["<unk>", "<pad>", "<sep>", "<cls>", "A", "C", "G", "T", "N"]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    names = {"unk_token": "<unk>", "eos_token": "<sep>"} | ({"pad_token": "<pad>"} if pad else {})
    if begin:
        inner.post_processor = processors.TemplateProcessing(single="<cls> $A", special_tokens=[("<cls>", 3)])
        names["cls_token"] = "<cls>"
    tr.PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)


def save_checkpoint(name: str, folder: Path) -> Path:
    """The folder of a random checkpoint, written once."""
    if not folder.exists():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            ARCHITECTURES[name]().save_pretrained(folder)
        decoder = tr.AutoConfig.from_pretrained(folder).architectures[0].endswith(("CausalLM", "LMHeadModel"))
        save_tokenizer(folder, begin=not decoder)
    return folder
