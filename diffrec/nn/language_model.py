"""The body of a causal language model of `transformers`: its configuration, its weights, adapters.

Needs the extra `language`; the libraries are imported when a model is built. Code that comes with a model is never run.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from diffrec.errors import UsageError
from diffrec.typing import Float, Int, Tensor

_FAILURES = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
_ONLY_HERE = ContextVar("_ONLY_HERE", default=False)


@contextmanager
def from_this_machine() -> Iterator[None]:
    """Within the block the hub is not asked for a model: it lies in a folder or in the cache, or there is none."""
    token = _ONLY_HERE.set(True)
    try:
        yield
    finally:
        _ONLY_HERE.reset(token)


def small_body(dim: int, num_blocks: int, num_heads: int, feed_size: int, max_length: int) -> nn.Module:
    """A Llama of this size with random weights; it reads vectors and has no words."""
    from_library = _transformers()
    config = from_library.LlamaConfig(
        vocab_size=1,
        hidden_size=dim,
        num_hidden_layers=num_blocks,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        intermediate_size=feed_size,
        max_position_embeddings=max_length,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )
    return _without_words(from_library.AutoModel.from_config(config))


def body_of(name: str) -> nn.Module:
    """The architecture of a model of the Hugging Face hub or of a local folder, with random weights.

    UsageError where there is none (`from_this_machine`: on this machine), or where it is no language model that can
    start from vectors.
    """
    from_library = _transformers()
    try:
        config = from_library.AutoConfig.from_pretrained(_place(name), trust_remote_code=False)
        return _without_words(from_library.AutoModel.from_config(config.get_text_config(), trust_remote_code=False))
    except _FAILURES as error:
        raise _no_model(name, error) from error


def pretrained_weights(name: str) -> dict[str, Tensor]:
    """The weights of its body by name, in float32. UsageError where there are none as safetensors."""
    from_library = _transformers()
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")  # else transformers asks the hub to convert others
    try:
        model = from_library.AutoModel.from_pretrained(
            _place(name), trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
    except _FAILURES as error:
        raise _no_model(name, error) from error
    return model.state_dict()


def prompt_tokens(name: str, prompt: str) -> Int[Tensor, " tokens"]:
    """The numbers of a text's tokens, as the tokenizer of the model makes them."""
    from_library = _transformers()
    try:
        tokenizer = from_library.AutoTokenizer.from_pretrained(_place(name), trust_remote_code=False)
    except _FAILURES as error:
        raise _no_model(name, error) from error
    return torch.tensor(tokenizer(prompt)["input_ids"], dtype=torch.int64)


def with_adapters(body: nn.Module, rank: int, alpha: int, dropout: float) -> nn.Module:
    """The body frozen, with low-rank adapters in all of its linear layers (LoRA, arXiv 2106.09685, of `peft`)."""
    if importlib.util.find_spec("peft") is None:
        raise UsageError("adapters need peft: pip install 'diffrec[language]'; or lora_rank=0 trains all weights")
    import peft  # takes seconds, and is an extra

    config = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")
    return peft.get_peft_model(body, config)  # pyright: ignore[reportArgumentType]


def fill(body: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy pretrained weights into a body, adapted or not. UsageError where one is missing or of another shape."""
    named = {_plain(name): tensor for name, tensor in body.state_dict().items() if "lora_" not in name}
    wrong = [name for name, tensor in named.items() if name not in weights or weights[name].shape != tensor.shape]
    if wrong:
        raise UsageError(f"the pretrained weights do not fit their configuration: {wrong[0]} is missing or different")
    for name, tensor in named.items():
        tensor.copy_(weights[name])


class Prefix:
    """Beams that a causal body writes token by token behind one prefix a request; its cache is kept."""

    def __init__(self, body: nn.Module, mask: Int[Tensor, "batch slots"]) -> None:
        self.body, self.mask, self.cache = body, mask, _transformers().DynamicCache()

    def read(self, x: Float[Tensor, "batch slots dim"]) -> Float[Tensor, "batch dim"]:
        """The last state of each prefix, which is padded on the left."""
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        return self._step(x, positions)[:, -1]

    def write(
        self, x: Float[Tensor, "batch beams dim"], parents: Int[Tensor, "batch beams"]
    ) -> Float[Tensor, "batch beams dim"]:
        """The states of one more token of every beam; parents: the beams of the last call that these go on from."""
        batch, beams = x.shape[:2]
        before = len(self.mask) // max(1, batch)
        rows = (parents + before * torch.arange(batch, device=x.device)[:, None]).flatten()
        self.cache.reorder_cache(rows)
        self.mask = torch.cat([self.mask[rows], self.mask.new_ones(len(rows), 1)], dim=1)
        positions = self.mask.sum(1, keepdim=True) - 1
        return self._step(x.flatten(0, 1)[:, None], positions)[:, 0].unflatten(0, (batch, beams))

    def _step(
        self, x: Float[Tensor, "rows slots dim"], positions: Int[Tensor, "rows slots"]
    ) -> Float[Tensor, "rows slots dim"]:
        arguments = {"attention_mask": self.mask, "position_ids": positions, "cache": self.cache}
        return self.body(inputs_embeds=x, **arguments, use_cache=True).last_hidden_state


def _transformers() -> Any:
    if importlib.util.find_spec("transformers") is None:
        raise UsageError("a language model needs transformers: pip install 'diffrec[language]'")
    import transformers  # takes seconds, and is an extra

    return transformers


def _without_words(body: nn.Module) -> nn.Module:
    """Words are read by a prompt at most, and never learnt."""
    body.get_input_embeddings().weight.requires_grad_(False)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return body


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")


def _place(name: str) -> str:
    """The name, or the folder in the cache of the hub's library where the hub may not be asked.

    With `local_files_only` that library opens a socket all the same, to learn who calls it. OSError where
    there is none.
    """
    forbidden = os.environ.get("DIFFREC_OFFLINE", "0") not in ("", "0")
    if Path(name).is_dir() or not (forbidden or _ONLY_HERE.get()):
        return name
    from huggingface_hub import try_to_load_from_cache  # is there where transformers is

    config = try_to_load_from_cache(name, "config.json")
    if not isinstance(config, str):
        why = "DIFFREC_OFFLINE=1" if forbidden else "an entry never asks the hub for one"
        raise OSError(f"it is not on this machine, and {why}; if you trust it: hf download {name}")
    return str(Path(config).parent)


def _no_model(name: str, error: Exception) -> UsageError:
    return UsageError(f"no language model {name!r}: {str(error).strip().partition(chr(10))[0]}")
