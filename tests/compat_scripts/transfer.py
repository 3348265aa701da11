"""Transfer learning: freeze, train the head, unfreeze in milestones. Lightning 1.1 style."""

import argparse
from collections.abc import Generator

import pytorch_lightning as pl
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.core.decorators import auto_move_data
from pytorch_lightning.utilities import rank_zero_info, rank_zero_warn  # noqa: F401
from torch import nn, optim
from torch.nn import Module
from torch.optim.lr_scheduler import MultiStepLR
from torch.optim.optimizer import Optimizer
from torch.utils.data import DataLoader, TensorDataset

BN_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _make_trainable(module: Module) -> None:
    for param in module.parameters():
        param.requires_grad = True
    module.train()


def _recursive_freeze(module: Module, train_bn: bool = True) -> None:
    children = list(module.children())
    if not children:
        if not (isinstance(module, BN_TYPES) and train_bn):
            for param in module.parameters():
                param.requires_grad = False
            module.eval()
        else:
            _make_trainable(module)
    else:
        for child in children:
            _recursive_freeze(child, train_bn)


def filter_params(module: Module, train_bn: bool = True) -> Generator:
    for child in module.children():
        if isinstance(child, BN_TYPES) and train_bn:
            continue
        yield from (p for p in child.parameters() if not p.requires_grad)


def unfreeze_and_add_param_group(module: Module, optimizer: Optimizer, lr: float) -> None:
    _make_trainable(module)
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    params = [p for p in module.parameters() if id(p) not in known]
    optimizer.add_param_group({"params": params, "lr": lr})


class MilestonesFinetuning(pl.Callback):
    def __init__(self, milestones=(1, 3), train_bn=False):
        self.milestones = milestones
        self.train_bn = train_bn
        self.groups = []

    def on_fit_start(self, trainer, pl_module):
        _recursive_freeze(pl_module.backbone, self.train_bn)

    def on_train_epoch_start(self, trainer, pl_module):
        epoch = trainer.current_epoch
        (optimizer,) = trainer.optimizers
        if epoch == self.milestones[0]:
            unfreeze_and_add_param_group(pl_module.backbone[-1], optimizer, lr=1e-2)
        if epoch == self.milestones[1]:
            unfreeze_and_add_param_group(pl_module.backbone[0], optimizer, lr=1e-3)
        self.groups.append(len(optimizer.param_groups))
        rank_zero_info(f"epoch {epoch}: {len(optimizer.param_groups)} groups of parameters")


class TransferLearningModel(LightningModule):
    def __init__(self, backbone: nn.Module, lr: float = 0.05, lr_scheduler_gamma: float = 0.5):
        super().__init__()
        self.save_hyperparameters("lr", "lr_scheduler_gamma")
        self.backbone = backbone
        self.head = nn.Linear(8, 3)
        self.train_acc = pl.metrics.Accuracy()
        self.f1 = pl.metrics.F1(num_classes=3, average="macro")

    @auto_move_data
    def forward(self, x):
        return self.head(self.backbone(x))

    def training_step(self, batch, batch_idx):
        x, y = batch
        out = self(x)
        self.log("train_acc", self.train_acc(out, y), prog_bar=True, on_epoch=True, on_step=False)
        return nn.functional.cross_entropy(out, y)

    def validation_step(self, batch, batch_idx):
        x, y = batch
        self.log("val_f1", self.f1(self(x), y), prog_bar=True)

    def configure_optimizers(self):
        trainable = filter(lambda p: p.requires_grad, self.parameters())
        optimizer = optim.SGD(trainable, lr=self.hparams.lr)
        scheduler = MultiStepLR(optimizer, [4], gamma=self.hparams.lr_scheduler_gamma)
        return [optimizer], [scheduler]


def data(shift: float) -> TensorDataset:
    generator = torch.Generator().manual_seed(2)
    labels = torch.arange(300) % 3
    points = torch.randn(300, 6, generator=generator) + labels[:, None] * 1.5 + shift
    return TensorDataset(points, labels)


def main(args):
    pl.seed_everything(11)
    backbone = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8))
    source = TransferLearningModel(backbone)
    trainer = pl.Trainer(max_epochs=2, default_root_dir=args.root_data_path, logger=False,
                         checkpoint_callback=False)  # fmt: skip
    trainer.fit(source, DataLoader(data(0.0), batch_size=30), DataLoader(data(0.0), batch_size=30))

    model = TransferLearningModel(backbone)
    for parameter in model.backbone.parameters():
        parameter.requires_grad = False
    first, last = backbone[0].weight.clone(), backbone[2].weight.clone()
    finetuning = MilestonesFinetuning()
    seen = {}

    class Watch(pl.Callback):
        def on_epoch_end(self, trainer, pl_module):
            moved = not torch.equal(first, backbone[0].weight)
            seen[trainer.current_epoch] = (moved, not torch.equal(last, backbone[2].weight))

    trainer = pl.Trainer(
        max_epochs=args.epochs,
        default_root_dir=args.root_data_path,
        callbacks=[finetuning, Watch()],
        weights_summary="full",
        gpus=0,
        num_sanity_val_steps=0,
        deterministic=True,
    )
    loaders = [DataLoader(data(0.5), batch_size=30) for _ in range(2)]
    trainer.fit(model, *loaders)
    assert finetuning.groups == [1, 2, 2, 3, 3], finetuning.groups
    assert seen == {0: (False, False), 1: (False, True), 2: (False, True), 3: (True, True),
                    4: (True, True)}, seen  # fmt: skip
    rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
    print("rates", rates)
    model.unfreeze()
    assert all(p.requires_grad for p in model.parameters()) and model.training
    print("accuracy", float(trainer.callback_metrics["train_acc"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--root-data-path", dest="root_data_path", default=".")
    parser.add_argument("--epochs", default=5, type=int)
    main(parser.parse_args())
