"""The choice of buffer types: never one that is slower than llama.cpp's choice, and the same at every load."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from service.engine.host.buffer_types import AUTO, DEFAULT, Seconds, asked, choose, settle, told, worth_measuring
from service.engine.host.resources import ConfigurationError
from service.engine.host.weights import Kind

Q4_0, Q8_0, F32 = Kind(2, 900), Kind(8, 600), Kind(0, 10)
TYPES = {"q4_0": Q4_0, "q8_0": Q8_0, "f32": F32}


@dataclass
class FakeProducts:
    """A processor defined by its products' times: for each type of weights, by buffer type in ggml's order."""

    times: dict[int, dict[str, Seconds]]
    refused: set[tuple[int, str]] = field(default_factory=set)
    n_timed: int = 0

    def holders(self, kind: Kind) -> list[str]:
        return list(self.times[kind.number])

    def seconds(self, kind: Kind, buffer: str) -> Seconds:
        self.n_timed += 1
        return self.times[kind.number][buffer]

    def refuse(self, kind: Kind, buffer: str, refused: bool) -> None:
        (self.refused.add if refused else self.refused.discard)((kind.number, buffer))


def amx(q4_0: Seconds) -> FakeProducts:
    """A processor with AMX whose repacked rows take these times for Q4_0, where AMX always takes 1.0."""
    one = (1.0, 1.0, 1.0)
    return FakeProducts(
        {2: {"AMX": one, "CPU_REPACK": q4_0, "CPU": (2, 2, 2)}, 8: {"AMX": one, "CPU": one}, 0: {"CPU": one}}
    )


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ([(1.0, 1.0, 1.0)], 0),
        ([(1.0, 1.0, 1.0), (0.5, 1.0, 1.02)], 1),
        ([(1.0, 1.0, 1.0), (0.5, 0.5, 1.1)], 0),  # prompts would be slower
        ([(1.0, 1.0, 1.0), (1.1, 0.5, 0.5)], 0),  # one stream would be slower
        ([(1.0, 1.0, 1.0), (0.95, 0.96, 0.97)], 0),  # not worth a summation order other than llama.cpp's
        ([(1.0, 1.0, 1.0), (0.8, 0.8, 1.0), (0.5, 0.6, 0.9)], 2),
        ([(1e-9, 1e-9, 1e-9), (1e-9, 1e-9, 1e-9)], 0),  # a clock that stands still
    ],
)
def test_the_fastest_that_is_never_slower(times: list[Seconds], chosen: int) -> None:
    """No number of rows takes longer than in the first buffer type, beyond the measurement's error."""
    names = ["AMX", "CPU_REPACK", "CPU"]
    assert choose(dict(zip(names, times, strict=False))) == names[chosen]


def test_buffer_types_before_the_chosen_one_are_refused() -> None:
    """This is by type: Q4_0 leaves AMX where repacked rows are faster, Q8_0 stays; the log has the reason."""
    products, lines = amx((0.6, 0.9, 1.0)), list[str]()
    assert settle(AUTO, TYPES, products, lines.append) == "q4_0=CPU_REPACK,q8_0=AMX"
    assert products.refused == {(2, "AMX")}
    assert lines == ["q4_0 weights are kept in CPU_REPACK: 1, 8, 64 rows take 0.60, 0.90, 1.00 of their time in AMX"]


def test_llama_cpps_own_choice_is_not_logged() -> None:
    """Nothing is refused, and an earlier load's refusals are lifted."""
    products, lines = amx((1.0, 1.0, 1.0)), list[str]()
    products.refused.add((2, "AMX"))
    assert settle(AUTO, TYPES, products, lines.append) == "q4_0=AMX,q8_0=AMX"
    assert not products.refused and not lines


def test_a_choice_is_made_once() -> None:
    """A load that is given an earlier load's choice uses it without measuring, though a measurement would differ."""
    word = settle(AUTO, TYPES, amx((0.6, 0.9, 1.0)), print)
    products = amx((3.0, 3.0, 3.0))
    assert settle(word, TYPES, products, print) == word
    assert products.refused == {(2, "AMX")} and not products.n_timed


def test_a_type_with_one_buffer_type_is_not_timed() -> None:
    """A load does not wait for a measurement that decides nothing."""
    products = FakeProducts({8: {"CPU": (1.0, 1.0, 1.0)}})
    assert settle(AUTO, {"q8_0": Q8_0}, products, print) == DEFAULT
    assert not products.n_timed


def test_types_of_other_models_are_accepted() -> None:
    """One setting may serve several models."""
    assert settle("q4_K=CPU,q4_0=CPU", TYPES, amx((1, 1, 1)), print) == "q4_0=CPU"


@pytest.mark.parametrize("text", ["q4_0=AMX2", "f32=AMX", "nonsense", "q4_0=", ""])
def test_invalid_choices_are_refused(text: str) -> None:
    """The message names the setting."""
    with pytest.raises(ConfigurationError, match="RILL_BUFFER_TYPES: "):
        settle(text, TYPES, amx((1, 1, 1)), print)


def test_a_build_without_the_patch() -> None:
    """It keeps llama.cpp's choice; a choice that it can't make is refused."""
    assert settle(AUTO, TYPES, None, print) == settle(DEFAULT, TYPES, None, print) == DEFAULT
    with pytest.raises(ConfigurationError, match="without Rill's patches"):
        settle("q4_0=CPU", TYPES, None, print)


def test_parsing_and_formatting_are_inverse() -> None:
    """`told` and `asked` are each other's inverse."""
    for choices in ({}, {"q4_0": "CPU_REPACK"}, {"q8_0": "AMX", "q4_K": "CPU"}):
        assert asked(told(choices)) == choices


def test_rare_types_are_not_measured() -> None:
    """Norms and the like are left out; the other types are ordered by their amount."""
    assert worth_measuring({"f32": 1, "q6_K": 200, "q4_K": 799}) == ["q4_K", "q6_K"]
    assert worth_measuring({}) == []
