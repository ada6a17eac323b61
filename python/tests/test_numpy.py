"""The package with NumPy alone."""
import pytest

import moecheck

np = pytest.importorskip("numpy")

LINES = ["gating policy=sglang_fused experts=32 topk=6 tokens=5 seed=3", "gating policy=sglang_fused experts=16 topk=2 tokens=3 data=ties"]


def gate(inputs, case):
    if case["shared_slots"] or case["padded"] or case["remap"] or case["dtype"] != "f32" or case["groups"] > 1:
        raise moecheck.Unsupported("fp32 logits, one group, without shared slots, padding and remap")
    scores = np.float32(1) / (np.float32(1) + np.exp(-inputs["router_logits"]))
    # Stable: the lower of two equal experts first.
    ids = np.argsort(-(scores + inputs["e_score_correction_bias"]), axis=1, kind="stable")[:, : case["topk"]]
    weights = np.take_along_axis(scores, ids, axis=1)
    weights = weights / weights.sum(axis=1, keepdims=True, dtype=np.float32)
    if case["scale_flag"]:
        weights = weights * np.float32(case["rsf"])
    return {"topk_weights": weights, "topk_ids": ids.astype(np.int32)}


def check(function, **options):
    return moecheck.check("gating", function, framework_name="numpy", **options)


def test_a_right_function_passes():
    result = check(gate, cases=LINES + ["gating policy=sglang_fused experts=32 groups=4 topk_group=2 topk=4"])
    assert (result.passed, result.skipped) == (2, 1) and "one group" in " ".join(result.reasons)


def test_a_wrong_factor_fails_with_its_cause_and_the_smallest_case():
    def twice(inputs, case):
        out = gate(inputs, case)
        return {**out, "topk_weights": out["topk_weights"] * np.float32(2.5)}
    with pytest.raises(AssertionError) as failure:
        check(twice, cases=LINES)
    assert "routed_scaling_factor is applied to the weights" in str(failure.value) and "tokens=1" in str(failure.value)


def test_a_changed_input_fails():
    def careless(inputs, case):
        out = gate(inputs, case)
        inputs["router_logits"] += 1
        return out
    with pytest.raises(AssertionError, match="changed its input router_logits"):
        check(careless, cases=LINES, shrink=False)


def test_the_reference_agrees():
    x = np.random.default_rng(1).standard_normal((7, 32), dtype=np.float32)
    b = np.linspace(-0.5, 0.5, 32, dtype=np.float32)
    ours = moecheck.reference.gating(router_logits=x, e_score_correction_bias=b, topk=4, policy="sglang_fused")
    theirs = gate({"router_logits": x, "e_score_correction_bias": b},
                  dict(groups=1, shared_slots=0, padded=0, remap=0, dtype="f32", topk=4, scale_flag=0))
    assert np.array_equal(ours["topk_ids"], theirs["topk_ids"])
    case = "gating policy=sglang_fused tokens=7 experts=32 topk=4"
    given = dict(router_logits=x, e_score_correction_bias=b)
    assert not moecheck.judge(case, given, theirs)["failed"]
    theirs["topk_weights"] = theirs["topk_weights"] * np.float32(1.5)
    assert moecheck.judge(case, given, theirs)["verdict"] == "FAIL"
