"""moecheck: is the fast Mixture-of-Experts kernel still right?

    import moecheck
    moecheck.check("gating", my_gate, policy="sglang_fused")          # AssertionError with the verdict where it is wrong
    moecheck.reference.gating(router_logits=x, e_score_correction_bias=b, topk=8, policy="sglang_fused")

Everything is computed by libmoecheck (harness/plugin/moecheck_c.h). Functions under check run in this process: one that
crashes ends it; a plug-in run by the command line is contained (harness/plugin/README.md).
"""
from . import reference
from ._check import Result, Unsupported, check, judge
from ._library import MoecheckError, cases, describe, library_version, operators
from ._tensors import generate

__all__ = ["check", "judge", "generate", "reference", "cases", "describe", "operators", "library_version", "Result",
           "Unsupported", "MoecheckError"]
