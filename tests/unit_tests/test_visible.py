"""The rules of `CUDA_VISIBLE_DEVICES` and its relatives."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from langchain_gpu.hardware.gpu import GPU, visible, visible_amd, visible_nvidia

A = GPU(name="a", uuid="GPU-aaaa1111-0000")
B = GPU(name="b", uuid="GPU-aaaa2222-0000")
C = GPU(name="c", uuid="GPU-cccc3333-0000")
CARDS = (A, B, C)
MIG_1 = GPU(name="mig 1g", uuid="MIG-1111-x")
MIG_2 = GPU(name="mig 2g", uuid="MIG-2222-x")
CUT = GPU(name="cut", uuid="GPU-dddd4444-0000", instances=(MIG_1, MIG_2))


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, (A, B, C)),
        ("", ()),
        (" ", ()),
        ("-1", ()),
        ("NoDevFiles", ()),
        ("0", (A,)),
        ("2,0", (C, A)),
        (" 1 , 2 ", (B, C)),
        ("0,2,-1,1", (A, C)),
        ("0,9,1", (A,)),
        ("1gpu,2", (B, C)),
        ("+1", (B,)),
        ("0,0", ()),
        ("GPU-cccc", (C,)),
        ("gpu-cccc", ()),
        ("GPU-CCCC3333,GPU-aaaa1", (C, A)),
        ("GPU-aaaa", ()),
        ("GPU-cccc,GPU-cccc3", ()),
        ("MIG-1111-x", ()),
    ],
)
def test_cuda_visible_devices_hides_and_orders_cards(
    value: str | None, seen: tuple[GPU, ...]
) -> None:
    assert visible(CARDS, value) == seen


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        (None, (A, MIG_1)),
        ("1", (MIG_1,)),
        ("MIG-2222", (MIG_2,)),
        ("MIG-2222-x,0", (MIG_2, A)),
        ("GPU-dddd", (MIG_1,)),
        ("MIG-gone", ()),
    ],
)
def test_a_card_cut_into_instances(value: str | None, seen: tuple[GPU, ...]) -> None:
    assert visible((A, CUT), value) == seen


def test_two_cards_that_look_alike_are_two() -> None:
    twin = GPU(name="twin")
    assert visible((twin, twin), "1,0") == (twin, twin)


@settings(deadline=None)
@given(value=st.none() | st.text(st.sampled_from("0129-,GPMIa x"), max_size=30))
def test_no_value_shows_a_card_twice_or_one_that_is_not_here(value: str | None) -> None:
    seen = visible(CARDS, value)
    assert set(seen) <= set(CARDS)
    assert len(set(seen)) == len(seen)


@settings(deadline=None)
@given(order=st.permutations(range(3)))
def test_indices_give_the_order(order: list[int]) -> None:
    assert visible(CARDS, ",".join(map(str, order))) == tuple(CARDS[i] for i in order)


@pytest.mark.parametrize(
    ("environ", "seen"),
    [
        ({}, CARDS),
        ({"ROCR_VISIBLE_DEVICES": "1,2"}, (B, C)),
        ({"HIP_VISIBLE_DEVICES": "1"}, (B,)),
        ({"CUDA_VISIBLE_DEVICES": "2"}, (C,)),
        ({"HIP_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "2"}, (B,)),
        ({"ROCR_VISIBLE_DEVICES": "1,2", "HIP_VISIBLE_DEVICES": "1"}, (C,)),
        ({"ROCR_VISIBLE_DEVICES": ""}, ()),
        ({"HIP_VISIBLE_DEVICES": "", "CUDA_VISIBLE_DEVICES": "0"}, ()),
        ({"ROCR_VISIBLE_DEVICES": "GPU-cccc3333-0000"}, (C,)),
    ],
)
def test_the_variables_of_rocm_hide_and_order_cards(
    environ: dict[str, str], seen: tuple[GPU, ...]
) -> None:
    assert visible_amd(CARDS, environ) == seen


def test_cuda_does_not_read_the_variables_of_rocm() -> None:
    assert visible_nvidia(CARDS, {"HIP_VISIBLE_DEVICES": "", "ROCR_VISIBLE_DEVICES": ""}) == CARDS
