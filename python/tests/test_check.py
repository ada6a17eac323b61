"""The package against the library: a right function passes, a wrong one fails with the words of the cause."""
import pytest

import moecheck

torch = pytest.importorskip("torch")


def gate(inputs, case):
    if case["shared_slots"] or case["padded"] or case["remap"] or case["dtype"] != "f32":
        raise moecheck.Unsupported("fp32 logits, without shared slots, padding and remap")
    scores = torch.sigmoid(inputs["router_logits"])
    choice = scores + inputs["e_score_correction_bias"]
    if case["groups"] > 1:
        grouped = choice.unflatten(1, (case["groups"], -1))
        order = torch.sort(grouped.topk(2, dim=-1).values.sum(-1), dim=-1, descending=True, stable=True).indices
        closed = torch.ones_like(grouped[:, :, 0], dtype=torch.bool).scatter(1, order[:, : case["topk_group"]], False)
        choice = grouped.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(1)
    # Stable: the lower of two equal experts first.
    ids = torch.sort(choice, dim=-1, descending=True, stable=True).indices[:, : case["topk"]]
    weights = scores.gather(1, ids)
    weights = weights / weights.sum(-1, keepdim=True)
    if case["scale_flag"]:
        weights = weights * case["rsf"]
    return {"topk_weights": weights, "topk_ids": ids.to(torch.int32)}


LINES = ["gating policy=sglang_fused experts=32 topk=6 tokens=5 seed=3",
         "gating policy=sglang_fused experts=16 topk=2 tokens=3 scale_flag=1 data=ties"]


def altered(change):
    def wrong(inputs, case):
        return change(gate(inputs, case), inputs)
    return wrong


def test_a_right_function_passes_the_suite():
    result = moecheck.check("gating", gate, policy="sglang_fused")
    assert result.passed > 2 and len(result.records) == result.passed
    assert sum(result.reasons.values()) == result.skipped > 0


def test_relations_can_be_asked():
    moecheck.check("gating", gate, cases=["gating policy=sglang_fused experts=32 topk=2 tokens=4"], relations=True)


def test_a_wrong_factor_fails_with_its_cause_and_the_smallest_case():
    wrong = altered(lambda out, _: {**out, "topk_weights": out["topk_weights"] * 2.5})
    with pytest.raises(AssertionError) as failure:
        moecheck.check("gating", wrong, cases=LINES)
    text = str(failure.value)
    assert text.lstrip().startswith("FAIL  wrong  gating policy=sglang_fused")
    assert "routed_scaling_factor is applied to the weights" in text and "tokens=1" in text
    assert "moecheck.check('gating', wrong, cases=['gating " in text
    # The line it gives repeats it.
    line = text[text.index("cases=['") + 8: text.rindex("']")]
    with pytest.raises(AssertionError):
        moecheck.check("gating", wrong, cases=[line])


def test_wrong_ids_fail():
    wrong = altered(lambda out, _: {**out, "topk_ids": out["topk_ids"].flip(1)})
    with pytest.raises(AssertionError, match="topk_"):
        moecheck.check("gating", wrong, cases=LINES, shrink=False)


@pytest.mark.parametrize("change, words", [
    (lambda out, _: {**out, "topk_ids": out["topk_ids"].long()}, "output topk_ids is i64, and must be i32"),
    (lambda out, _: {**out, "topk_ids": out["topk_ids"][:, :1]}, r"has shape \[5, 1\], and must have \[5, 6\]"),
    (lambda out, _: {"topk_ids": out["topk_ids"]}, "output topk_weights is missing"),
    (lambda out, _: {**out, "extra": out["topk_ids"]}, "no output 'extra'"),
    (lambda out, _: None, "must be a dict"),
    (lambda out, _: {**out, "topk_ids": [1]}, "a list is no tensor"),
    (lambda out, inputs: (inputs["router_logits"].add_(1), out)[1], "changed its input router_logits"),
])
def test_what_is_no_answer_fails(change, words):
    with pytest.raises(AssertionError, match=words):
        moecheck.check("gating", altered(change), cases=LINES, shrink=False)


def test_an_exception_is_the_reason_and_the_cause():
    def broken(inputs, case):
        raise RuntimeError("no kernel image")
    with pytest.raises(AssertionError, match="RuntimeError: no kernel image") as failure:
        moecheck.check("gating", broken, cases=LINES)
    assert isinstance(failure.value.__cause__, RuntimeError)


def test_an_unsteady_function_breaks_a_clause():
    calls = []

    def unsteady(inputs, case):
        out = gate(inputs, case)
        calls.append(1)
        w = out["topk_weights"]
        return {**out, "topk_weights": torch.nextafter(w, torch.full_like(w, 2.0)) if len(calls) % 2 else w}
    with pytest.raises(AssertionError, match="deterministic"):
        moecheck.check("gating", unsteady, cases=LINES, shrink=False)
    moecheck.check("gating", unsteady, cases=LINES, clauses=False)


def test_nothing_checked_is_no_success():
    def never(inputs, case):
        raise moecheck.Unsupported("not today")
    with pytest.raises(AssertionError, match="all 2 cases were skipped.*not today"):
        moecheck.check("gating", never, cases=LINES)


def test_names_are_checked():
    with pytest.raises(moecheck.MoecheckError, match="did you mean gating"):
        moecheck.check("gatting", gate)
    with pytest.raises(moecheck.MoecheckError, match="did you mean sglang_fused"):
        moecheck.check("gating", gate, policy="sglang_fuse")
    with pytest.raises(moecheck.MoecheckError, match="is refused"):
        moecheck.check("gating", gate, cases=["gating policy=sglang_fused experts=160"])
    with pytest.raises(AttributeError, match="no operator"):
        moecheck.reference.gatting


def test_the_reference_gives_what_a_right_function_gives():
    x = torch.randn(7, 32, generator=torch.Generator().manual_seed(1))
    b = torch.linspace(-0.5, 0.5, 32)
    ours = moecheck.reference.gating(router_logits=x, e_score_correction_bias=b, topk=4, policy="sglang_fused")
    theirs = gate({"router_logits": x, "e_score_correction_bias": b},
                  dict(groups=1, shared_slots=0, padded=0, remap=0, dtype="f32", topk=4, scale_flag=0))
    assert torch.equal(ours["topk_ids"], theirs["topk_ids"])
    torch.testing.assert_close(ours["topk_weights"], theirs["topk_weights"], rtol=1e-6, atol=0)
    case = "gating policy=sglang_fused tokens=7 experts=32 topk=4"
    assert not moecheck.judge(case, dict(router_logits=x, e_score_correction_bias=b), theirs)["failed"]
    theirs["topk_weights"] = theirs["topk_weights"] * 1.5
    assert moecheck.judge(case, dict(router_logits=x, e_score_correction_bias=b), theirs)["verdict"] == "FAIL"


def test_bf16_and_numpy():
    case = "routed_scaling tokens=2 topk=2 hidden=8 policy=sglang_cuda"
    inputs = moecheck.generate(case)
    assert inputs["routed_output"].dtype == torch.bfloat16
    out = moecheck.reference.routed_scaling(case, **inputs)["out"]
    assert out.dtype == torch.bfloat16 and out.shape == (2, 8) and bool(out.abs().sum() > 0)
    np = pytest.importorskip("numpy")
    arrays = moecheck.generate(LINES[0], "numpy")
    got = moecheck.reference.gating(LINES[0], **arrays)
    assert isinstance(got["topk_ids"], np.ndarray) and got["topk_ids"].shape == (5, 6)
    torch_got = moecheck.reference.gating(LINES[0], **moecheck.generate(LINES[0], "torch"))
    assert np.array_equal(got["topk_weights"], torch_got["topk_weights"].numpy())

    def with_numpy(given, fields):
        assert isinstance(given["router_logits"], np.ndarray)
        return {k: v.numpy() for k, v in gate({k: torch.from_numpy(v) for k, v in given.items()}, fields).items()}
    assert moecheck.check("gating", with_numpy, cases=LINES, framework_name="numpy").passed == 2
