"""What every backend that trains must do besides: hand every parameter the gradient that the model gives."""

import torch

from m2d.families.loading import load_transformer
from tests.contract.stories import LAYOUTS, THREE_SCENES, inputs_for

# Gradients are sums over all tokens of what the velocity is for one: measured 1.3e-7 for compiled code.
RELATIVE_ERROR = 1e-5


def gradients(module, model, layout):
    inputs = inputs_for(layout, batch=2)
    module(*inputs, layout=layout).square().mean().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def test_gradients_reach_the_models_own_parameters_and_equal_its_own(trainable, source):
    layout = LAYOUTS[THREE_SCENES]
    plain, wrapped = (load_transformer(source, device="cpu", dtype=torch.float32) for _ in range(2))
    expected = gradients(plain, plain, layout)
    actual = gradients(trainable.wrap(wrapped), wrapped, layout)
    largest = max(gradient.abs().max() for gradient in expected.values() if gradient is not None)
    for name, gradient in expected.items():
        if gradient is None:
            assert actual[name] is None, name
        else:
            assert (actual[name] - gradient).abs().max() <= RELATIVE_ERROR * largest, name
