#!/usr/bin/env python3
"""make_smollm2.py MODEL.gguf: reference log-probabilities of SmolLM2-135M-Instruct (Q4_1) for tests/cpu/smollm2.cpp.

transformers runs the dequantized weights (gguf-py) in float32, eager attention, over four texts. Written to
tests/data/smollm2:
  prompts.txt   ids of each text, one line each
  top.bin       per position, texts one after the other: the 64 likeliest ids (u16, likeliest first), then their natural
                log-probabilities (f32)
Of a distribution q to be tested the test takes log q at the 64 ids and the mass of all others, and sums
KL = sum over 64 of p (log p - log q) + p_rest (log p_rest - log q_rest): the divergence of the distributions with all
other tokens seen as one, which is never above the full one and close to it because the rest is small.
"""
import os, sys
import numpy as np
import torch
from gguf import GGUFReader, quants
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

TEXTS = [
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nExplain to a child why the sky is blue during the day and red in the evening.<|im_end|>\n"
    "<|im_start|>assistant\nSunlight looks white, but it is made of many colors mixed together. When the light travels "
    "through the air, it bumps into tiny molecules. Blue light is scattered in all directions much more than red light, "
    "so when we look up we see blue coming from everywhere. In the evening the sun is low, and its light has to pass "
    "through much more air before it reaches our eyes. Most of the blue has been scattered away by then, and what is "
    "left is orange and red.<|im_end|>\n",
    "The history of the lighthouse goes back to antiquity. Fires were lit on hilltops to guide ships into port, and later "
    "placed on platforms so that they could be seen from farther away. The most famous of them stood in Alexandria, and "
    "was counted among the wonders of the world. In the eighteenth century engineers learned to build towers on rocks "
    "that were covered by every tide. Each stone was cut to interlock with its neighbours, so that the weight of the sea "
    "only pressed them closer together. Lamps burned oil, and then gas, and the great glass lenses that were ground to "
    "gather their light are still the pride of many museums.",
    "def merge_sort(items):\n    \"\"\"Return a new sorted list.\"\"\"\n    if len(items) <= 1:\n        return list(items)\n"
    "    middle = len(items) // 2\n    left = merge_sort(items[:middle])\n    right = merge_sort(items[middle:])\n"
    "    result = []\n    i = j = 0\n    while i < len(left) and j < len(right):\n        if left[i] <= right[j]:\n"
    "            result.append(left[i])\n            i += 1\n        else:\n            result.append(right[j])\n"
    "            j += 1\n    result.extend(left[i:])\n    result.extend(right[j:])\n    return result\n\n\n"
    "print(merge_sort([3, 1, 4, 1, 5, 9, 2, 6]))\n",
    "Question: A baker makes 24 loaves of bread in the morning and 18 in the afternoon. He sells 31 of them. How many are "
    "left?\nAnswer: In the whole day he makes 24 + 18 = 42 loaves. After selling 31 there are 42 - 31 = 11 loaves left.\n\n"
    "Question: A train leaves at 9:40 and arrives at 12:05. How long is the journey?\nAnswer: From 9:40 to 12:00 there are "
    "2 hours and 20 minutes, and 5 more minutes until 12:05, so the journey takes 2 hours and 25 minutes.\n\n"
    "Question: Maria has 3 boxes with 12 pencils each and gives 10 pencils to her brother. How many does she keep?\n"
    "Answer: She starts with 3 * 12 = 36 pencils and keeps 36 - 10 = 26 of them.\n",
]


NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def load(path):
    file = GGUFReader(path)
    key = lambda k: file.fields["llama." + k].contents()
    config = LlamaConfig(
        vocab_size=key("vocab_size"), hidden_size=key("embedding_length"), intermediate_size=key("feed_forward_length"),
        num_hidden_layers=key("block_count"), num_attention_heads=key("attention.head_count"),
        num_key_value_heads=key("attention.head_count_kv"), max_position_embeddings=key("context_length"),
        rms_norm_eps=key("attention.layer_norm_rms_epsilon"), rope_theta=key("rope.freq_base"),
        tie_word_embeddings=True, attn_implementation="eager")
    state = {}
    for t in file.tensors:
        w = quants.dequantize(t.data, t.tensor_type).astype(np.float32)
        parts = t.name.split(".")
        if parts[0] == "blk":
            # The converter interleaves the halves of each head's rows of q and k: undone here.
            if parts[2] in ("attn_q", "attn_k"):
                heads = config.num_attention_heads if parts[2] == "attn_q" else config.num_key_value_heads
                w = w.reshape(heads, w.shape[0] // heads // 2, 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
            name = f"model.layers.{parts[1]}.{NAMES[parts[2]]}.weight"
        else:
            name = {"token_embd": "model.embed_tokens.weight", "output_norm": "model.norm.weight"}[parts[0]]
        state[name] = torch.from_numpy(w.copy())
    model = LlamaForCausalLM(config).float().eval()
    missing = model.load_state_dict(state, strict=False)
    assert set(missing.missing_keys) <= {"lm_head.weight"} and not missing.unexpected_keys, missing
    model.tie_weights()
    return model


def main(path):
    folder, name = os.path.split(os.path.realpath(path))
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    model = load(path)
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "smollm2")
    os.makedirs(out, exist_ok=True)
    total = 0
    with open(os.path.join(out, "prompts.txt"), "w") as prompts, open(os.path.join(out, "top.bin"), "wb") as top:
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            total += len(ids)
            prompts.write(" ".join(map(str, ids)) + "\n")
            with torch.no_grad():
                logits = model(torch.tensor([ids])).logits[0].double()
            log_p = torch.log_softmax(logits, -1)
            value, index = torch.topk(log_p, 64, dim=-1)
            for v, i in zip(value, index):
                top.write(i.numpy().astype("<u2").tobytes() + v.numpy().astype("<f4").tobytes())
    print(total, "tokens")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
