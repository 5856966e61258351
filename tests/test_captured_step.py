"""A captured step gives the bits of `model.loss(...)` and `backward()`, whatever changes between steps."""

from __future__ import annotations

import contextlib
import os
import threading

import numpy as np
import pytest

import tinygpt
from tinygpt import GPT, AdamW, CapturedStep, GPTConfig, Tensor, clip_grad_norm, grad_norm
from tinygpt.autograd.watch import Watch, watching
from tinygpt.kernels import linear_cross_entropy
from tinygpt.nn import LayerNorm
from tinygpt.nn.layers import no_dropout
from tinygpt.runtime import memory, settings
from tinygpt.runtime.capture import Capture
from tinygpt.training.settings import TrainingSettings
from tinygpt.training.train import train

pytestmark = pytest.mark.skipif(
    bool("NUMBA_DISABLE_JIT" in os.environ or settings.GUARD or settings.DEBUG)
    or settings.current_implementation() != "kernels",
    reason="steps are captured where kernels run as they do in training",
)

VOCABULARY, IGNORED = 40, -100


def make(dropout=0.0, n_layer=2, n_embd=32, n_positions=16, seed=3, vocab_size=VOCABULARY):
    sizes = {"vocab_size": vocab_size, "n_positions": n_positions, "n_embd": n_embd, "n_layer": n_layer, "n_head": 2}
    return GPT(GPTConfig(**sizes, embd_pdrop=dropout, attn_pdrop=dropout, resid_pdrop=dropout), seed=seed)


def batches(shape=(3, 16), ignored=0.0, vocab_size=VOCABULARY):
    rng = np.random.default_rng(5)
    while True:
        tokens, targets = rng.integers(0, vocab_size, (2, *shape))
        yield tokens, np.where(rng.random(shape) < ignored, IGNORED, targets)


def as_always(model, tokens, targets, ignore_index=IGNORED, parts=1):
    loss = model.loss(tokens, targets, ignore_index)
    loss = loss if parts == 1 else loss / parts
    loss.backward()
    return loss.item()


class Pair:
    """Two models that are trained alike, one with a captured step, one without; every step is compared."""

    def __init__(self, **sizes):
        self.models = make(**sizes), make(**sizes)
        self.capturing = CapturedStep(self.models[0])
        self.optimizers = [AdamW(model.parameters(), lr=1e-2) for model in self.models]

    def compute(self, tokens, targets, **options):
        loss = self.capturing(tokens, targets, **options)
        assert loss.hex() == as_always(self.models[1], tokens, targets, **options).hex()
        self.compare()

    def compare(self):
        for first, second in zip(*(model.parameters() for model in self.models), strict=True):
            assert first.node.sum_of_squares() == second.node.sum_of_squares()
            assert (first.node.grad is None) == (second.node.grad is None)
            if first.node.grad is not None:
                np.testing.assert_array_equal(first.node.grad, second.node.grad)

    def update(self):
        norms = [grad_norm(model.parameters()) for model in self.models]
        assert norms[0] == norms[1]
        for optimizer in self.optimizers:
            optimizer.step(scale=min(1, 1 / norms[0]))
            optimizer.zero_grad()

    def train(self, source, count, **options):
        for _ in range(count):
            self.compute(*next(source), **options)
            self.update()
        np.testing.assert_array_equal(*(model.flat_parameters for model in self.models))


@pytest.fixture(autouse=True, scope="module")
def first_launch():
    """The first kernel of a process finds out how kernels may be launched: until then, no step is captured."""
    as_always(make(), *next(batches()))


@pytest.fixture(autouse=True)
def replays(monkeypatch):
    """A list that grows with each replay."""
    found, replay = [], Capture.replay

    def counted(self, generator):
        found.append(self)
        replay(self, generator)

    monkeypatch.setattr(Capture, "replay", counted)
    return found


@pytest.fixture(autouse=True)
def former_settings():
    count, precision = settings.num_threads(), settings.get_float32_matmul_precision()
    yield
    settings.set_num_threads(count)
    settings.set_float32_matmul_precision(precision)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("shape", [(1, 1), (3, 16), (5, 7)])
def test_a_replayed_step_has_the_bits_of_one_that_is_done_as_always(shape, dropout, replays):
    Pair(dropout=dropout).train(batches(shape), 6)
    assert len(replays) == 4  # the third, which is verified, and three more


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("precision", ["highest", "medium"])
def test_so_it_has_with_any_number_of_threads_and_either_precision(count, precision, replays):
    settings.set_num_threads(count)
    settings.set_float32_matmul_precision(precision)
    pair = Pair(dropout=0.1, n_embd=64, n_positions=64, vocab_size=700)
    pair.train(batches((6, 64), vocab_size=700), 5)
    assert len(replays) == 3


def test_ignored_targets_may_be_others_each_time(replays):
    Pair().train(batches(ignored=0.4), 6)
    assert len(replays) == 4


def test_another_index_may_be_ignored():
    pair, source = Pair(), batches()
    for _ in range(5):
        tokens, targets = next(source)
        targets[0, :3] = -1
        pair.compute(tokens, targets, ignore_index=-1)
        pair.update()


@pytest.mark.parametrize("parts", [2, 3])
def test_gradients_accumulate_over_the_parts_of_a_step(parts, replays):
    pair, source = Pair(dropout=0.1), batches()
    for _ in range(5):
        for _ in range(parts):
            pair.compute(*next(source), parts=parts)
        pair.update()
    assert len(set(map(id, replays))) == 2  # one that overwrites gradients, one that adds
    assert len(replays) > 2 * parts


def test_shapes_may_take_turns(replays):
    pair, sources = Pair(dropout=0.1), [batches((2, 9)), batches((3, 16))]
    for _ in range(5):
        for source in sources:
            pair.train(source, 1)
    assert len(replays) == 6


def _replace_a_block(model):
    model.h[0], model.h[1] = model.h[1], model.h[0]


def _replace_a_layer(model):
    model.ln_f = LayerNorm(32)
    model.flatten_parameters()


def _replace_data(model):
    weight = model.h[0].mlp.c_fc.weight
    weight.data = weight.data * np.float32(2)


def _change_in_place(model):
    model.h[0].mlp.c_fc.weight.data[...] *= 2


def _load(model):
    model.load_state_dict(make(seed=99).state_dict())


def _freeze(model):
    model.h[0].attn.c_attn.requires_grad_(False)


def _freeze_and_release(model):
    model.requires_grad_(False)
    model.requires_grad_(True)


def _hook_a_module(model):
    model.h[1].register_forward_hook(lambda module, inputs, output: output * 2.0)


def _hook_a_gradient(model):
    model.h[1].ln_1.weight.register_hook(lambda gradient: gradient * 2)


def _read_gradients(model):
    assert model.wte.weight.grad is None and model.flat_gradients.size


def _set_dropout(model):
    model.h[0].mlp.dropout.p = 0.5


def _override_forward(model):
    model.ln_f.forward = lambda x: x * 3.0


def _own_class(model):
    class Twice(type(model.ln_f)):
        def forward(self, x):
            return super().forward(x) * 2.0

    model.ln_f.__class__ = Twice


def _other_generator(model):
    model.generator = model.drop.generator = np.random.default_rng(1)


def _tie_other_weights(model):
    model.h[1].ln_1.weight = model.h[0].ln_1.weight


CHANGES = [
    _replace_a_block,
    _replace_a_layer,
    _replace_data,
    _change_in_place,
    _load,
    _freeze,
    _freeze_and_release,
    _hook_a_module,
    _hook_a_gradient,
    _read_gradients,
    _set_dropout,
    _override_forward,
    _own_class,
    _other_generator,
    _tie_other_weights,
    lambda model: model.eval(),
    lambda model: model.h[0].eval(),
    lambda model: setattr(model, "recompute", True),
    lambda model: setattr(model.ln_f, "eps", 1e-1),
    lambda model: model.flatten_parameters(),
    lambda model: model.h.pop(),
    lambda model: model.generator.integers(7),
    lambda model: settings.set_num_threads(3),
    lambda model: settings.set_float32_matmul_precision("medium"),
]


def _count_in_an_object(model, calls):
    forward = model.h[0].forward
    model.h[0].forward = lambda x, cache=None: (calls.append(1), forward(x, cache))[1]


def _count_in_a_class(model, calls):
    hidden = GPT.hidden
    GPT.hidden = lambda self, tokens: (calls.append(1), hidden(self, tokens))[1]


@pytest.mark.parametrize("change", [_count_in_an_object, _count_in_a_class])
@pytest.mark.parametrize("before", [0, 4])
def test_a_method_that_was_replaced_runs_in_every_step(change, before, monkeypatch):
    monkeypatch.setattr(GPT, "hidden", GPT.hidden)  # as it was, after the test
    model, source, calls = make(), batches(), []
    step = CapturedStep(model)
    for _ in range(before):
        step(*next(source))
        model.zero_grad()
    change(model, calls)
    for _ in range(6):
        step(*next(source))
        model.zero_grad()
    assert len(calls) == 6


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_may_change_between_two_steps(change):
    pair, source = Pair(dropout=0.1), batches()
    pair.train(source, 4)
    for model in pair.models:
        change(model)
    for _ in range(4):
        tokens, targets = next(source)
        loss = pair.capturing(tokens, targets)
        assert loss.hex() == as_always(pair.models[1], tokens, targets).hex()
        for first, second in zip(*(model.parameters() for model in pair.models), strict=True):
            np.testing.assert_array_equal(first.grad, second.grad)
        for model in pair.models:
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter.data[...] -= np.float32(0.1) * parameter.grad
            model.zero_grad()


class Names(Watch):
    def __init__(self):
        self.names = []

    def operation(self, op):
        self.names.append(op.name)
        return op


@pytest.mark.parametrize(
    "block",
    [lambda: tinygpt.implementation("numpy"), lambda: tinygpt.implementation("check"), no_dropout],
    ids=["numpy", "check", "no dropout"],
)
def test_a_setting_of_a_block_holds(block):
    pair, source = Pair(dropout=0.1), batches()
    pair.train(source, 4)
    with block():
        pair.train(source, 1)
    pair.train(source, 1)


def test_a_watch_sees_every_operation(replays):
    pair, source, watch = Pair(), batches(), Names()
    pair.train(source, 4)
    before = len(replays)
    with watching(watch):
        pair.compute(*next(source))
    assert watch.names.count("attention") == 4 and len(replays) == before


def test_without_gradients_the_error_is_that_of_backward():
    pair, source = Pair(), batches()
    pair.train(source, 4)
    with tinygpt.no_grad(), pytest.raises(ValueError, match=r"Tensor\.backward: this tensor does not require"):
        pair.capturing(*next(source))
    pair.train(source, 1)


@pytest.mark.parametrize(
    ("tokens", "targets"),
    [
        (np.full((3, 16), VOCABULARY), np.zeros((3, 16), int)),
        (np.full((3, 16), -1), np.zeros((3, 16), int)),
        (np.zeros((3, 16), int), np.full((3, 16), VOCABULARY)),
        (np.zeros((3, 16), int), np.full((3, 16), IGNORED)),
        (np.zeros((3, 16), int), np.zeros((3, 15), int)),
        (np.zeros((3, 16)), np.zeros((3, 16), int)),
        (np.zeros((3, 17), int), np.zeros((3, 17), int)),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (np.zeros((0, 16), int), np.zeros((0, 16), int)),
    ],
)
def test_wrong_ids_raise_the_same_error_and_change_nothing(tokens, targets):
    pair, source = Pair(dropout=0.1), batches()
    pair.train(source, 4)
    errors = []
    for compute in (pair.capturing, pair.models[1].loss):
        with pytest.raises((TypeError, ValueError)) as caught:
            compute(tokens, targets)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]
    pair.train(source, 2)


def test_ids_may_be_lists_and_tensors_and_of_any_integer_type(replays):
    pair, source = Pair(), batches()
    for form in (np.ndarray.tolist, Tensor, lambda ids: ids.astype(np.int16), lambda ids: ids.T.copy().T, np.array):
        tokens, targets = next(source)
        pair.compute(form(tokens), form(targets))
        pair.update()
    assert len(replays) == 3


def test_gradients_that_were_read_or_clipped_add_up(replays):
    pair, source = Pair(), batches()
    for number in range(12):
        pair.compute(*next(source))
        if number % 3 == 1:
            assert len({clip_grad_norm(model.parameters(), 0.1) for model in pair.models}) == 1
        if number % 5 == 4:
            assert all(model.wte.weight.grad is not None for model in pair.models)
    assert replays


def test_a_loss_that_waits_for_its_backward_keeps_its_gradients():
    pair, source = Pair(), batches()
    pair.train(source, 4)
    tokens, targets = next(source)
    waiting = [model.loss(tokens, targets) for model in pair.models]
    pair.compute(*next(source))
    for loss in waiting:
        loss.backward()
    pair.compare()
    pair.update()
    pair.train(source, 2)


def test_a_result_that_depends_on_a_number_in_python_is_found_and_not_replayed(monkeypatch, replays):
    """The count of targets, forgotten in a Python number: verification sees another loss."""

    def count_targets(targets, ignore_index):
        counted, share = memory.copied(targets), memory.empty(1, np.float32)
        np.copyto(counted, np.where(targets == ignore_index, -1, targets))
        share[0] = 1 / (targets != ignore_index).sum()
        return counted, share

    monkeypatch.setattr(linear_cross_entropy, "count_targets", count_targets)
    Pair().train(batches(ignored=0.4), 6)
    assert len(replays) == 1


def test_an_array_made_by_numpy_alone_ends_the_capture(monkeypatch, replays):
    softmax = linear_cross_entropy._softmax
    monkeypatch.setattr(
        linear_cross_entropy,
        "_softmax",
        lambda logits, V, targets, *others: softmax(logits, V, targets.copy(), *others),
    )
    Pair().train(batches(), 5)
    assert not replays


def test_ctrl_c_in_a_replay_leaves_a_step_that_can_be_done_again(replays):
    pair, source = Pair(dropout=0.1), batches()
    pair.train(source, 4)
    calls = replays[-1]._calls

    def interrupt(*arguments):
        raise KeyboardInterrupt

    for place in (0, len(calls) // 2, len(calls) - 1):
        kept, state = calls[place], pair.models[0].generator.bit_generator.state
        calls[place] = interrupt, ()
        with pytest.raises(KeyboardInterrupt):
            pair.capturing(*next(batches()))
        calls[place] = kept
        assert all(parameter.node.grad is None for parameter in pair.models[0].parameters())
        pair.models[0].generator.bit_generator.state = state
        pair.train(source, 1)


def test_a_replay_takes_memory_once_and_no_more_than_arrays_that_live_at_one_time(replays, monkeypatch):
    pair, source, sizes = Pair(n_layer=6, n_embd=64), batches(), []
    pair.train(source, 4)
    empty = memory.pool.empty
    monkeypatch.setattr(memory.pool, "empty", lambda *given: sizes.append(empty(*given)) or sizes[-1])
    as_always(pair.models[1], *next(source))
    of_all = sum(array.nbytes for array in sizes)
    assert replays[-1].nbytes < max(of_all / 2, 2**21)
    sizes.clear()
    pair.capturing(*next(source))
    assert sum(array.nbytes for array in sizes) < 2**14  # the ids that are checked


def test_a_step_that_needs_too_much_memory_is_done_as_always(monkeypatch, replays):
    monkeypatch.setattr("tinygpt.gpt2.captured_step._LIMIT", 2**16)
    Pair().train(batches(), 5)
    assert not replays


def test_too_little_memory_ends_the_capture_not_the_step(monkeypatch, replays):
    def no_memory(*arguments):
        raise MemoryError

    monkeypatch.setattr(memory.PrivatePool, "empty", no_memory)
    Pair().train(batches(), 5)
    assert not replays


def test_two_models_take_turns(replays):
    pairs, source = [Pair(dropout=0.1), Pair(dropout=0.1, seed=8)], batches()
    for _ in range(6):
        for pair in pairs:
            pair.train(source, 1)
    assert len(replays) == 8


def test_two_threads_train_a_model_each(replays):
    failures = []

    def work(seed):
        try:
            Pair(dropout=0.1, seed=seed).train(batches(), 8)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and len(replays) == 3 * 6


def test_one_step_may_be_used_by_several_threads_in_turn(replays):
    pair, source = Pair(), batches()
    pair.train(source, 4)
    thread = threading.Thread(target=pair.train, args=(source, 2))
    thread.start()
    thread.join()
    pair.train(source, 1)
    assert len(replays) == 5


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore")
def test_a_forked_child_computes_as_always_and_leaves_the_parent_alone():
    pair, source = Pair(), batches()
    pair.train(source, 4)
    tokens, targets = next(source)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            loss = pair.capturing(tokens, targets)
            os._exit(0 if abs(loss - as_always(pair.models[1], tokens, targets)) < 1e-5 else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    pair.train(source, 2)


def test_a_copy_of_a_model_has_a_step_of_its_own():
    import copy

    pair, source = Pair(dropout=0.1), batches()
    pair.train(source, 4)
    twin = copy.deepcopy(pair.models[0])
    tokens, targets = next(source)
    losses = [step(tokens, targets) for step in (CapturedStep(twin), pair.capturing)]
    assert losses[0] == losses[1] == as_always(pair.models[1], tokens, targets)


def test_a_run_has_the_same_weights_with_and_without_capture(tmp_path, monkeypatch, replays):
    options = {"steps": 6, "batch_size": 2, "context": 16, "vocab_size": 300, "grad_accumulation": 2, "dropout": 0.1}
    weights = []
    for capture in (True, False):
        monkeypatch.setattr(settings, "CAPTURE", capture)
        run = tmp_path / str(capture)
        chosen = TrainingSettings.from_preset("tiny", **options, eval_every=3)
        train(chosen, run, progress=False, stop_after=4)
        train(chosen, run, progress=False, resume=True)
        weights.append((run / "last" / "model.safetensors").read_bytes())
        assert bool(replays) is capture
        replays.clear()
    assert weights[0] == weights[1]
