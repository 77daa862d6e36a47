"""A tiny BERT that a `transformers.Trainer` trains while the callback watches it."""

import torch
import transformers

from interaction_monitor import Probe
from interaction_monitor.callbacks.transformers import InteractionTrainerCallback
from interaction_monitor.players import Words

VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[MASK]"] + [f"word{i}" for i in range(40)]


def sentences(n):
    """Eight words each, labelled by how many of them have even numbers."""
    words = torch.randint(4, 44, (n, 8), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([torch.ones(n, 1, dtype=torch.long), words, torch.full((n, 1), 2)], dim=1)
    labels = ((words % 2 == 0).sum(dim=1) >= 4).long()
    return [
        {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": label}
        for row, label in zip(ids, labels, strict=True)
    ]


def mixed_sentences():
    """Eight, of which three have two words only and are padded."""
    rows = sentences(8)
    for row in rows[:5:2]:
        row["input_ids"][3:-1], row["attention_mask"][3:-1] = 0, 0
    return rows


def trained(
    folder, *, watch=True, resume=None, callback=None, n_samples=5, before=None, after=None, model=None, data=None,
    train=None, kind=transformers.Trainer, **arguments,
):  # fmt: skip
    """Train a tiny BERT for 3 epochs of 3 steps, and return the trainer and what watched it."""
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=44, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, num_labels=2,
    )  # fmt: skip
    settings = {
        "num_train_epochs": 3, "per_device_train_batch_size": 16, "learning_rate": 1e-3, "eval_strategy": "epoch",
        "logging_strategy": "epoch", "save_strategy": "no", "report_to": [], "disable_tqdm": True, "use_cpu": True,
    }  # fmt: skip
    trainer = kind(
        model or transformers.BertForSequenceClassification(config),
        transformers.TrainingArguments(str(folder), **(settings | arguments)),
        train_dataset=train or sentences(64)[:48],
        eval_dataset=data or sentences(64)[48:],
    )
    watcher = None
    if before is not None:
        trainer.add_callback(before)
    if watch:
        given = {"players": Words(VOCABULARY, n_players=4)} | (callback or {})
        if "n_samples" not in given:
            given["probe"] = Probe.from_loader(trainer.get_eval_dataloader(), n_samples)
        watcher = InteractionTrainerCallback(**given)
        trainer.add_callback(watcher)
    if after is not None:
        trainer.add_callback(after)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, watcher


def positions(watcher):
    return [row.position for row in watcher.observer.history]


def told(caught):
    return [str(warning.message) for warning in caught if "Interaction" in str(warning.message)]
