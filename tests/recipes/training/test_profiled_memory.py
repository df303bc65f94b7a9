"""The peak of a computation on a CPU: what lives at a time, not what is made in all."""

import torch

from longlive_recipes.training.profiled_memory import ProfiledPeak

MIB = 1 << 20


def test_the_peak_is_of_what_lives_at_a_time():
    before, peak = torch.zeros(8 * MIB, dtype=torch.uint8), ProfiledPeak()
    peak.start()
    for _ in range(3):
        made = torch.zeros(2 * MIB, dtype=torch.uint8)
        both = (made, torch.ones(MIB, dtype=torch.uint8))
        del made, both
    assert 3 * MIB <= peak.stop() < 3 * MIB + 4096
    assert len(before) == 8 * MIB
