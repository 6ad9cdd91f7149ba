"""What is asked of TensorRT, decided without it."""

import pytest
from m2d_backends.extra_options import parse_extra
from m2d_backends.onnx_graph import INPUT_NAMES
from m2d_backends.tensorrt_plan import (
    DeviceFacts,
    TensorFacts,
    TensorRTOptions,
    Version,
    builder_flags,
    check_tensors,
    device_problem,
    driver_major,
    expected_tensors,
    graph_opset,
    key_versions,
    network_flags,
    profiles,
    version_of,
)

from m2d.errors import BackendError, BackendUnavailable, InputError

TENSORS = expected_tensors([(6, 4, 8, 8), (15, 16), (3,)], (2, 4, 8, 8), "bfloat16")


def test_strong_typing_is_asked_for_where_it_is_not_the_only_way():
    assert network_flags(version_of("10.16.1.11")) == ("STRONGLY_TYPED",)
    assert network_flags(version_of("11.4.0.106")) == ()


@pytest.mark.parametrize("text", ["10.13.3.9", "9.3.0", "8.6.1"])
def test_a_library_without_fused_onnx_attention_is_refused(text):
    with pytest.raises(BackendUnavailable, match=f"TensorRT {text} is too old; install 10.14 or newer"):
        version_of(text)


@pytest.mark.parametrize(
    ("extra", "flags"),
    [
        ({}, ()),
        ({"refit": "identical"}, ("REFIT_IDENTICAL", "STRIP_PLAN")),
        ({"refit": "weights"}, ("REFIT",)),
        ({"weight_streaming": "true"}, ("WEIGHT_STREAMING",)),
        ({"refit": "weights", "weight_streaming": "true"}, ("REFIT", "WEIGHT_STREAMING")),
    ],
)
def test_flags_follow_the_options_and_never_name_a_precision(extra, flags):
    options = parse_extra("tensorrt", TensorRTOptions, extra)
    assert builder_flags(options, Version(11, 4)) == flags


def test_refitting_other_weights_is_refused_where_it_loses_biases():
    with pytest.raises(BackendUnavailable, match=r"may drop biases in TensorRT 11\.3"):
        builder_flags(TensorRTOptions(refit="weights"), Version(11, 3))
    assert builder_flags(TensorRTOptions(refit="identical"), Version(11, 3))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"optimization_level": "6"}, "optimization_level='6'.*less than or equal to 5"),
        ({"refit": "lora"}, "refit='lora'.*'none', 'identical' or 'weights'"),
        ({"plugins": "x.so"}, "plugins='x.so'"),
    ],
)
def test_options_that_do_not_exist_are_refused(extra, message):
    with pytest.raises(InputError, match=message):
        parse_extra("tensorrt", TensorRTOptions, extra)


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "opset"),
    [
        ("bfloat16", 64, (9, 0), 23),
        ("float16", 64, (7, 5), 23),
        ("float32", 64, (9, 0), 18),
        ("bfloat16", 12, (9, 0), 18),
        ("bfloat16", 264, (9, 0), 18),
        ("bfloat16", 8, (9, 0), 18),
    ],
)
def test_attention_is_one_node_only_where_a_fused_kernel_exists(dtype, head_dim, capability, opset):
    assert graph_opset(dtype, head_dim=head_dim, capability=capability) == opset


def test_a_dtype_that_the_device_cannot_compute_in_is_refused():
    with pytest.raises(
        BackendUnavailable, match=r"bfloat16 needs compute capability 8\.0, this device has 7\.5"
    ):
        graph_opset("bfloat16", head_dim=64, capability=(7, 5))


def test_batches_of_one_and_two_are_the_only_profile():
    made = profiles(TENSORS)
    assert list(made) == list(INPUT_NAMES)
    assert made["latents"] == ((1, 6, 4, 8, 8), (2, 6, 4, 8, 8), (2, 6, 4, 8, 8))
    assert made["timesteps"] == ((1, 3), (2, 3), (2, 3))


def key(**changes: object) -> dict[str, str]:
    given = {"tensorrt": "11.4.0.106", "driver_major": "580", "opset": 23, "makers": {"torch": "2.13"}}
    options = changes.pop("options", TensorRTOptions())
    return key_versions(options, **{**given, **changes})  # type: ignore[arg-type]


def test_everything_that_changes_an_engine_changes_its_key():
    changed = [
        key(tensorrt="11.4.1"),
        key(driver_major="590"),
        key(opset=18),
        key(makers={"torch": "2.14"}),
        key(options=TensorRTOptions(optimization_level=5)),
        key(options=TensorRTOptions(refit="identical")),
        key(options=TensorRTOptions(refit="weights")),
        key(options=TensorRTOptions(weight_streaming=True)),
    ]
    assert len({tuple(sorted(each.items())) for each in [key(), *changed]}) == len(changed) + 1
    assert key() == key()


def test_a_device_is_named_with_its_capability():
    facts = DeviceFacts(name="NVIDIA H200", capability=(9, 0), driver_major="580")
    assert facts.label == "cuda sm_90 NVIDIA H200"


def test_the_drivers_major_version_is_read_from_what_it_says_of_itself():
    text = (
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build\nGCC version: 13"
    )
    assert driver_major(text) == "580"
    assert driver_major("") == "unknown"


def test_tensors_in_any_order_are_bound_by_name():
    check_tensors(TENSORS[::-1], TENSORS)
    assert [each.dtype for each in TENSORS] == ["BF16", "BF16", "INT64", "BF16"]


@pytest.mark.parametrize(
    "change",
    [{"name": "latent"}, {"mode": "OUTPUT"}, {"dtype": "FLOAT"}, {"shape": (-1, 6, 4, 8, 9)}],
)
def test_an_engine_with_other_tensors_is_refused(change):
    wrong: TensorFacts = TENSORS[0]._replace(**change)
    with pytest.raises(BackendError, match=r"missing \('latents'.*unexpected \("):
        check_tensors((wrong, *TENSORS[1:]), TENSORS)


def test_only_cuda_devices_are_taken():
    assert device_problem("cuda:1") is None
    reason = device_problem("cpu")
    assert reason is not None
    assert "CUDA devices only, not on 'cpu'" in reason
