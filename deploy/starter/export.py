"""Checkpoint to GGUF: `python -m deploy.starter.export CHECKPOINT TOKENIZER OUT [--type f32]`."""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch

from deploy.starter.model import Shape
from deploy.starter.tokenizer import CONTROL, END_OF_TEXT, IM_END, Tokenizer

# ChatML. No token stands before the first message: nothing is lost if an engine adds none.
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NAMES = {
    "attn_norm.weight": "attn_norm",
    "ffn_norm.weight": "ffn_norm",
    "q.weight": "attn_q",
    "k.weight": "attn_k",
    "v.weight": "attn_v",
    "out.weight": "attn_output",
    "gate.weight": "ffn_gate",
    "up.weight": "ffn_up",
    "down.weight": "ffn_down",
}


def tensor_name(name: str) -> str:
    """The name that llama.cpp gives to a parameter of model.Starter."""
    if name == "embed.weight":
        return "token_embd.weight"
    if name == "norm.weight":
        return "output_norm.weight"
    if name == "head.weight":
        return "output.weight"
    _, layer, rest = name.split(".", 2)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def put_metadata(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_name("Rill starter")
    writer.add_description("A tiny model that Rill trains itself: stories, counting, questions about Rill.")
    writer.add_author("The Rill authors")
    writer.add_license("MIT")
    writer.add_languages(["en"])
    writer.add_context_length(shape.n_ctx)
    writer.add_embedding_length(shape.n_embd)
    writer.add_block_count(shape.n_layer)
    writer.add_feed_forward_length(shape.n_ff)
    writer.add_head_count(shape.n_head)
    writer.add_head_count_kv(shape.n_head_kv)
    writer.add_layer_norm_rms_eps(shape.rms_eps)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(shape.n_vocab)


def put_tokenizer(writer: gguf.GGUFWriter, tokens: Tokenizer) -> None:
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens.vocabulary)
    writer.add_token_types([control if token in CONTROL else normal for token in tokens.vocabulary])
    writer.add_token_merges([f"{left} {right}" for left, right in tokens.merges])
    writer.add_bos_token_id(tokens.ids[END_OF_TEXT])
    writer.add_eos_token_id(tokens.ids[IM_END])
    writer.add_eot_token_id(tokens.ids[IM_END])
    writer.add_pad_token_id(tokens.ids[END_OF_TEXT])
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)


def export(checkpoint: Path, tokenizer: Path, out: Path, *, quantized: bool = True) -> None:
    """Writes the model: Q8_0 matrices and F32 norms, or everything in F32."""
    state = torch.load(checkpoint, weights_only=True)
    writer = gguf.GGUFWriter(out, "llama")
    put_metadata(writer, Shape(**state["shape"]))
    put_tokenizer(writer, Tokenizer.load(tokenizer))
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantized else gguf.LlamaFileType.ALL_F32)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, weight in state["model"].items():
        values = weight.numpy().astype(np.float32)
        if quantized and values.ndim == 2:
            writer.add_tensor(tensor_name(name), gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", choices=("q8_0", "f32"), default="q8_0")
    args = parser.parse_args()
    export(args.checkpoint, args.tokenizer, args.out, quantized=args.type == "q8_0")
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
