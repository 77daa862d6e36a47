import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from tally import Tally
from torch import nn

from interaction_monitor import language_models, outputs
from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.language_models import last_token_logits, learn_baseline, most_probable, read_baseline
from interaction_monitor.players import Words
from interaction_monitor.probe import Probe

VOCABULARY = ["<s>", "<unk>"] + [f"▁word{i}" for i in range(30)]


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32, initializer_range=0.5,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def padded(side):
    """Two sentences of 8 and 5 words."""
    ids = torch.zeros(2, 8, dtype=torch.long)
    ids[0] = torch.arange(2, 10)
    keep = slice(0, 5) if side == "right" else slice(3, 8)
    ids[1, keep] = torch.arange(12, 17)
    attention = torch.zeros_like(ids)
    attention[0], attention[1, keep] = 1, 1
    return ids, attention


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_logits_are_those_of_the_last_word(llama, side):
    ids, attention = padded(side)
    llama.eval()
    with torch.no_grad():
        found = last_token_logits(llama, {"input_ids": ids, "attention_mask": attention})
        for sample in range(2):
            places = attention[sample].nonzero()[:, 0]
            all_logits = llama(input_ids=ids[sample : sample + 1], attention_mask=attention[sample : sample + 1]).logits
            torch.testing.assert_close(found[sample], all_logits[0, places[-1]], rtol=0, atol=1e-5)
    llama.train()


def test_only_the_last_logits_are_formed(llama):
    sizes = Tally()
    handle = llama.lm_head.register_forward_hook(lambda module, args, output: sizes.append(tuple(output.shape)))
    last_token_logits(llama, {"input_ids": torch.arange(6).reshape(2, 3)})
    handle.remove()
    assert sizes == [(2, 1, 32)]
    assert not llama.lm_head._forward_pre_hooks


def test_keys_and_values_are_kept_only_where_the_inputs_ask_for_it(llama):
    kept = Tally()
    handle = llama.register_forward_hook(lambda module, args, output: kept.append(output.past_key_values is not None))
    ids = {"input_ids": torch.arange(6).reshape(2, 3)}
    for inputs in (ids, {**ids, "use_cache": True}):
        last_token_logits(llama, inputs)
    handle.remove()
    assert kept == [False, True]


@pytest.mark.parametrize("layer", [None, "model.embed_tokens"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_next_token_log_odds_equal_full_forwards_by_hand(llama, layer, side):
    ids, attention = padded(side)
    probe = most_probable(llama, Probe({"input_ids": ids, "attention_mask": attention}))
    words = Words(VOCABULARY, n_players=3, layer=layer, baseline=llama.model.embed_tokens.weight[1] if layer else 1)
    drawn = assign_players(llama, words, probe, forward_func=last_token_logits)
    v = masked_outputs(llama, probe, drawn, output="next_token_log_odds", forward_func=last_token_logits, chunk_size=5)
    llama.eval()
    expected = torch.empty(2, 8, dtype=torch.float64)
    for sample in range(2):
        places = attention[sample].nonzero()[:, 0]
        for coalition in range(8):
            masked = ids[sample].clone()
            for place, player in enumerate(drawn.labels[sample].tolist()):
                if player >= 0 and not coalition >> player & 1:
                    masked[place] = 1
            with torch.no_grad():
                z = llama(input_ids=masked[None], attention_mask=attention[sample : sample + 1]).logits
            z = z[0, places[-1]].double()
            y = probe.targets[sample]
            others = torch.cat([z[:y], z[y + 1 :]])
            expected[sample, coalition] = z[y] - others.logsumexp(0)
        assert probe.targets[sample] == z.argmax()  # the last coalition is the whole sentence
    llama.train()
    assert (expected.std(dim=1) > 1e-3).all()
    torch.testing.assert_close(v, expected, rtol=0, atol=1e-5)


def test_most_probable_is_the_predicted_class_of_a_classifier():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 4), nn.Dropout(0.5))
    probe = Probe(torch.rand(5, 2), torch.zeros(5))
    found = most_probable(net, probe)
    assert torch.equal(found.targets, net[0](probe.inputs).argmax(1))
    assert net.training


def test_models_without_an_output_embedding_are_refused():
    with pytest.raises(TypeError, match=r"needs a model with get_output_embeddings.* Linear and Tensor"):
        last_token_logits(nn.Linear(2, 2), torch.rand(1, 2))


def test_next_token_log_odds_take_the_last_position():
    logits, targets = torch.randn(3, 5, 7), torch.tensor([1, 2, 6])
    expected = outputs.log_odds(logits[:, 4], targets)
    assert torch.equal(outputs.next_token_log_odds(logits, targets), expected)
    assert torch.equal(outputs.next_token_log_odds(logits[:, 4], targets), expected)
    with pytest.raises(ValueError, match="for 7 classes"):
        outputs.next_token_log_odds(logits, targets + 1)


def test_a_label_of_a_multi_label_network_is_an_output():
    logits = torch.tensor([[1.0, -2.0]])
    assert outputs.label_log_odds(1)(logits, None).tolist() == [-2.0]
    assert outputs.label_log_odds(1).__name__ == "label_log_odds(1)"
    for label in (2, -1):
        with pytest.raises(ValueError, match=f"label={label} must be a column"):
            outputs.label_log_odds(label)(logits, None)


def test_a_published_baseline_is_the_last_epochs(tmp_path):
    file = tmp_path / "baseline.npy"
    vectors = np.arange(12, dtype=np.float32).reshape(3, 4)
    for stored in (vectors, vectors[:, None]):
        np.save(file, stored)
        assert read_baseline(file).tolist() == [8.0, 9.0, 10.0, 11.0]
    np.save(file, vectors[0])  # as `learn_baseline` gives it
    assert read_baseline(file).tolist() == [0.0, 1.0, 2.0, 3.0]
    for wrong in (np.zeros((2, 3, 4)), np.zeros((0, 4)), np.float64(1)):
        np.save(file, wrong)
        with pytest.raises(ValueError, match=r"must hold \(epochs, D\)"):
            read_baseline(file)
    np.save(file, [[1.0, 2.0], [math.nan, 2.0]])
    with pytest.raises(ValueError, match="is not finite, so learning it failed"):
        read_baseline(file)


def test_the_groups_are_disjoint_and_a_third_of_the_time_nothing_else_is_absent():
    generator, n, drawn = torch.Generator().manual_seed(0), 7, 600
    everything = 0
    for _ in range(drawn):
        union, with_a, with_b, c = language_models._groups(n, generator).tolist()
        a, b = with_a & ~c, with_b & ~c
        assert not a & b
        assert (union, with_a, with_b) == (a | b | c, a | c, b | c)
        assert 1 <= a.bit_count() <= 3
        assert 1 <= b.bit_count() <= 3
        everything += union == 2**n - 1
    assert 0.3 < everything / drawn < 0.37


def test_a_learned_baseline_makes_groups_of_words_interact_less():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(24, 8), nn.Tanh(), nn.Linear(8, 2))
    net[4].weight.data *= 3
    probe = Probe(torch.stack([torch.randperm(11)[:6] + 1 for _ in range(6)]), torch.arange(6) % 2)
    words = Words([*"-abcdefghijk"], n_players=5, layer="0", baseline=torch.full((4,), 1.5), stop_words=())
    drawn = assign_players(net, words, probe)
    before = [parameter.clone() for parameter in net.parameters()]

    def forward(module, inputs):
        assert not module.training
        return module(inputs)

    def interactions(baseline):
        """Mean size of v(A∪B∪C) - v(A∪C) - v(B∪C) + v(C), A and B of one word, over all C."""
        v = masked_outputs(net, probe, replace(drawn, baseline=baseline[None, None]))
        pairs = [(1 << a, 1 << b) for a, b in itertools.combinations(range(5), 2)]
        total = [
            v[:, c | a | b] - v[:, c | a] - v[:, c | b] + v[:, c]
            for a, b in pairs
            for c in range(32)
            if not c & (a | b)
        ]
        return float(torch.stack(total).abs().mean())

    learned = learn_baseline(net, probe, drawn, output="log_odds", forward_func=forward, epochs=40, rate=0.05)
    again = learn_baseline(net, probe, drawn, output="log_odds", forward_func=forward, epochs=40, rate=0.05)
    assert torch.equal(learned, again)
    assert interactions(learned) < 0.7 * interactions(torch.full((4,), 1.5))
    assert all(parameter.grad is None for parameter in net.parameters())
    assert all(torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))
    assert net.training
    with pytest.raises(ValueError, match="masked at a layer by one vector"):
        learn_baseline(net, probe, replace(drawn, layer=None))
    for options, said in (
        ({"epochs": 0}, "epochs must be at least 1, but is 0"),
        ({"rate": math.nan}, "rate must be a finite number above 0, but is nan"),
        ({"forward_func": lambda module, inputs: module(inputs) * math.nan}, "rate=0.001 ends in a vector that is not"),
    ):
        with pytest.raises(ValueError, match=said):
            learn_baseline(net, probe, drawn, **{"output": "log_odds", "forward_func": forward} | options)
    with pytest.raises(ValueError, match="players are drawn for 6 samples, but the probe has 3"):
        learn_baseline(net, probe.select([0, 1, 2]), drawn, output="log_odds", forward_func=forward)
    with pytest.raises(TypeError, match="give assign_players"):
        learn_baseline(net, probe, words, output="log_odds", forward_func=forward)
