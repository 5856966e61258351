"""Models that were written for PyTorch: the same weights give the same outputs and gradients here."""

from __future__ import annotations

import numpy as np
import pytest

from tinygpt import Tensor, nn
from tinygpt.nn import GELU

torch = pytest.importorskip("torch")
X = np.random.default_rng(0).standard_normal((5, 3, 4))


def mlp(library, options):
    return library.Sequential(
        library.Flatten(),
        library.Linear(12, 8, **options),
        library.ReLU(),
        library.Linear(8, 8, **options, bias=False),
        library.Tanh(),
        library.LayerNorm(8, **options),
        library.Dropout(0.5),
        library.Linear(8, 8, **options),
        library.GELU(approximate="tanh"),
        library.Linear(8, 8, **options),
        library.Sigmoid(),
        library.Linear(8, 8, **options),
        library.SiLU(),
        library.Identity(),
        library.Linear(8, 7, **options),
    )


def same_weights(ours, theirs):
    """PyTorch's state in ours: the weights of linear layers are transposed."""
    linear = [f"{name}.weight" for name, module in theirs.named_modules() if isinstance(module, torch.nn.Linear)]
    state = {name: tensor.T if name in linear else tensor for name, tensor in theirs.state_dict().items()}
    assert ours.load_state_dict(state) == ([], [])
    return linear


def test_an_mlp_with_every_activation_has_pytorchs_outputs_and_gradients():
    ours, theirs = mlp(nn, {"dtype": np.float64}).eval(), mlp(torch.nn, {"dtype": torch.float64}).eval()
    linear = same_weights(ours, theirs)
    x, theirs_x = Tensor(X, requires_grad=True), torch.tensor(X, requires_grad=True)
    targets = [0, 6, 3, -100, 2]
    loss = nn.CrossEntropyLoss()(ours(x), targets)
    theirs_loss = torch.nn.CrossEntropyLoss()(theirs(theirs_x), torch.tensor(targets))
    assert loss.item() == pytest.approx(theirs_loss.item(), rel=1e-12)
    loss.backward()
    theirs_loss.backward()
    np.testing.assert_allclose(x.grad, theirs_x.grad.numpy(), rtol=1e-9, atol=1e-15)
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        gradient = expected.pop(name).grad
        np.testing.assert_allclose(parameter.grad, gradient.T if name in linear else gradient, rtol=1e-9, atol=1e-15)
    assert not expected


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_softmax_along_an_axis(name, dim):
    expected = getattr(torch.nn, name)(dim=dim)(torch.tensor(X))
    np.testing.assert_allclose(getattr(nn, name)(dim=dim)(Tensor(X)).data, expected.numpy(), rtol=1e-12)


@pytest.mark.parametrize("dims", [(), (0,), (0, 1), (-2, -1), (1, 1), (0, -1)])
def test_flatten_joins_the_same_axes(dims):
    np.testing.assert_array_equal(nn.Flatten(*dims)(Tensor(X)).data, torch.nn.Flatten(*dims)(torch.tensor(X)).numpy())


def test_embedding_and_losses_train_as_in_pytorch():
    """A user's class, written as for PyTorch, three steps of gradient descent by hand."""

    def build(library, **options):
        class Model(library.Module):
            def __init__(self):
                super().__init__()
                self.table = library.Embedding(6, 4, **options)
                self.head = library.Linear(4, 2, **options)
                self.act = library.ReLU()

            def forward(self, ids):
                return self.head(self.act(self.table(ids)))

        return Model()

    ours, theirs = build(nn, dtype=np.float64), build(torch.nn, dtype=torch.float64)
    same_weights(ours, theirs)
    ids, target = np.array([[1, 5], [1, 0]]), np.random.default_rng(1).random((2, 2, 2))
    for _ in range(3):
        loss = (
            nn.MSELoss()(ours(ids), target) + nn.BCEWithLogitsLoss()(ours(ids), target) + nn.L1Loss()(ours(ids), target)
        )
        out, t = theirs(torch.tensor(ids)), torch.tensor(target)
        theirs_loss = torch.nn.MSELoss()(out, t) + torch.nn.BCEWithLogitsLoss()(out, t) + torch.nn.L1Loss()(out, t)
        assert loss.item() == pytest.approx(theirs_loss.item(), rel=1e-12)
        ours.zero_grad(set_to_none=True), theirs.zero_grad(set_to_none=True)
        loss.backward(), theirs_loss.backward()
        for model in (ours, theirs):
            for parameter in model.parameters():
                parameter.data -= 0.1 * parameter.grad


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GELU(), r"GELU: approximate must be 'tanh', got 'none': .* write GELU\(approximate='tanh'\)"),
        (lambda: GELU("erf"), r"got 'erf'"),
        (lambda: nn.ReLU(inplace=True), r"ReLU: inplace must be False, .* write ReLU\(\)"),
        (lambda: nn.SiLU(True), r"SiLU: inplace must be False"),
        (lambda: nn.Flatten()(Tensor([1.0])), r"flatten: axis must be from -1 to 0 for a tensor of 1 axes, got 1"),
        (lambda: nn.Flatten(2, 1)(Tensor(X)), r"flatten: start_dim must not come after end_dim, got 2 and 1"),
    ],
)
def test_what_differs_from_pytorch_says_what_to_write(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_exact_gelu_is_as_far_away_as_the_error_says():
    x = torch.linspace(-6, 6, 10001, dtype=torch.float64)
    exact = torch.nn.GELU()(x).numpy()
    assert 0.0004 < abs(GELU(approximate="tanh")(Tensor(x.numpy())).data - exact).max() < 0.0005


def test_functional_is_reached_by_pytorchs_path():
    import tinygpt.functional
    import tinygpt.nn.functional as F
    from tinygpt.nn import functional

    assert functional is F is nn.functional
    assert all(getattr(F, name) is getattr(tinygpt.functional, name) for name in tinygpt.functional.__all__)
    with pytest.raises(AttributeError, match="nosuch"):
        F.nosuch  # noqa: B018
