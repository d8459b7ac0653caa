"""Sampling: grammar masks, bans, bias, penalties, temperature, min-p, top-k, top-p, Gumbel noise, logprobs.

`sampler.py` is one pipeline of logits, each stage off by flag; `sampling_state.py` is what one sequence's sampling
depends on besides the logits. The noise is a function of (seed, position, token), so a sequence that is preempted,
rewound or migrated samples the same tokens.
"""
