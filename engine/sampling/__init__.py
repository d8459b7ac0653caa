"""From logits to tokens: penalties, bias, grammar masks, temperature, top-k, top-p, min-p, choice, logprobs.

`sampler.py` is one pipeline, each stage off by flag; `sampling_state.py` keeps what one sequence's choice depends on
besides the logits. The noise is a function of (seed, position, token), so a sequence that is preempted, rewound or
moved samples what it would have sampled.
"""
