"""`python -m benchmarks.gpu.fuzz OP…`, started by the stage "correctness": random calls of one op against float64."""

import sys
from collections.abc import Callable
from functools import partial

from benchmarks.gpu.cases import OPS, Call, Draw
from benchmarks.gpu.facts import name_of
from benchmarks.gpu.ours import GPU_BACKENDS, easy_points, is_refusal, refusal
from benchmarks.gpu.properties import (
    gradients_right,
    graph_equals_eager,
    repeatable,
    right,
    shipped,
    waits_for_nothing,
    writes_all,
)
from benchmarks.gpu.stage import Stage

CALLS = 40
REPEATS = 20
LONGEST_CALL = 12.0  # seconds, with all that Triton has to compile
REHEARSED_MOST = 10  # of any size: the interpreter is slow


def fuzz(stage: Stage, op: str) -> None:
    for backend in GPU_BACKENDS:
        if (why := refusal(op, backend, easy_points(stage.device))) is not None:
            stage.add("float64", "skipped", op=op, backend=backend, why=why)
            continue
        call = taken(stage, op, backend)
        for name, holds in properties(stage).items() if call else ():
            outcome(stage, name, op, backend, partial(holds, call, backend, stage.device))
        checked(stage, op, backend)


def checked(stage: Stage, op: str, backend: str) -> None:
    """Rows of the results and of the gradients: the first failure, with what was drawn, or how many were right."""
    calls = gradients = refused = 0
    wanted = 2 if stage.rehearsed else CALLS
    for index in range(4 * wanted):
        if calls == wanted or stage.left() < LONGEST_CALL:
            break
        draw = drawn_for(stage, op, index)
        call = OPS[op](draw)
        shapes = ", ".join(f"{list(x.shape)}" for x in call.tensors)
        about = f"call {index}: {name_of(draw.dtype)} {shapes} {call.about}".strip()
        try:
            right(call, backend, stage.device, misaligned=index % 2 == 1)
            calls += 1
            gradients += gradients_right(call, backend, stage.device)
        except Exception as error:  # a kernel that dies takes the process's device with it: no more calls
            if is_refusal(error):
                refused += 1
                continue
            stage.add("float64", "failed", op=op, backend=backend, why=f"{about}: {describe(error)}")
            return
    status = "passed" if calls else "skipped"
    stage.add("float64", status, op=op, backend=backend, calls=calls, gradients=gradients, refused=refused)


def properties(stage: Stage) -> dict[str, Callable[..., None]]:
    times = 2 if stage.rehearsed else REPEATS
    return {
        f"same bits {times} times": partial(repeatable, times=times),
        "poisoned memory": writes_all,
        "graph replay": graph_equals_eager,
        "no synchronisation": waits_for_nothing,
    }


def taken(stage: Stage, op: str, backend: str) -> Call | None:
    """A call that the backend takes, of some size; the op by itself."""
    for index in range(CALLS):
        call = OPS[op](drawn_for(stage, op, index))
        call = call.alone or call
        try:
            call.function(*(shipped(x, stage.device) for x in call.tensors), backend=backend)
        except RuntimeError as error:
            if not is_refusal(error):
                return call  # to be reported by whatever is asked of it
        else:
            if call.tensors[0].numel() > 9:
                return call
    return None


def drawn_for(stage: Stage, op: str, index: int) -> Draw:
    return Draw(op, index, REHEARSED_MOST) if stage.rehearsed else Draw(op, index)


def outcome(stage: Stage, name: str, op: str, backend: str, run: Callable[[], None]) -> None:
    if not stage.enough_time(name, LONGEST_CALL, op=op, backend=backend):
        return
    try:
        run()
    except Exception as error:
        stage.add(name, "failed", op=op, backend=backend, why=describe(error))
    else:
        stage.add(name, "passed", op=op, backend=backend)


def describe(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:600]}"


if __name__ == "__main__":
    for op in sys.argv[1:]:
        fuzz(Stage.given("correctness"), op)
