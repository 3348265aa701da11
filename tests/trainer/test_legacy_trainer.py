"""What code for Lightning 1.x reads from inside a Trainer, and putting in other optimizers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

import leyden
from leyden import legacy_files, legacy_parts
from leyden.exceptions import MisconfigurationException
from leyden.legacy_trainer import ATTRIBUTES, INSTEAD
from tests.trainer.tiny import QUIET


class Model(leyden.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
        self.seen: dict[str, Any] = {}

    def look(self, batch_idx: int) -> None:
        """To be replaced: what the test looks at from inside a step."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.look(batch_idx)
        loss = self.layer(batch).mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val", self.layer(batch).mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)]

    def train_dataloader(self) -> Any:
        return DataLoader(torch.ones(16, 4), batch_size=4)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return DataLoader(torch.ones(8, 4), batch_size=4)  # type: ignore[arg-type]


def trainer(**kwargs: Any) -> Any:
    return leyden.Trainer(**{**QUIET, "max_epochs": 1, **kwargs})


def test_the_loss_on_the_bar_is_the_mean_of_20_steps_though_it_was_drawn_once() -> None:
    class Counts(Model):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return super().training_step(batch, batch_idx) * 0 + batch_idx

        def train_dataloader(self) -> Any:
            return DataLoader(torch.ones(25, 4), batch_size=1)  # type: ignore[arg-type]

    made = trainer(progress_bar_refresh_rate=100)
    made.fit(Counts())
    assert made.progress_bar_dict["loss"] == "14.5"  # of 5 to 24


def test_the_train_loop_tells_position_loss_and_accumulation() -> None:
    model, made = Model(), trainer(accumulate_grad_batches=2)
    rows: list[tuple[Any, ...]] = []

    def look(batch_idx: int) -> None:
        loop = made.train_loop
        loss = loop.running_loss.mean()
        rows.append((loop.batch_idx, loop.total_batch_idx, loop.should_accumulate(), loss))

    model.look = look  # type: ignore[method-assign]
    made.fit(model)
    assert [row[:3] for row in rows] == [
        (0, 0, True),
        (1, 1, False),
        (2, 2, True),
        (3, 3, False),
    ]
    assert rows[0][3] is None and rows[3][3] is not None
    assert made.train_loop.num_optimizers == 1
    assert made.train_loop.get_optimizers_iterable() == [(0, made.optimizers[0])]


def test_metrics_are_those_of_the_trainer(tmp_path: Path) -> None:
    made = trainer()
    made.fit(Model())
    connector = made.logger_connector
    assert connector.callback_metrics is made.callback_metrics
    assert set(connector.callback_metrics) == {"loss", "val"}
    connector.add_progress_bar_metrics({"mine": 3.0})
    assert made.progress_bar_metrics["mine"] == 3
    connector.log_metrics({"row": 1.5}, {})
    assert made.logged_metrics["row"] == 1.5


def test_validation_can_be_run_from_inside_a_step() -> None:
    model, made = Model(), trainer(val_check_interval=1.0)
    found: list[Any] = []
    model.look = lambda batch_idx: found.append(made.run_evaluation()[0][0]["val"])  # type: ignore[method-assign]
    made.fit(model)
    assert len({float(value) for value in found}) == 4
    assert float(found[0]) > float(found[3])
    with pytest.raises(AttributeError, match=r"trainer.test\(model\)"):
        made.run_evaluation(test_mode=True)


@pytest.mark.filterwarnings("ignore:The validation_epoch_end should not return")
def test_a_validation_by_hand_gives_what_steps_and_hooks_returned() -> None:
    class Returns(Model):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            super().validation_step(batch, batch_idx)
            return batch_idx + 3

    class Ends(Returns):
        def validation_epoch_end(self, outputs: list[Any]) -> Any:
            return sum(outputs)

    for kind, expected in [(Model, []), (Returns, [3, 4]), (Ends, [7])]:
        made = trainer()
        made.fit(kind())
        metrics, returned = made.run_evaluation()
        assert returned == expected and [set(one) for one in metrics] == [{"val"}]


def test_a_module_knows_the_loader_of_its_evaluation_batch() -> None:
    seen: list[Any] = []

    class Looks(leyden.Callback):
        def on_validation_batch_start(self, trainer: Any, module: Any, *_: Any) -> None:
            seen.append(module._current_dataloader_idx)

        on_validation_batch_end = on_validation_batch_start

        def on_validation_epoch_end(self, trainer: Any, module: Any) -> None:
            seen.append(module._current_dataloader_idx)

    class Two(Model):
        def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
            seen.append(self._current_dataloader_idx)

        def val_dataloader(self) -> Any:
            return [DataLoader(torch.ones(1, 4))] * 2  # type: ignore[arg-type]

    made = trainer(callbacks=[Looks()])
    made.fit(Two())
    assert seen == [0, 0, 0, 1, 1, 1, None]
    assert made.model._current_dataloader_idx is None


def test_loaders_can_be_asked_for_without_a_run() -> None:
    model, made = Model(), trainer(limit_train_batches=3, limit_val_batches=0.5)
    made.reset_train_dataloader(model)
    made.reset_val_dataloader(model)
    assert made.num_training_batches == 3 and made.num_val_batches == [1]
    assert made.evaluation_loop.max_batches == [1] and made.evaluation_loop.num_dataloaders == 1
    assert made.data_connector.can_prepare_data()


def test_checkpoints_by_the_connector(tmp_path: Path) -> None:
    model, made = Model(), trainer()
    made.fit(model)
    found = made.checkpoint_connector.dump_checkpoint()
    assert torch.equal(found["state_dict"]["layer.weight"], model.layer.weight)
    made.checkpoint_connector.save_checkpoint(tmp_path / "a.ckpt")
    assert Model.load_from_checkpoint(tmp_path / "a.ckpt").layer.weight.equal(model.layer.weight)


def test_checkpoints_for_a_cluster(tmp_path: Path) -> None:
    class Clustered(Model):
        def on_hpc_save(self, checkpoint: dict[str, Any]) -> None:
            checkpoint["mine"] = 7

        def on_hpc_load(self, checkpoint: dict[str, Any]) -> None:
            self.seen["mine"] = checkpoint["mine"]

    model, made = Clustered(), trainer()
    made.fit(model)
    connector = made.checkpoint_connector
    assert connector.max_ckpt_in_folder(tmp_path / "none") is None
    paths = [connector.hpc_save(tmp_path) for _ in range(2)]
    assert [Path(path).name for path in paths] == ["hpc_ckpt_1.ckpt", "hpc_ckpt_2.ckpt"]
    assert connector.get_max_ckpt_path_from_folder(tmp_path) == paths[1]
    with torch.no_grad():
        model.layer.weight.zero_()
    connector.hpc_load(paths[1])
    assert model.layer.weight.any() and model.seen["mine"] == 7


def test_one_process_gathers_from_itself() -> None:
    made, data = trainer(), torch.arange(3.0)
    made.fit(Model())
    backend = made.accelerator_backend
    backend.barrier("here")
    assert backend.broadcast({"a": 1}) == {"a": 1}
    assert backend.all_gather(data) is data and backend.sync_tensor(data) is data
    assert backend.to_device([data])[0].device == data.device
    assert backend.batch_to_device({"a": data}, "meta")["a"].is_meta


def test_a_batch_is_moved_the_way_of_the_module() -> None:
    class Moves(Model):
        def transfer_batch_to_device(self, batch: Any, device: Any) -> Any:
            return batch, device

    made = trainer()
    assert made.accelerator_backend.batch_to_device([torch.ones(1)], "meta")[0].is_meta
    made.fit(Model())
    made.model = Moves()
    assert made.accelerator_backend.batch_to_device(3, "cpu") == (3, torch.device("cpu"))


@pytest.mark.parametrize("name", sorted(INSTEAD))
def test_what_is_not_there_says_what_to_use(name: str) -> None:
    made = trainer()
    assert not hasattr(made, name)
    with pytest.raises(AttributeError, match=f"Trainer of leyden has no '{name}': .{{10}}"):
        getattr(made, name)


def test_a_part_says_what_replaced_what_it_does_not_have() -> None:
    with pytest.raises(AttributeError, match="'warmup' is not in .*TrainLoop: .*trainer.engine"):
        trainer().train_loop.warmup  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        trainer().nonsense  # noqa: B018


@pytest.mark.parametrize("name", sorted(ATTRIBUTES))
def test_every_view_can_be_looked_at_after_a_run(name: str) -> None:
    made = trainer(limit_train_batches=1)
    made.fit(Model())
    if name not in ("hiddens",):
        assert getattr(made, name) is not None


def test_the_number_of_steps_to_come() -> None:
    model = Model()
    made = trainer(max_epochs=3, accumulate_grad_batches={0: 1, 1: 3})
    model.look = lambda batch_idx: model.seen.update(n=made.estimated_stepping_batches)  # type: ignore[method-assign]
    made.fit(model)
    assert model.seen["n"] == made.global_step == 4 + 2 + 2
    made = trainer(max_epochs=9, max_steps=5)
    made.fit(model)
    assert model.seen["n"] == 5


def test_a_view_is_one_object_and_keeps_what_is_set_on_it() -> None:
    made = trainer()
    made.train_loop.mine = 3
    assert made.train_loop.mine == 3 and made.train_loop is made.train_loop


def test_metrics_are_put_in_by_the_connector() -> None:
    made = trainer()
    made.logger_connector.callback_metrics = {"score": torch.tensor(2.5)}
    assert dict(made.callback_metrics) == {"score": 2.5}


def test_the_connector_says_whether_there_was_a_batch() -> None:
    model, made = Model(), trainer()
    assert not made.checkpoint_connector.has_trained
    made.fit(model)
    assert made.checkpoint_connector.has_trained
    other = trainer()
    with pytest.warns(UserWarning, match="nothing is tested"):
        other.test(model)
    assert not other.checkpoint_connector.has_trained


def test_a_training_state_is_restored_by_the_connector() -> None:
    model, made = Model(), trainer()
    made.fit(model)
    connector = made.checkpoint_connector
    kept = connector.dump_checkpoint()
    kept = {**kept, "state_dict": {k: v.clone() for k, v in kept["state_dict"].items()}}
    with torch.no_grad():
        model.layer.weight.zero_()
    connector.restore_training_state(kept)
    assert model.layer.weight.equal(kept["state_dict"]["layer.weight"])
    with pytest.raises(KeyError, match="checkpoint contains only the model"):
        connector.restore_training_state(connector.dump_checkpoint(weights_only=True))


def test_loaders_of_an_evaluation_with_their_numbers_of_batches() -> None:
    made = trainer(limit_val_batches=0.5)
    batches, loaders = made._reset_eval_dataloader(Model(), "val")
    assert batches == [1] and [len(loader) for loader in loaders] == [2]


def test_a_sampler_is_replaced() -> None:
    data: Any = torch.arange(6.0)
    loader = DataLoader(data, batch_size=4, shuffle=True, drop_last=True)
    made = trainer().replace_sampler(loader, torch.utils.data.SequentialSampler(data))
    assert [batch.tolist() for batch in made] == [[0, 1, 2, 3]]
    assert isinstance(loader.sampler, torch.utils.data.RandomSampler)
    own: Any = torch.utils.data.BatchSampler(range(6), 2, False)
    with pytest.raises(MisconfigurationException, match="by BatchSampler.*would change nothing"):
        trainer().replace_sampler(DataLoader(data, batch_sampler=own), own.sampler)


def test_a_private_name_that_is_not_there_is_none() -> None:
    with pytest.raises(AttributeError, match="'Trainer' object has no attribute '_nonsense'"):
        trainer()._nonsense  # noqa: B018


# ---------------------------------------------------------------- other optimizers


def test_an_optimizer_that_is_put_in_steps_from_then_on() -> None:
    model, made = Model(), trainer()
    weights: list[torch.Tensor] = []

    def look(batch_idx: int) -> None:
        weights.append(model.layer.weight.detach().clone())
        if batch_idx == 1:
            made.optimizers = [torch.optim.SGD(model.parameters(), lr=0.0)]

    model.look = look  # type: ignore[method-assign]
    made.fit(model)
    assert not weights[0].equal(weights[1])
    assert weights[1].equal(weights[2]) and weights[2].equal(weights[3])
    assert weights[3].equal(model.layer.weight)


def test_another_number_of_optimizers_is_refused_while_training_runs() -> None:
    model, made = Model(), trainer()

    def look(batch_idx: int) -> None:
        made.optimizers = [torch.optim.SGD(model.parameters(), lr=0.0)] * 2

    model.look = look  # type: ignore[method-assign]
    with pytest.raises(MisconfigurationException, match="2 optimizers, where .* runs with 1"):
        made.fit(model)
    with pytest.raises(MisconfigurationException, match="3 .*int.* as an optimizer"):
        made.optimizers = [3]


def test_schedulers_that_are_put_in_step_from_then_on() -> None:
    model, made = Model(), trainer(max_epochs=2)

    class Swap(leyden.Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            (optimizer,) = trainer.optimizers
            schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 + epoch)
            trainer.lr_schedulers = [{"scheduler": schedule, "interval": "step"}]

    made.callbacks = [Swap()]
    made.fit(model)
    assert made.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 9)


def test_setup_optimizers_asks_the_module_again() -> None:
    model, made = Model(), trainer()
    made.fit(model)
    (before,) = made.optimizers
    made.accelerator_backend.setup_optimizers(model)
    (after,) = made.optimizers
    assert after is not before and len(made.lr_schedulers) == 1


# ---------------------------------------------------------------- functions


def test_files_of_hyper_parameters(tmp_path: Path) -> None:
    legacy_files.save_hparams_to_tags_csv(tmp_path / "tags.csv", {"lr": 0.1, "name": "a,b"})
    read = legacy_files.load_hparams_from_tags_csv(tmp_path / "tags.csv")
    assert read == {"lr": 0.1, "name": "a,b"}
    with pytest.warns(RuntimeWarning, match="there is no file .*no.yaml"):
        assert legacy_files.load_hparams_from_yaml(tmp_path / "no.yaml") == {}
    with pytest.raises(RuntimeError, match="make the folder .*no. first"):
        legacy_files.save_hparams_to_tags_csv(tmp_path / "no" / "tags.csv", {})
    assert legacy_files.convert("[1, 2]") == [1, 2] and legacy_files.convert("a b") == "a b"


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for given, expected in [
        (None, None),
        (0, None),
        (2, [0, 1]),
        (-1, [0, 1, 2, 3]),
        ("1,3", [1, 3]),
    ]:
        assert legacy_files.parse_gpu_ids(given) == expected
    with pytest.raises(MisconfigurationException, match=r"gpus=\[4\] .* has 4"):
        legacy_files.parse_gpu_ids([4])
    assert legacy_files.determine_root_gpu_device([2, 0]) == 2
    with pytest.raises(AssertionError, match="not empty"):
        legacy_files.determine_root_gpu_device([])
    with pytest.raises(MisconfigurationException, match="none was found"):
        legacy_files.parse_tpu_cores(8)
    assert legacy_files.parse_tpu_cores(None) is None


def test_a_module_that_knows_where_it_is() -> None:
    module = legacy_files.DeviceDtypeModuleMixin()
    assert module.to(torch.float64).dtype is torch.float64
    assert module.device.type == "cpu"


def test_small_parts() -> None:
    total = legacy_parts.Accumulator()
    with pytest.raises(ValueError, match="nothing was added"):
        total.mean()
    total.accumulate(torch.tensor(1.0))
    total.accumulate(2.0)
    assert total.mean() == 1.5
    assert legacy_parts.convert_inf(float("inf")) is None and legacy_parts.convert_inf(3) == 3
    assert [legacy_parts.get_human_readable_count(n) for n in (0, 123, 1234, 2_000_000)] == [
        "0  ",
        "123  ",
        "1.2 K",
        "2.0 M",
    ]

    mixin = legacy_parts.TrainerLoggingMixin()
    rows = torch.tensor([[1.0], [3.0], [8.0]])
    assert mixin.reduce_distributed_output(rows, num_gpus=1) is rows
    assert mixin.reduce_distributed_output(rows, num_gpus=2) == 4
    given = {"a": rows, "b": {"c": rows[:2]}, "d": [1.0, 2.0], "e": torch.tensor(5.0)}
    found = mixin.reduce_distributed_output(given, num_gpus=2)
    assert found["a"] is rows and found["b"] == {"c": 2.0} and found["d"] == 1.5
    assert mixin.metrics_to_scalars({"e": given["e"], "f": {"g": given["e"]}, "h": 1}) == {
        "e": 5.0,
        "f": {"g": 5.0},
        "h": 1,
    }

    class Own:
        def __init__(this, a: int, *rest: int, **more: int) -> None:  # noqa: N805
            pass

    assert legacy_parts.parse_class_init_keys(Own) == ("this", "rest", "more")
    said = legacy_parts.parse_args_from_docstring("Do.\n\nArgs:\n    a: the first\n    b: other\n")
    assert said == {"a": "the first", "b": "other"}


def test_metrics_can_be_put_in() -> None:
    made = trainer()
    for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics"):
        kept = getattr(made, name)
        setattr(made, name, {"a": torch.tensor(1.0)})
        assert dict(getattr(made, name)) == {"a": 1.0} and getattr(made, name) is kept


class NoTest(Model):
    pass


class NoData(Model):
    def test_step(self, batch: Any, batch_idx: int) -> None:
        raise AssertionError("there is nothing to test on")


class NoStep(Model):
    def test_dataloader(self) -> Any:
        raise AssertionError("there is nothing to run")


@pytest.mark.parametrize(
    ("kind", "missing"),
    [
        (NoTest, "no test_step and no test data"),
        (NoData, "no test data"),
        (NoStep, "no test_step"),
    ],
)
def test_a_test_without_a_step_or_data_passes_with_a_warning(kind: Any, missing: str) -> None:
    calls: list[str] = []

    class Ends(leyden.Callback):
        def setup(self, trainer: Any, pl_module: Any, stage: str | None = None) -> None:
            calls.append(f"setup {stage}")

        def on_test_start(self, trainer: Any, pl_module: Any) -> None:
            calls.append("test")

    made = trainer(callbacks=[Ends()])
    with pytest.warns(UserWarning, match=f"{kind.__name__} has {missing}: nothing is tested"):
        assert made.test(kind()) == 1
    assert made.state == "FINISHED" and calls == ["setup test"]


def test_the_tested_file_is_that_of_the_last_test(tmp_path: Path) -> None:
    class Tests(Model):
        def test_step(self, batch: Any, batch_idx: int) -> None: ...

        test_dataloader = Model.val_dataloader

    made = trainer()
    made.fit(Tests())
    made.save_checkpoint(tmp_path / "x.ckpt")
    made.test(ckpt_path=str(tmp_path / "x.ckpt"), verbose=False)
    assert made.tested_ckpt_path == str(tmp_path / "x.ckpt")
    made.test(ckpt_path=None, verbose=False)
    assert made.tested_ckpt_path is None
