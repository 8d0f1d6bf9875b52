"""Lightning and Fabric: torch's losses, our class and options kept, epochs that go on."""

from __future__ import annotations

import inspect
import logging

import pytest
import torch
import torch.utils.data
from torch import nn
from torch.utils.data import BatchSampler, SequentialSampler

from fastload import DataLoader

from .data import BATCH, LENGTH, Numbers, Stream, make_model, regression, rows

lightning = pytest.importorskip("lightning")
from lightning.fabric.utilities.data import _replace_dunder_methods, _update_dataloader  # noqa: E402
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: E402
from lightning.pytorch.utilities.combined_loader import CombinedLoader  # noqa: E402

TORCH = torch.utils.data.DataLoader
BATCHES = -(-LENGTH // BATCH)

# Lightning's own advice, and what it does of torch's that is deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(autouse=True)
def quiet():
    """Nothing to say about devices."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Module(lightning.LightningModule):
    """Notes the loss of every step."""

    def __init__(self, make_loader=None) -> None:
        super().__init__()
        self.net = make_model()
        self.make_loader = make_loader
        self.losses: list[tuple[int, int, float]] = []
        self.validated: list[float] = []

    def training_step(self, batch, number):
        loss = nn.functional.mse_loss(self.net(batch[0]), batch[1])
        self.losses.append((self.current_epoch, number, loss.item()))
        return loss

    def validation_step(self, batch, number) -> None:
        self.validated.append(nn.functional.mse_loss(self.net(batch[0]), batch[1]).item())

    def predict_step(self, batch, number):
        return self.net(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)


class WithHooks(Module):
    """Makes its loaders in hooks, where Lightning watches constructors and attributes."""

    def train_dataloader(self):
        loader = self.make_loader(shuffle=True)
        loader.anything = 3
        return loader

    def val_dataloader(self):
        return self.make_loader()


def trainer(**options):
    return lightning.Trainer(
        **{
            "max_epochs": 2,
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "enable_checkpointing": "callbacks" in options,
            **options,
        }
    )


def maker(loader_class, **options):
    return lambda **more: loader_class(regression(), batch_size=BATCH, **options, **more)


def fitted(make, *, with_hooks: bool = False, **options) -> Module:
    torch.manual_seed(3)
    module = WithHooks(make) if with_hooks else Module()
    loaders = () if with_hooks else (make(shuffle=True), make())
    trainer(**options).fit(module, *loaders)
    return module


WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 2, "persistent_workers": True},
]


@pytest.mark.parametrize("workers", WORKERS, ids=["inline", "workers", "persistent"])
@pytest.mark.parametrize("with_hooks", [False, True], ids=["passed", "hooks"])
def test_losses_are_torchs_to_the_last_bit(workers, with_hooks) -> None:
    """Training and validation, with loaders that are passed or made in hooks."""
    expected = fitted(maker(TORCH, **workers), with_hooks=with_hooks)
    ours = fitted(maker(DataLoader, **workers), with_hooks=with_hooks)
    assert len(expected.losses) == 2 * BATCHES
    assert ours.losses == expected.losses
    assert ours.validated == expected.validated


@pytest.mark.parametrize(
    "options",
    [{"overfit_batches": 2}, {"limit_train_batches": 3}, {"reload_dataloaders_every_n_epochs": 1}],
)
def test_options_of_the_trainer_work_as_with_torch(options) -> None:
    """Also those for which Lightning makes the loaders anew."""
    expected = fitted(maker(TORCH), with_hooks=True, **options)
    assert fitted(maker(DataLoader), with_hooks=True, **options).losses == expected.losses


def test_predictions_are_torchs() -> None:
    """Lightning puts a batch sampler of its own around ours for them."""

    def predict(loader_class):
        torch.manual_seed(1)
        return trainer().predict(Module(), maker(loader_class, num_workers=1)())

    assert all(map(torch.equal, predict(DataLoader), predict(TORCH)))


def test_rebuilt_loader_keeps_class_and_options() -> None:
    """As for a DistributedSampler, outside of hooks: from attributes and the signature."""
    loader = DataLoader(Numbers(), BATCH, memory_limit=1 << 20, snapshot_every_n_steps=7)
    sampler = SequentialSampler(range(6))
    rebuilt = _update_dataloader(loader, sampler)
    assert type(rebuilt) is DataLoader
    assert rebuilt.sampler is sampler
    assert (rebuilt.memory_limit, rebuilt.snapshot_every_n_steps) == (1 << 20, 7)
    assert rows(rebuilt) == [[0, 1, 2, 3], [4, 5]]


class Backwards(BatchSampler):
    """A batch sampler that Lightning can make again: sampler, batch_size, drop_last."""

    def __iter__(self):
        return reversed(list(super().__iter__()))


@pytest.mark.parametrize("in_hook", [False, True])
def test_custom_batch_sampler_is_rebuilt_around_the_new_sampler(in_hook) -> None:
    """In hooks from its own arguments, outside from its attributes."""

    def make():
        return DataLoader(Numbers(), batch_sampler=Backwards(range(9), 2, False))

    loader = made_in_hook(make) if in_hook else make()
    rebuilt = _update_dataloader(loader, [7, 8, 9])
    assert type(rebuilt.batch_sampler) is Backwards
    assert rows(rebuilt) == [[9], [7, 8]]


def made_in_hook(make):
    """Call a function as Lightning calls `train_dataloader`."""
    with _replace_dunder_methods(TORCH, "dataset"), _replace_dunder_methods(BatchSampler):
        return make()


def test_loader_made_in_a_hook_is_rebuilt_from_its_call() -> None:
    """And attributes that were set later are set again."""

    def make():
        loader = DataLoader(dataset=Numbers(), batch_size=BATCH, memory_limit=1 << 20)
        loader.anything = "mine"
        return loader

    rebuilt = _update_dataloader(made_in_hook(make), [3, 2, 1])
    assert type(rebuilt) is DataLoader
    assert (rebuilt.memory_limit, rebuilt.anything) == (1 << 20, "mine")
    assert rows(rebuilt) == [[3, 2, 1]]


def test_rebuilt_loader_does_not_share_what_is_alive() -> None:
    """Also if persistent workers were started in the hook: its new sampler is obeyed."""

    def make():
        loader = DataLoader(
            dataset=Numbers(), batch_size=BATCH, num_workers=1, persistent_workers=True
        )
        next(iter(loader))
        return loader

    loader = made_in_hook(make)
    rebuilt = _update_dataloader(loader, [3, 2, 1])
    assert rows(rebuilt) == [[3, 2, 1]]
    assert rebuilt._live is not loader._live
    rebuilt.close()
    loader.close()


def test_reset_of_a_combined_loader_ends_persistent_workers() -> None:
    """It drops `_iterator`, and nothing else may keep them."""
    loader = DataLoader(Numbers(), batch_size=2, num_workers=2, persistent_workers=True)
    combined = CombinedLoader({"one": loader})
    next(iter(combined))
    workers = list(loader._iterator._workers)
    combined.reset()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode is not None


def test_stateful_loaders_are_found() -> None:
    """Lightning's protocol for loaders that can go on in the middle of an epoch."""
    from lightning.fabric.utilities.types import _Stateful

    assert isinstance(DataLoader(Numbers()), _Stateful)


def resumed(tmp_path, make, saved_at: dict, name: str, epochs: int = 3):
    """Losses of a whole fit, and those after a checkpoint."""
    whole = fitted(make, max_epochs=epochs).losses
    fitted(
        make,
        max_epochs=1,
        callbacks=[ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, **saved_at)],
    )
    torch.manual_seed(99)
    module = Module()
    trainer(max_epochs=epochs).fit(module, make(shuffle=True), make(), ckpt_path=tmp_path / name)
    return whole, module.losses


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [2, 4])
def test_checkpoint_in_the_middle_of_an_epoch_goes_on_there(tmp_path, step, workers) -> None:
    """The rest of the epoch has the losses it would have had; with torch it starts anew."""
    make = maker(DataLoader, num_workers=workers)
    whole, rest = resumed(tmp_path, make, {"every_n_train_steps": 2}, f"step={step}.ckpt")
    first_epoch = [loss for loss in rest if loss[0] == 0]
    assert first_epoch == whole[step:BATCHES]
    assert [loss[:2] for loss in rest] == [loss[:2] for loss in whole[step:]]


class Derived(DataLoader):
    """A loader that takes part in loading a state."""

    def load_state_dict(self, state_dict) -> None:
        super().load_state_dict(state_dict)


@pytest.mark.parametrize("loader_class", [TORCH, DataLoader, Derived])
@pytest.mark.parametrize("saved_at", [{}, {"every_n_train_steps": 2}], ids=["end", "last batch"])
def test_checkpoint_after_the_last_batch_begins_the_next_epoch(
    tmp_path, saved_at, loader_class
) -> None:
    """No epoch is left out and none repeated, wherever Lightning saved it."""
    make = maker(loader_class)
    whole, rest = resumed(tmp_path, make, saved_at, f"step={BATCHES}.ckpt")
    assert [loss[:2] for loss in rest] == [loss[:2] for loss in whole[BATCHES:]]


def test_state_after_the_last_batch_is_an_empty_rest_for_everybody_else() -> None:
    """A loop that saves after each batch must not load an epoch twice."""
    loader = DataLoader(Numbers(), batch_size=BATCH)
    for _ in loader:
        state = loader.state_dict()
    again = DataLoader(Numbers(), batch_size=BATCH)
    again.load_state_dict(state)
    assert [len(rows(again)), len(rows(again))] == [0, BATCHES]


def test_checkpoint_can_be_read_with_weights_only(tmp_path) -> None:
    """The state of a loader in it is plain."""
    resumed(tmp_path, maker(DataLoader), {"every_n_train_steps": 2}, "step=2.ckpt", epochs=1)
    checkpoint = torch.load(tmp_path / "step=2.ckpt", weights_only=True)
    [state] = checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"]
    assert state["_num_yielded"] == 2


def test_fabric_gives_the_loaders_batches() -> None:
    """In one process it only wraps it."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    loader = DataLoader(Numbers(), batch_size=BATCH, num_workers=1, memory_limit=1 << 20)
    wrapped = fabric.setup_dataloaders(loader)
    assert [rows(wrapped), rows(wrapped)] == [rows(loader)] * 2
    assert isinstance(wrapped._dataloader, DataLoader)
    assert wrapped._dataloader.memory_limit == 1 << 20


def test_stream_trains_as_with_torch() -> None:
    """A stream without a length."""

    class Points(Stream):
        def __iter__(self):
            return iter(list(zip(*regression().tensors, strict=True)))

    def make(loader_class):
        return lambda **_: loader_class(Points(), batch_size=BATCH, num_workers=1)

    assert fitted(make(DataLoader)).losses == fitted(make(TORCH)).losses


def test_workers_are_seeded_by_lightning(monkeypatch) -> None:
    """It sets worker_init_fn on the loader that exists."""
    from lightning.fabric.utilities.data import _auto_add_worker_init_fn

    monkeypatch.setenv("PL_SEED_WORKERS", "1")

    def drawn(loader_class):
        torch.manual_seed(4)
        loader = loader_class(Draws(4), num_workers=2)
        _auto_add_worker_init_fn(loader, 1)
        return [batch.tolist() for batch in loader]

    assert drawn(DataLoader) == drawn(TORCH)


class Draws(Numbers):
    """A random number, whatever the index."""

    def __getitem__(self, index):
        return torch.rand(1)


def test_signature_has_no_catch_all() -> None:
    """Lightning refuses arguments that it can't see in the signature."""
    kinds = {p.kind for p in inspect.signature(DataLoader.__init__).parameters.values()}
    assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
