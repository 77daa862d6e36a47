"""Measure which words a language model joins when it predicts the next one: SmolLM2-135M on prompts from SQuAD.

python -m examples.language_model --data FOLDER           # needs the extra "models"; 3 prompts, minutes each
python -m examples.language_model --data FOLDER --full    # 100 prompts, for a GPU
python -m examples.language_model --data FOLDER --model OPT    # a model of yours, in Hugging Face's layout

Nothing is trained. As in Chen et al. 2024, appendix O: the ten words of each prompt that the authors chose are the
players, all tokens of a word are masked together at the embedding, and the output is the log-odds of the word that the
model holds most probable. SmolLM2 has no mask token, so absent words are replaced by the mean embedding.
"""

from __future__ import annotations

from pathlib import Path

import torch

from examples import prompts, training
from examples.datasets import squad
from interaction_monitor import assign_players, measure
from interaction_monitor.functional import members
from interaction_monitor.language_models import last_token_logits, most_probable

SMALL = {"smollm2": training.Size(samples=3)}
FULL = training.Size(samples=100)


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, full=FULL, command=command, model=Path)
    with training.refusals():
        texts = squad(options.data, n_players=options.players)
        training.enough("--samples", options.samples, texts, "prompts")
        model, tokenizer = prompts.smollm2() if options.model is None else prompts.of_folder(options.model)
    texts = texts[: options.samples]
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    probe, chosen = prompts.tokenised(texts, tokenizer)
    probe = most_probable(model, probe)
    words = prompts.embedded_words(model, tokenizer, chosen, options.players)
    players = assign_players(model, words, probe)
    found = measure(model, probe, players, output="next_token_log_odds", forward_func=last_token_logits)
    print(f"{len(texts)} prompts, {found.seconds:.0f} s; mean order {found.mean_order:.2f}")
    print("share of the strength at each order:", " ".join(f"{x:.1%}" for x in found.distribution / options.players))
    for sample, text in enumerate(texts):
        v = found.v[sample]
        print(f"\n{text.text} -> {tokenizer.decode(probe.targets[sample])!r} (in the document: {text.following!r})")
        print(f"log-odds {v[-1]:.2f}, with the {options.players} words masked {v[0]:.2f}; the strongest interactions:")
        for kind, interactions in (("AND", found.and_[sample]), ("OR", found.or_[sample])):
            for coalition in interactions[1:].abs().topk(4).indices.tolist():
                names = [players.names[sample][player] for player in members(coalition + 1)]
                print(f"  {interactions[coalition + 1]:+6.2f}  {kind:3}  {', '.join(names)}")


if __name__ == "__main__":
    main()
