"""Train a model of Hugging Face's transformers, with warm-up and weight decay by parameter group.

    python examples/hf_transformer.py

A BERT with two layers and random weights, so that nothing is downloaded, learns which of two words
comes more often in a sentence. Any model of transformers goes the same way: it is an ``nn.Module``
that returns its loss when it is given labels. Needs ``pip install 'leyden[examples]'``.
"""

import argparse

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification, get_linear_schedule_with_warmup

import leyden
from leyden.callbacks import LearningRateMonitor, ModelCheckpoint
from leyden.loggers import CSVLogger

__all__ = ["Counting", "main"]

WORDS, LENGTH = 8, 10


def sentences(count: int, seed: int) -> TensorDataset:
    """Words at random, and whether the first word of all comes more often than the second."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(0, WORDS, (count, LENGTH), generator=random)
    return TensorDataset(words, ((words == 0).sum(1) > (words == 1).sum(1)).long())


class Counting(leyden.LightningModule):
    """The model of the library, with the optimizer that its papers use."""

    def __init__(self, lr: float = 2e-3, weight_decay: float = 0.01) -> None:
        super().__init__()
        self.save_hyperparameters()
        config = BertConfig(
            vocab_size=WORDS,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=16,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = BertForSequenceClassification(config)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        words, label = batch
        loss: Tensor = self.bert(words, labels=label).loss
        self.log("train_loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        words, label = batch
        found = self.bert(words, labels=label)
        self.log("val_loss", found.loss)
        self.log("val_acc", (found.logits.argmax(1) == label).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> dict[str, object]:
        # Biases and norms are not decayed.
        decayed = [p for p in self.parameters() if p.ndim > 1]
        others = [p for p in self.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": self.hparams.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=self.hparams.lr)
        steps = self.trainer.estimated_stepping_batches
        schedule = get_linear_schedule_with_warmup(optimizer, int(0.1 * steps), steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def main(max_epochs: int = 6, out: str = "runs/transformer") -> float:
    """Train, and give the accuracy on sequences it never saw."""
    leyden.seed_everything(1)
    torch.set_num_threads(1)
    best = ModelCheckpoint(monitor="val_acc", mode="max")
    trainer = leyden.Trainer(
        max_epochs=max_epochs,
        gradient_clip_val=1.0,
        logger=CSVLogger(out),
        callbacks=[best, LearningRateMonitor("step")],
        log_every_n_steps=10,
        weights_summary=None,
    )
    train, val = sentences(2000, 0), sentences(500, 1)
    trainer.fit(Counting(), DataLoader(train, 50, shuffle=True), DataLoader(val, 250))
    accuracy = float(best.best_model_score)
    print(f"\naccuracy {accuracy:.1%} on sentences it never saw; {best.best_model_path}")
    return accuracy


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max_epochs", type=int, default=6, help="default: 6")
    parser.add_argument("--out", default="runs/transformer", help="where to write")
    main(**vars(parser.parse_args()))
