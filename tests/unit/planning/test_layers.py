# SPDX-License-Identifier: Apache-2.0
"""What becomes of each layer's activations: the cheapest mix that fits, and the same gradient to the bit."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.pairs import some_pairs, tiny_pairs
from tests.runs import tree

from luthier.core.errors import RecipeError
from luthier.core.types import Segment, Tree
from luthier.engine.flops import Rates
from luthier.kernels.forest import plant
from luthier.methods import lora
from luthier.models import load_model, outputs, scored_logprobs
from luthier.models.recomputing import one_by_one, recompute_layers, repeated_layers
from luthier.planning.activations import Kept
from luthier.planning.counts import Counts, count
from luthier.planning.layers import HOST_LINK, Layers, again_flops, choose, copying_seconds, host_bytes
from luthier.planning.machines import named
from luthier.planning.need import need_of
from luthier.planning.speed import counted_speed
from luthier.planning.work import Work
from luthier.recipe import Model, Optim, load_recipe

COUNTS = Counts(
    parameters=8_000_000_000,
    weights=16_000_000_000,
    trained={4: (10_000_000,)},
    added=40_000_000,
    itemsize=2,
    layers=32,
    hidden=4096,
    vocabulary=128_256,
    kept=Kept(32 * 111_000, 0),
    rates=Rates(per_token=32e9, per_scored=0, per_pair=0),
)
TOKENS = {"tokens": 16_384, "scored": 1000, "mean": 16_384, "micro_batches": 1, "steps": 10}
WORK = Work(**TOKENS, all_tokens=163_840, all_scored=10_000, all_pairs=0, passes=10)


def growth(layers):
    told = {"recomputed": layers.recomputed, "offloaded": layers.offloaded}
    return need_of(COUNTS, WORK, Optim(), "cuda", **told).growth


def automatic(room, device="cuda"):
    return choose("auto", COUNTS, device, lambda layers: growth(layers) <= room)


def test_auto_takes_the_cheapest_mix_that_fits():
    """Fewer bytes never cost less: first as few layers as fit run again, and inputs leave only when all do."""
    order = [Layers(of=32, recomputed=number) for number in range(33)]
    order += [Layers(of=32, recomputed=32 - number, offloaded=number) for number in range(1, 33)]
    assert [replace(automatic(growth(mix)), why="") for mix in order] == order
    assert [speed(mix) for mix in order] == sorted(speed(mix) for mix in order)
    assert automatic(growth(order[0])).why == "auto: it fits as it is"
    assert automatic(growth(order[3])).why == "auto: as few as fit"
    assert automatic(growth(order[-1]) - 1) == replace(order[-1], why="auto: not even this fits")


def speed(mix):
    return counted_speed(COUNTS, WORK, need_of(COUNTS, WORK, Optim(), "cuda"), named("H100"), "bfloat16", mix).seconds


def test_a_cpu_has_no_other_memory():
    assert automatic(1, "cpu") == Layers(of=32, recomputed=32, why="auto: not even this fits")
    with pytest.raises(RecipeError, match=r"train.gradient_checkpointing: offload, and the run is on a CPU.*wri"):
        choose("offload", COUNTS, "cpu", None)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (False, Layers(of=32, why="the recipe says false")),
        (True, Layers(of=32, recomputed=32, why="the recipe says true")),
        (0.3, Layers(of=32, recomputed=10, why="the recipe says 0.3")),
        ((3, 31), Layers(of=32, recomputed=2, places=(3, 31), why="the recipe says [3, 31]")),
        ("offload", Layers(of=32, offloaded=32, why="the recipe says offload")),
    ],
)
def test_what_a_recipe_says_is_done(wanted, found):
    assert choose(wanted, COUNTS, "cuda", lambda layers: True) == found
    json.dumps(found.to_json())
    if wanted is not False:
        with pytest.raises(RecipeError, match="cannot recompute its layers; auto or false"):
            choose(wanted, replace(COUNTS, recomputes=False), "cuda", None)
    if wanted not in (False, True):
        with pytest.raises(RecipeError, match="all of its layers or none; auto, true or false"):
            choose(wanted, COUNTS, "cuda", None, singly=False)


def test_what_cannot_be_known_or_done():
    assert choose("auto", COUNTS, "cpu", None).why == "the system does not tell how much memory is free"
    assert choose("auto", replace(COUNTS, recomputes=False), "cpu", None).why == "the model cannot recompute its layers"
    assert choose("auto", COUNTS, "cuda", lambda layers: False, singly=False).recomputed == 32
    with pytest.raises(RecipeError, match="layer 32; 0 to 31: it has 32 layers; count layers from 0"):
        choose((0, 32), COUNTS, "cpu", None)


def test_bytes_operations_and_seconds():
    mix = Layers(of=32, recomputed=12, offloaded=4)
    one = 16_384 * 4096 * 2  # 128 MiB: a power of two, which is what torch pins
    assert host_bytes(mix, COUNTS, WORK) == 4 * one
    assert host_bytes(mix, COUNTS, replace(WORK, tokens=16_385)) == 8 * one
    kept = need_of(COUNTS, WORK, Optim(), "cuda").activations
    assert kept - need_of(COUNTS, WORK, Optim(), "cuda", recomputed=12, offloaded=4).activations == (
        16 * (111_000 * 16_384) - 12 * one
    )
    assert again_flops(mix, COUNTS, WORK) == 2 * 8e9 * 163_840 / 2
    assert copying_seconds(mix, COUNTS, WORK) == 2 * 4 * 10 * one / HOST_LINK
    assert str(mix) == "16 of 32 layers run again, inputs of 4 in the host's memory"
    assert str(Layers(of=2, offloaded=2)) == "all layers run again, inputs of all in the host's memory"


@pytest.mark.parametrize(
    ("said", "kept"),
    [("0.5", 0.5), ("[3,1,1]", (1, 3)), ("offload", "offload"), ("true", True), ("auto", "auto")],
)
def test_forms_of_a_recipe(said, kept, tmp_path):
    given = tree("embedded", "embedded:train", tmp_path)
    assert load_recipe(given, [f"train.gradient_checkpointing={said}"]).recipe.train.gradient_checkpointing == kept


@pytest.mark.parametrize("wrong", ["1.0", "0", "2", "[]", "[-1]", "[0.5]", "sometimes"])
def test_other_forms_are_refused(wrong, tmp_path):
    given = tree("embedded", "embedded:train", tmp_path)
    with pytest.raises(RecipeError, match=r"train.gradient_checkpointing: received .*a list of them, from 0"):
        load_recipe(given, [f"train.gradient_checkpointing={wrong}"])


def test_the_same_gradient_to_the_bit(tiny_llama, monkeypatch):
    """Kept, recomputed and offloaded layers, with dropout; what is offloaded is the layer's input, and a copy."""
    method = lora.Config(r=4, lora_dropout=0.2)
    trainable = lora.apply(load_model(Model(model_name_or_path=str(tiny_llama)), torch.float32), method)
    forest = plant([Tree(segments=(Segment(ids=np.arange(20, dtype=np.int32), scored=np.arange(20) > 3),))])
    model, wanted, copied = trainable.model.train(), list(trainable.parameters().values()), []
    layers, real = repeated_layers(model), torch.autograd.graph.save_on_cpu

    def watched(**words):
        hooks = real(**words)
        pack = hooks.pack_hook

        def told(tensor):
            packed = pack(tensor)
            if tensor.numel():  # torch 2.11 keeps an empty one beside them
                copied.append((tuple(tensor.shape), packed[1].data_ptr() != tensor.data_ptr()))
            return packed

        hooks.pack_hook = told
        return hooks

    def gradients():
        torch.manual_seed(3)
        return torch.autograd.grad(scored_logprobs(model, forest).sum(), wanted)

    monkeypatch.setattr(torch.autograd.graph, "save_on_cpu", watched)
    plain = gradients()
    for again, offloaded in ((layers[:1], []), (layers[1:], []), (layers, layers[:1]), (layers, layers)):
        copied.clear()
        recompute_layers(model, layers=again, offloaded=offloaded)
        assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))
        assert copied == [((1, 20, model.config.hidden_size), True)] * len(offloaded)
    recompute_layers(model, on=False)
    copied.clear()
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))
    assert not copied


@pytest.mark.parametrize("family", ["T5, uneven stacks", "BART"])
def test_an_encoders_layers_stand_before_its_decoders(family):
    model = tiny_pairs(family).train()
    trainable = lora.apply(model, lora.Config(r=4))
    layers, forest = repeated_layers(model), plant(some_pairs(4))
    inside = {id(module) for module in model.get_encoder().modules()}
    in_encoder = [id(layer) in inside for layer in layers]
    assert in_encoder == sorted(in_encoder, reverse=True)
    assert one_by_one(layers)
    assert count(trainable).layers == len(layers)
    wanted = list(trainable.parameters().values())

    def gradients():
        return torch.autograd.grad(outputs(model, forest).sum(), wanted, allow_unused=True)

    plain = gradients()
    recompute_layers(model, layers=[layers[0], layers[-1]], offloaded=layers[:1])
    assert [layer.gradient_checkpointing for layer in layers] == [True, *[False] * (len(layers) - 2), True]
    for one, other in zip(plain, gradients(), strict=True):
        assert one is other is None or torch.allclose(one, other, atol=1e-5)
