import pytest
import torch
from torch import nn

from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import Words
from interaction_monitor.players.words import group_words
from interaction_monitor.probe import Probe

VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "the", "not", ",", ".", "'"]
VOCABULARY += ["film", "charm", "##ing", "##ly", "bad", "plot", "story", "actor", "##s", "great", "music"]
IDS = {token: index for index, token in enumerate(VOCABULARY)}
SENTENCES = [
    "[CLS] the film , charm ##ing ##ly bad . [SEP]",
    "[CLS] not the great music actor ##s [SEP] [PAD]",
    "[CLS] plot story , film . bad [SEP] [PAD]",
]
MASK = IDS["[MASK]"]


class Tokenizer:
    """As much of a Hugging Face tokenizer as Words needs."""

    def __init__(self, vocabulary=VOCABULARY, mask_token_id=MASK):
        self.vocabulary, self.mask_token_id = vocabulary, mask_token_id
        self.all_special_ids = [0, 1, 2, 3]

    def convert_ids_to_tokens(self, ids):
        return [self.vocabulary[token] for token in ids]

    def convert_tokens_to_string(self, tokens):
        return " ".join(tokens).replace(" ##", "").replace("Ġ", " ").replace("▁", " ")


BYTES = [
    "<s>",
    "<mask>",
    "na",
    "Ã¯",
    "ve",
    "Ġfa",
    "Ã§",
    "ade",
    "Ġ",
    "Ã",
    "¼",
    "ber",
    "Ġgood",
    "Ġ..",
    ".",
    "å",
    "¥",
    "½",
]


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (["na", "Ã¯", "ve", "Ġfa", "Ã§", "ade", "Ġ.."], ("naïve", "façade")),
        (["na", "Ã¯", "ve"], ("naïve",)),  # no mark in the sentence: the vocabulary has them
        (["Ġgood", "Ġ", "Ã", "¼", "ber", "."], ("good", "über")),  # a character in two tokens
        (["Ġgood", ".", "å", "¥", "½"], ("good", "好")),  # in three, beside punctuation
        (["Ġgood", "½", "å", "Ġgood"], ("good", "good")),  # bytes of no character
    ],
)
def test_words_of_byte_level_tokens_are_put_together_from_their_bytes(tokens, words):
    ids = torch.tensor([[BYTES.index(token) for token in tokens]])
    drawn = Words(BYTES, n_players=len(words)).assign(Probe(ids))
    assert drawn.names == (words,)


def test_bytes_that_sentencepiece_falls_back_to_are_a_word():
    vocabulary = ["<s>", "<mask>", "▁na", "ï", "ve", "▁", "<0xE5>", "<0xA5>", "<0xBD>", "<0xF0>", "<0x9F>", "<0x98>"]
    words = Words([*vocabulary, "<0x80>", "▁film"], n_players=2)
    assert words.assign(Probe(torch.tensor([[0, 2, 3, 4, 5, 6, 7, 8]]))).names == (("naïve", "好"),)
    # A smiling face is no word.
    assert words.available(Probe(torch.tensor([[0, 2, 3, 4, 5, 9, 10, 11, 12, 13]]))).tolist() == [2]


@pytest.mark.parametrize("sentence", ["naïve façade", "Übermut tut selten gut", "ein Café, señor", "straße 好的 ok"])
def test_words_of_a_byte_level_tokenizer_are_those_of_the_sentence(sentence):
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, special_tokens=["<mask>"])
    made.train_from_iterator(["the facade of a cafe is good, and so on"], trainer)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, mask_token="<mask>")
    expected = tuple(word.strip(",") for word in sentence.split())
    drawn = Words(fast, n_players=len(expected), stop_words=()).assign(
        Probe(torch.tensor([fast(sentence)["input_ids"]]))
    )
    assert drawn.names == (expected,)


def test_a_letter_that_looks_like_a_mark_marks_nothing():
    """BERT's vocabularies hold such letters by themselves."""
    assert Words([*VOCABULARY, "Ġ", "Ċ"], n_players=2).available(Probe(encode(SENTENCES[0]))).tolist() == [3]


def encode(*sentences):
    rows = [[IDS[token] for token in sentence.split()] for sentence in sentences]
    width = max(map(len, rows))
    return torch.tensor([row + [0] * (width - len(row)) for row in rows])


@pytest.fixture
def probe():
    ids = encode(*SENTENCES)
    return Probe({"input_ids": ids, "attention_mask": (ids != 0).long()}, torch.tensor([0, 1, 1]))


def by_hand(probe, players, run, replace):
    """Outputs of full forwards, with the words of each absent player replaced one by one."""
    v = torch.empty(len(probe), 1 << players.n_players, dtype=torch.float64)
    for sample in range(len(probe)):
        for coalition in range(1 << players.n_players):
            absent = [i for i in range(players.n_players) if not coalition >> i & 1]
            places = [p for p, player in enumerate(players.labels[sample].tolist()) if player in absent]
            with torch.no_grad():
                v[sample, coalition] = log_odds(run(sample, replace, places), probe.target_of(sample))
    assert (v.std(dim=1) > 1e-4).all()
    return v


@pytest.mark.parametrize("vocabulary", [VOCABULARY, Tokenizer()])
def test_words_are_whole_and_mean_something(probe, vocabulary):
    drawn = Words(vocabulary, n_players=3).assign(probe, seed=0)
    assert drawn.names[0] == ("film", "charmingly", "bad")
    assert drawn.labels[0].tolist() == [-1, -1, 0, -1, 1, 1, 1, 2, -1, -1]
    assert (drawn.axes, drawn.input_key, drawn.baseline, drawn.layer) == ((1,), "input_ids", MASK, None)
    for sample, names in enumerate(drawn.names):
        for player, name in enumerate(names):
            tokens = [VOCABULARY[i] for i in probe.inputs["input_ids"][sample, drawn.labels[sample] == player]]
            assert "".join(tokens).replace("##", "") == name
    everything = {
        name
        for seed in range(20)
        for row in Words(vocabulary, n_players=2).assign(probe, seed=seed).names
        for name in row
    }
    assert everything == {"film", "charmingly", "bad", "not", "great", "music", "actors", "plot", "story"}


def test_available_words_are_those_that_a_draw_of_all_finds(probe):
    words = Words(VOCABULARY, n_players=1, stop_words={"the", "bad"})
    counted = words.available(probe)
    assert counted.tolist() == [2, 4, 3]
    for sample, count in enumerate(counted.tolist()):
        everything = Words(VOCABULARY, n_players=count, stop_words={"the", "bad"})
        assert len(everything.assign(probe.select([sample])).names[0]) == count
        with pytest.raises(ValueError, match="no sample has"):
            Words(VOCABULARY, n_players=count + 1, stop_words={"the", "bad"}).assign(probe.select([sample]))


def test_sentences_suit_that_have_enough_words_and_all_where_only_a_draw_can_tell(probe):
    words = Words(VOCABULARY, n_players=3, stop_words={"the", "bad"})
    assert words.suits(probe).tolist() == [False, True, True]
    with pytest.warns(UserWarning, match="left out"):
        assert words.suits(probe).tolist() == words.assign(probe).complete.tolist()
    ids = probe.inputs["input_ids"]
    of_others = Words(VOCABULARY, n_players=3, word_ids=torch.zeros(9, ids.shape[1], dtype=torch.long))
    assert of_others.suits(probe).tolist() == [True] * 3
    assert words.suits(Probe({"input_ids": ids + 1000})).tolist() == [True] * 3
    assert words.suits(Probe(torch.rand(2, 4))).tolist() == [True] * 2


def test_words_that_are_padded_or_not_attended_are_no_players(probe):
    attention = probe.inputs["attention_mask"].clone()
    attention[:, 4:] = 0
    hidden = Probe({**probe.inputs, "attention_mask": attention})
    with pytest.warns(UserWarning, match="samples 0 of the probe have fewer than n_players=2"):
        drawn = Words(VOCABULARY, n_players=2).assign(hidden, seed=0)
    assert (drawn.labels[:, 4:] == -1).all()
    assert drawn.complete.tolist() == [False, True, True]


def test_stop_words_can_be_chosen(probe):
    drawn = Words(VOCABULARY, n_players=2, stop_words={"film", "charmingly", "not", "great", "plot"}).assign(
        probe, seed=0
    )
    assert drawn.names[0] == ("the", "bad")


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ("un ##believ ##able ! ## x", [0, 0, 0, 1, 2, 3]),
        ("▁un believ able ! ▁yes", [0, 0, 0, 1, 2]),
        ("Hello Ġw orld , Ġdon 't ( s", [0, 1, 1, 2, 3, 3, 4, 5]),
        ("plain words only", [0, 1, 2]),
        ("", []),
    ],
)
def test_tokens_are_grouped_by_the_marks_of_their_vocabulary(tokens, words):
    assert group_words(tokens.split()) == words


def test_special_tokens_end_a_word():
    tokens = ["<s>", "Hi", "Ġyou", "</s>", "there", "</s>"]
    assert group_words(tokens, [token.endswith("s>") for token in tokens]) == [0, 1, 2, 3, 4, 5]


def test_word_ids_replace_the_marks(probe):
    word_ids = torch.full((3, 10), -1)
    word_ids[:, 2:4] = 0
    word_ids[:, 4:6] = 1
    drawn = Words(VOCABULARY, n_players=2, word_ids=word_ids).assign(probe, seed=0)
    assert drawn.labels[0].tolist() == [-1, -1, 0, 0, 1, 1, -1, -1, -1, -1]


@pytest.mark.parametrize("layer", [None, "bert.embeddings.word_embeddings", "bert.embeddings", "bert.encoder.layer.0"])
def test_bert_is_masked_as_by_hand(probe, layer):
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=2, initializer_range=0.5,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config).eval()
    vector = torch.randn(16)
    drawn = assign_players(
        model, Words(VOCABULARY, n_players=2, layer=layer, baseline=None if layer is None else vector), probe
    )

    def run(sample, replace, places):
        inputs = probe.inputs_of(sample)
        if layer is None:
            ids = inputs["input_ids"].clone()
            ids[0, places] = MASK
            return model(input_ids=ids, attention_mask=inputs["attention_mask"]).logits

        def replaced(module, args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden = hidden.clone()
            hidden[0, places] = vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        handle = model.get_submodule(layer).register_forward_hook(replaced)
        try:
            return model(**inputs).logits
        finally:
            handle.remove()

    expected = by_hand(probe, drawn, run, None)
    torch.testing.assert_close(masked_outputs(model, probe, drawn), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(masked_outputs(model, probe, drawn, chunk_size=3), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", [None, "embedding"])
def test_a_plain_embedding_model_is_masked_as_by_hand(probe, layer):
    class Bag(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(len(VOCABULARY), 5), nn.Linear(5, 2)

        def forward(self, ids):
            return self.head(self.embedding(ids).tanh().mean(1))

    torch.manual_seed(0)
    model = Bag()
    plain = Probe(probe.inputs["input_ids"], probe.targets)
    words = Words(VOCABULARY, n_players=3, layer=layer, baseline=model.embedding.weight[MASK] if layer else MASK)

    def run(sample, replace, places):
        ids = plain.inputs_of(sample).clone()
        ids[0, places] = MASK
        return model(ids)

    drawn = assign_players(model, words, plain)
    torch.testing.assert_close(masked_outputs(model, plain, drawn), by_hand(plain, drawn, run, None), rtol=0, atol=1e-6)


def test_the_default_baseline_of_a_layer_is_zero(probe):
    drawn = Words(VOCABULARY, n_players=2, layer="e").assign(probe, torch.rand(1, 10, 4), seed=0)
    assert drawn.baseline == 0.0
    assert drawn.input_key is None


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (Words(VOCABULARY, n_players=9), "no sample has n_players=9 words that are no stop words"),
        (Words(VOCABULARY[:10]), "token ids go from 1 to 13, but the vocabulary of Words has 10 tokens"),
        (Words(Tokenizer(mask_token_id=None)), "the vocabulary has no mask token"),
        (Words(VOCABULARY, word_ids=torch.zeros(3, 4)), r"word_ids has the shape \(3, 4\), .* have \(3, 10\)"),
        (Words(VOCABULARY, layer="a"), r"gives \(batch, 10 tokens, features\), but layer='a' gives NoneType"),
        (Words(VOCABULARY, baseline=0.5), "baseline=0.5 does not fit"),
        (Words(VOCABULARY, input_key="ids"), "input_key='ids' must be one of"),
        (Words(VOCABULARY, input_key="scores"), r"integer token ids .* torch.float32"),
    ],
)
def test_words_that_do_not_fit_are_refused(probe, words, message):
    more = Probe({**probe.inputs, "scores": torch.rand(3, 2)})
    with pytest.raises(ValueError, match=message):
        words.assign(more, seed=0)


def test_words_need_a_player():
    with pytest.raises(ValueError, match="n_players=0"):
        Words(VOCABULARY, n_players=0)


def test_an_embedding_layer_that_is_not_there_is_named(probe):
    model = nn.Sequential(nn.Embedding(20, 4))
    with pytest.raises(ValueError, match="layer='embedding': Sequential has no layer"):
        assign_players(model, Words(VOCABULARY, layer="embedding"), probe)


def test_a_real_tokenizer_and_its_batches_work():
    import tokenizers
    import transformers

    pieces = tokenizers.models.WordPiece(dict(IDS), unk_token="[PAD]")
    backend = tokenizers.Tokenizer(pieces)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    backend.decoder = tokenizers.decoders.WordPiece()
    special = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    batch = tokenizer(["the film, charmingly bad.", "not actors"], return_tensors="pt", padding=True)
    batch["labels"] = torch.tensor([1, 0])
    probe = Probe.from_loader([batch], 2)
    drawn = Words(tokenizer, n_players=2).assign(probe, seed=0)
    assert probe.targets.tolist() == [1, 0]
    assert drawn.names[1] == ("not", "actors")
    assert set(drawn.names[0]) < {"film", "charmingly", "bad"}
    assert drawn.baseline == MASK


@pytest.mark.parametrize("vocabulary", [None, "hello", 3, {"a": 0, "b": 1}, [1, 2], {"a", "b"}, torch.zeros(3)])
def test_what_is_no_vocabulary_is_refused(vocabulary):
    with pytest.raises(TypeError, match=r"Words\(vocabulary=.*give a Hugging Face tokenizer, or its tokens"):
        Words(vocabulary)


def test_the_dict_of_a_tokenizer_can_be_put_in_order():
    with pytest.raises(TypeError, match=r"sorted\(vocabulary, key=vocabulary.get\)"):
        Words({token: index for index, token in enumerate(VOCABULARY)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop_words": "the"}, r"stop_words='the'\): give several words"),
        ({"stop_words": None}, r"stop_words=None\): give several words"),
        ({"word_ids": [[0, 1]]}, r"word_ids=list of 1.*\): give an integer tensor"),
        ({"n_players": 2.0}, r"n_players=2.0\): give a whole number"),
    ],
)
def test_arguments_of_another_kind_are_named(given, message):
    with pytest.raises(TypeError, match=message):
        Words(VOCABULARY, **given)
