"""What a guided pass adds to the Python calls of the denoiser."""

from apps.benchmark_pass import count_passes


def test_a_guided_pass_adds_at_most_a_tenth_to_the_python_calls_of_its_forward():
    counts = count_passes(side=32)
    assert counts["forward"] > 3000
    assert counts["later pass"] <= counts["first pass of a step"] <= 1.1 * counts["forward"]
