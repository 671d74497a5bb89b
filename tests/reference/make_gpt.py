"""gpt2, llama, llama_dyt .safetensors: tiny Hugging Face language models, all of them.

Each file holds every parameter under Hugging Face's name (GPT2LMHeadModel, LlamaForCausalLM),
`tokens` and `labels` [N, T] int64, `logits` [N, T, V], `loss` (mean over N and T) and
grad.<parameter>; the sizes are in the metadata entry `config`. gpt2's head is tied to the embedding,
the llamas' is not; llama has grouped-query attention. llama_dyt has DyT without bias for every
RMSNorm, and its embeddings times the learned scalar model.embed_scale.
"""

import json
import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from fixture import Fixture, rounded

TEXTS, TOKENS = 2, 11
GPT2_SIZES = dict(vocab_size=61, n_positions=16, n_embd=32, n_layer=2, n_head=2)
LLAMA_SIZES = dict(
    vocab_size=61,
    max_position_embeddings=16,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)


class DynamicTanh(nn.Module):
    """weight * tanh(alpha * x): without bias, as in a LLaMA."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), 0.5))
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x):
        return self.weight * torch.tanh(self.alpha * x)


class ScaledEmbedding(nn.Module):
    """A LlamaForCausalLM that reads scale * embedding."""

    def __init__(self, model):
        super().__init__()
        self.inner = model
        model.model.embed_scale = nn.Parameter(torch.full((1,), math.sqrt(model.config.hidden_size)))

    def forward(self, tokens):
        embedded = self.inner.model.embed_scale * self.inner.model.embed_tokens(tokens)
        return self.inner(inputs_embeds=embedded)


def replace_rmsnorm(module):
    for name, child in module.named_children():
        if isinstance(child, LlamaRMSNorm):
            setattr(module, name, DynamicTanh(child.weight.shape[0]))
        else:
            replace_rmsnorm(child)


def randomize(model, generator):
    """Random values everywhere, so that no mistake hides behind an initial 0 or 1."""

    def normal(shape, scale, mean=0.0):
        return torch.randn(shape, generator=generator, dtype=torch.float64) * scale + mean

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("alpha"):
                value = normal(parameter.shape, 0.1, mean=0.6)
            elif name.endswith("embed_scale"):
                value = normal(parameter.shape, 0.1, mean=1.5)
            elif parameter.dim() == 1:
                value = normal(parameter.shape, 0.2, mean=1.0 if name.endswith("weight") else 0.0)
            elif "wpe" in name or "wte" in name or "embed_tokens" in name:
                value = normal(parameter.shape, 0.5)
            else:
                value = normal(parameter.shape, 1 / math.sqrt(max(parameter.shape)))
            parameter.copy_(rounded(value))


def store(name, run, model, sizes):
    """run(tokens) gives the model's output with .logits."""
    f = Fixture()
    f.seed(name)
    randomize(model, f.generator)
    text = f.integers(TEXTS, TOKENS + 1, below=sizes["vocab_size"])
    tokens, labels = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    logits = run(tokens).logits
    loss = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    loss.backward()
    f.store("tokens", tokens)
    f.store("labels", labels)
    f.store("logits", logits)
    f.store("loss", loss)
    for key, parameter in model.named_parameters():  # a tied head is listed once
        f.store(key, parameter)
        f.store("grad." + key, parameter.grad)
    f.save(f"{name}.safetensors", metadata={"config": json.dumps(sizes)})


def main():
    torch.manual_seed(0)
    common = dict(attn_implementation="eager")
    gpt2 = GPT2LMHeadModel(GPT2Config(**GPT2_SIZES, **common)).double().eval()
    store("gpt2", gpt2, gpt2, GPT2_SIZES)

    llama_config = LlamaConfig(**LLAMA_SIZES, rms_norm_eps=1e-6, tie_word_embeddings=False, **common)
    llama = LlamaForCausalLM(llama_config).double().eval()
    store("llama", llama, llama, LLAMA_SIZES)

    llama = LlamaForCausalLM(llama_config)
    replace_rmsnorm(llama)
    scaled = ScaledEmbedding(llama).double().eval()
    store("llama_dyt", scaled, llama.double(), LLAMA_SIZES)


if __name__ == "__main__":
    main()
