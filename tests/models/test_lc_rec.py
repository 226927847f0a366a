"""LC-Rec: beams beside one pass over history and item, any causal model from a folder, adapters, and its mistakes."""

from __future__ import annotations

import importlib.util
import json
import shutil

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.errors import IntegrityError, UsageError
from diffrec.models import LCRec
from diffrec.nn.language_model import with_adapters
from diffrec.testing.fuzzing import seal
from diffrec.zoo import load, save
from diffrec.zoo.entry import CONFIG

if importlib.util.find_spec("transformers") is None or importlib.util.find_spec("peft") is None:
    pytest.skip("needs the extra `language`", allow_module_level=True)

N, LEVELS, SIZE = 30, 3, 16
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0], [0, 0, 0], [30, 1, 0]])
SEQUENCES = Ragged.from_rows([[(7 * i + j) % N + 1 for j in range(6)] for i in range(40)])


def model(**arguments) -> LCRec:
    torch.manual_seed(0)
    sizes = {"embedding_size": 12, "num_blocks": 2, "num_heads": 2, "feed_size": 16}
    made = LCRec(N, num_levels=LEVELS, codebook_size=SIZE, max_history_length=5, **{**sizes, **arguments})
    made.prepare(SEQUENCES)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    """A GPT-2 with a tokenizer of whole words, as transformers saves them."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("gpt2")
    words = {word: number for number, word in enumerate(["?", "bought", "in", "order"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?").save_pretrained(path)
    torch.manual_seed(3)
    config = GPT2Config(vocab_size=4, n_embd=12, n_layer=2, n_head=2, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(path)
    return str(path)


def alone(made: LCRec, history: list[int], item: int) -> torch.Tensor:
    """The log-probability of an item behind a history, from a pass over both."""
    items = torch.tensor([[*history, item]])
    read = torch.cat([made.before(1), made.tokens(made.item_codes.tokens(items)).flatten(1, 2)], dim=1)
    states = made.body(inputs_embeds=read).last_hidden_state[0, -LEVELS - 1 : -1]
    parts = made.tokens.weight[1:].view(LEVELS, SIZE, -1)
    codes = made.item_codes.codes[item - 1]
    return torch.stack([(states[n] @ parts[n].T).log_softmax(0)[codes[n]] for n in range(LEVELS)]).sum()


@torch.no_grad()
@pytest.mark.parametrize("words", [False, True])
def test_scores_of_wide_beams_are_those_of_each_item_alone(words, request):
    asked = {"language_model": request.getfixturevalue("folder"), "prompt": "bought in order"} if words else {}
    made = model(num_beams=64, **asked)
    assert made.before(1).shape[1] == 1 + 3 * words
    scores = made.score(HISTORY)
    for row, history in enumerate([[4, 9, 2], [7], [], [30, 1]]):
        expected = torch.stack([alone(made, history, item) for item in range(1, N + 1)])
        torch.testing.assert_close(scores[row], expected, rtol=1e-4, atol=1e-4)
    loss = made.training_loss(Batch(torch.tensor([[4]]), torch.tensor([[17]])))
    torch.testing.assert_close(loss, -alone(made, [4], 17) / LEVELS, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_requests_are_asked_in_parts(monkeypatch):
    made = model(num_beams=3)
    whole = made.score(HISTORY)
    monkeypatch.setattr("diffrec.models.lc_rec._ROWS_AT_ONCE", 1)
    torch.testing.assert_close(made.score(HISTORY), whole)


@pytest.mark.parametrize("rank", [0, 2])
def test_a_folder_gives_its_weights_and_adapters_leave_them(rank, folder):
    from transformers import AutoModel

    torch.manual_seed(0)
    made = LCRec(N, num_levels=LEVELS, codebook_size=SIZE, max_history_length=5, language_model=folder, lora_rank=rank)
    made.prepare(SEQUENCES)
    theirs = AutoModel.from_pretrained(folder)
    x = torch.randn(1, 7, 12)
    expected = theirs.eval()(inputs_embeds=x).last_hidden_state
    torch.testing.assert_close(made.eval().body(inputs_embeds=x).last_hidden_state, expected)
    made.train()
    optimizer = made.configure_optimizers()
    optimizer.param_groups[0]["lr"] = 0.1
    for _ in range(2):  # adapters start at zero, and so do the gradients of one of their halves
        optimizer.zero_grad()
        made.training_loss(Batch(HISTORY[[0, 3]], torch.tensor([[9, 2, 5], [1, 8, 0]]))).backward()
        optimizer.step()
    learned = {name for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {"tokens.weight", "begin"} < learned
    others = learned - {"tokens.weight", "begin"}
    assert all(("lora_" in name) == (rank > 0) for name in others)
    assert not torch.allclose(made.eval().body(inputs_embeds=x).last_hidden_state, expected, atol=1e-3)
    if rank:
        with made.body.disable_adapter():
            torch.testing.assert_close(made.body(inputs_embeds=x).last_hidden_state, expected)


def test_an_entry_never_asks_the_hub_for_its_language_model(folder, tmp_path, monkeypatch):
    made = model(language_model=folder)
    assert torch.equal(load(save(made, tmp_path / "entry")).score(HISTORY), made.score(HISTORY))

    config = tmp_path / "entry" / CONFIG
    config.write_text(config.read_text().replace(json.dumps(folder), '"nobody/nothing"'))
    seal(tmp_path / "entry")
    asked = []

    def unknown(host, *rest, **more):
        asked.append(host)
        raise OSError(f"no address of {host}")

    monkeypatch.delenv("DIFFREC_OFFLINE", raising=False)
    monkeypatch.setattr("socket.getaddrinfo", unknown)
    with pytest.raises(IntegrityError, match=r"no language model 'nobody/nothing': it is not on this.*hf download"):
        load(tmp_path / "entry", offline=True)
    snapshot = tmp_path / "hub" / "models--nobody--nothing" / "snapshots" / "1"
    shutil.copytree(folder, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert torch.equal(load(tmp_path / "entry").score(HISTORY), made.score(HISTORY))
    assert asked == []


def test_only_safetensors_are_read(folder, tmp_path):
    from safetensors.torch import load_file

    theirs = tmp_path / "theirs"
    shutil.copytree(folder, theirs)
    weights = theirs / "model.safetensors"
    torch.save(load_file(weights), theirs / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UsageError, match="no language model"):
        model(language_model=str(theirs))
    weights.write_bytes(b"no safetensors")
    with pytest.raises(UsageError, match="no language model"):
        model(language_model=str(theirs))


def test_mistakes_are_named(tmp_path, folder, monkeypatch):
    with pytest.raises(UsageError, match="a prompt needs a language_model that knows words"):
        model(prompt="bought")
    monkeypatch.setenv("DIFFREC_OFFLINE", "1")
    with pytest.raises(UsageError, match="no language model 'nobody/nothing'"):
        model(language_model="nobody/nothing")
    with pytest.raises(UsageError, match="no language model"):
        model(language_model=str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'diffrec\[language\]'"):
        model()
    with pytest.raises(UsageError, match=r"adapters need peft: pip install 'diffrec\[language\]'"):
        with_adapters(torch.nn.Linear(1, 1), 2, 1, 0.0)
