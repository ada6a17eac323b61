"""Checking a function: on every case of a suite, against the reference, with the contract's clauses."""
import ctypes as c
import dataclasses

from . import _library as lib
from ._tensors import DTYPES, accepted, framework, named, structs


class Unsupported(Exception):
    """Raised by a function under check for a case that it is not made for: the case is skipped, with this reason."""


@dataclasses.dataclass
class Result:
    """What passed and what was skipped. `records` are lines of a records file, for `moecheck report`."""
    passed: int = 0
    skipped: int = 0
    reasons: dict = dataclasses.field(default_factory=dict)  # of skips, with counts
    records: list = dataclasses.field(default_factory=list)


class _Fields(dict):
    """The case that a function gets: fields by name, numbers as numbers; `line` is the case line."""
    line = ""


def _fields(description):
    fields = _Fields()
    for key, value in description["fields"].items():
        fields[key] = value
        for number in (int, float):
            try:
                fields[key] = number(value)
                break
            except ValueError:
                pass
    fields.line = description["case"]
    return fields


class _Runner:
    """The C callback around a function."""

    def __init__(self, function, fw, device):
        self.function, self.fw, self.device = function, fw, device
        self.raised = None
        self.callback = lib.Function(self._called)  # kept: C calls it

    def _called(self, _user, call):
        try:
            self._run(call.contents)
            return 0
        except BaseException as e:  # nothing may pass through C
            if self.raised is None:
                self.raised = e
            message = f"{type(e).__name__}: {e}".encode(errors="replace")[: call.contents.error_size - 1]
            c.memmove(call.contents.error, message + b"\0", len(message) + 1)
            return 1

    def _run(self, call):
        description = accepted(call.case.contents.line.decode())
        inputs, untouched = {}, {}
        for i, spec in enumerate(description["inputs"]):
            inputs[spec["name"]] = self.fw.moved(self._copy(call.inputs[i], spec), self.device)
            untouched[spec["name"]] = (call.inputs[i], spec)
        outputs = self.function(dict(inputs), _fields(description))
        for name, (tensor, spec) in untouched.items():
            if not self.fw.same_bytes(self.fw.taken(inputs[name]), self._copy(tensor, spec)):
                raise lib.MoecheckError(f"the function changed its input {name}: work on a copy")
        tensors = named(self.fw, description["outputs"], outputs, "output")
        for i, tensor in enumerate(tensors):
            size = _bytes(description["outputs"][i])
            if size:
                c.memmove(call.outputs[i].contents.tensor.data, self.fw.address(tensor), size)

    def _copy(self, tensor, spec):
        empty = 0 in spec["shape"]
        if empty:
            return self.fw.empty(spec["shape"], spec["dtype"])
        return self.fw.copy_of(tensor.contents.tensor.data, spec["shape"], spec["dtype"], _bytes(spec))


def _bytes(spec):
    n = DTYPES[spec["dtype"]][1] // 8
    for d in spec["shape"]:
        n *= d
    return n


def check(operator, function, *, policy=None, suite="quick", cases=None, device=None, framework_name=None, name=None,
          clauses=True, relations=False, shrink=True):
    """Checks `function` on every case of a suite, or on the case lines in `cases`.

    function(inputs, case) gets a dict of tensors by name (see `moecheck list operators`) and the case, a dict of its fields
    (case["topk"], case["rsf"], case["policy"], case.line); it returns a dict of the outputs. Inputs are its own copies, torch
    tensors where torch is installed (framework_name="numpy" for NumPy arrays), moved to `device`; outputs may be on any device
    and of any library with DLPack. It raises Unsupported for cases it is not made for.

    clauses: it is run again and must give the same bytes. relations: also what must hold between runs, such as permuted tokens
    giving permuted rows bit for bit, which few torch functions promise. shrink: search the smallest failing case.

    Raises AssertionError with the verdict at the first case that fails, and when every case was skipped. MoecheckError: an
    unknown name. Returns a Result.
    """
    lines = list(cases) if cases is not None else lib.cases(operator, suite, policy)
    if cases is None and not lines:
        raise AssertionError(f"nothing was checked: suite {suite} of {operator} has no case of policy {policy}")
    runner = _Runner(function, framework(framework_name), device)
    name = name or getattr(function, "__name__", "function")
    flags = (lib.CLAUSES if clauses else 0) | (lib.RELATIONS if relations else 0)
    result = Result()
    for line in lines:
        if not line.startswith(operator):
            line = f"{operator} {line}"
        verdict = _one(runner, line, name, flags)
        if isinstance(runner.raised, Unsupported):
            result.skipped += 1
            reason = str(runner.raised)
            result.reasons[reason] = result.reasons.get(reason, 0) + 1
            continue
        if verdict["failed"]:
            first = runner.raised
            if shrink:
                verdict = _one(runner, line, name, flags | lib.SHRINK)
            if isinstance(first, (KeyboardInterrupt, SystemExit)):
                raise first
            raise AssertionError(_message(operator, name, verdict)) from first
        result.passed += 1
        result.records.append(verdict["record"])
    if result.passed == 0:
        raise AssertionError(f"nothing was checked: all {result.skipped} cases were skipped: {result.reasons}")
    return result


def _one(runner, line, name, flags):
    runner.raised = None
    return lib.taken(lib.library().moecheck_check(lib.text(line), lib.text(name), runner.callback, None, flags))


def _message(operator, name, verdict):
    line = verdict["smallest"] or verdict["record"]["case"]
    return f"\n{verdict['text']}  to repeat   moecheck.check({operator!r}, {name}, cases=[{line!r}])"


def judge(case, inputs, outputs, name="yours"):
    """Judges outputs that were computed elsewhere: a dict with verdict, failed, text, cause, reason and record."""
    values = list(inputs.values()) + list(outputs.values())
    fw = framework(None, values)
    d = accepted(case)
    given = structs(fw, d["inputs"], named(fw, d["inputs"], inputs, "input"))
    computed = structs(fw, d["outputs"], named(fw, d["outputs"], outputs, "output"))
    return lib.taken(lib.library().moecheck_judge(lib.text(case), *given, *computed, lib.text(name)))
