"""A machine is named so that results of another one are known as such."""

from medfocus.benchmarks.bench.environment import processor_of

LISTING = """processor\t: 0
model name\t: Some Processor
flags\t\t: fpu avx avx2 fma {flags}

processor\t: 1
model name\t: Some Processor
flags\t\t: fpu avx avx2 fma {flags}
"""


def test_two_processors_of_one_name_are_told_apart() -> None:
    assert processor_of(LISTING.format(flags="")) == "Some Processor (avx2)"
    newer = processor_of(LISTING.format(flags="amx_bf16 avx512f avx512_bf16"))
    assert newer == "Some Processor (avx2 avx512f avx512_bf16 amx_bf16)"


def test_a_processor_without_flags_has_its_name_alone() -> None:
    assert processor_of("model name\t: Another\n") == "Another"
