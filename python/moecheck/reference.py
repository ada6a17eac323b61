"""The scalar references as functions: moecheck.reference.gating(router_logits=..., topk=8, policy="sglang_fused").

One function per operator. Keyword arguments that are tensors are its inputs, all others fields of the case; sizes and dtypes
that the tensors show need not be said. The result is a dict of the outputs, tensors of the inputs' library.
"""
from . import _library as lib
from ._tensors import accepted, framework, named, structs

# field: (input, dimension) that shows it
_SIZES = {
    "gating": {"tokens": ("router_logits", 0), "experts": ("router_logits", 1)},
    "routed_scaling": {"tokens": ("routed_output", 0), "hidden": ("routed_output", 2)},
    "experts": {"tokens": ("hidden_states", 0), "hidden": ("hidden_states", 1), "topk": ("topk_ids", 1)},
    "moe_block": {"tokens": ("hidden_states", 0), "hidden": ("hidden_states", 1), "experts": ("router_logits", 1)},
    "shared_experts": {"tokens": ("topk_ids", 0), "topk": ("topk_ids", 1)},
}
# field: input whose dtype it is; "none" when the input is absent
_DTYPES = {
    "gating": {"dtype": "router_logits", "bias": "e_score_correction_bias"},
    "routed_scaling": {"dtype": "routed_output", "ids": "topk_ids"},
    "experts": {"dtype": "hidden_states", "ids": "topk_ids"},
    "moe_block": {"dtype": "hidden_states"},
}


def _is_tensor(value):
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _line(operator, fields):
    words = [operator]
    for key, value in fields.items():
        words.append(f"{key}={int(value) if isinstance(value, bool) else value}")
    return " ".join(words)


def _case(operator, fw, tensors, fields):
    shown = {}
    for field, (name, dimension) in _SIZES.get(operator, {}).items():
        if name in tensors:
            shown[field] = tensors[name].shape[dimension]
    for field, name in _DTYPES.get(operator, {}).items():
        if name in tensors:
            shown[field] = fw.dtype_name(fw.taken(tensors[name]))
        elif field == "bias":
            shown[field] = "none"
    return _line(operator, {**shown, **fields})


def _function(operator):
    def reference(case=None, **arguments):
        tensors = {k: v for k, v in arguments.items() if _is_tensor(v)}
        fields = {k: v for k, v in arguments.items() if k not in tensors and v is not None}
        if not tensors:
            raise lib.MoecheckError(f"reference.{operator} needs its inputs as keyword arguments, such as "
                                    f"{lib.describe(operator)['inputs'][0]['name']}=x")
        fw = framework(None, tensors.values())
        if case is None:
            case = _case(operator, fw, tensors, fields)
        elif fields:
            raise lib.MoecheckError(f"the case line says all fields: {', '.join(fields)} cannot be given beside it")
        d = accepted(case)
        inputs = named(fw, d["inputs"], tensors, "input")
        outputs = [fw.empty(s["shape"], s["dtype"]) for s in d["outputs"]]
        if lib.library().moecheck_reference(lib.text(case), *structs(fw, d["inputs"], inputs),
                                            *structs(fw, d["outputs"], outputs)):
            lib.fail()
        return {s["name"]: t for s, t in zip(d["outputs"], outputs)}

    reference.__name__ = operator
    reference.__doc__ = f"The reference of {operator}: a dict of its outputs. `case`: a case line instead of fields."
    return reference


def __getattr__(name):
    if not name.startswith("_") and name in lib.operators():
        return _function(name)
    raise AttributeError(f"there is no operator {name!r}: moecheck.operators() lists all")
