"""Change the rules and the write path here and there, and see whether a test tells.

    make test-mutants ONLY=rules/plan.py

Each mutant is the code with one change: a comparison that is off by one, a condition
turned around, a loop that is not run. Tests run on it until one fails; where none does
it survived, and is printed. All of it takes an hour or two. cosmic-ray makes the mutants
(https://cosmic-ray.readthedocs.io), one of each operator's at each place; what it changes
in annotations, and in how a record is made, is left out, and numbers are not changed.
"""

import argparse
import ast
import json
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv" / "bin" / "python"
# What a copy does without: environments, the history, data, what was built.
LEFT = (".*", "__pycache__", "*.egg-info", "build", "dist")
# How a record is made, which says nothing of what it does.
MANNERS = ("slots", "frozen", "kw_only", "eq")
LANES = 2  # how many are tested at once
# After so many seconds tests are taken for ones that never end.
NEAR_SECONDS = 120
OTHERS_SECONDS = 1200

# The operators that are used, without their prefixes: of those that put something else in the
# place of an operator, one each.
REPLACEMENTS = (
    *("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE", "GtE_Gt", "Is_IsNot", "IsNot_Is"),
    *("Add_Sub", "Sub_Add", "Mul_Div", "FloorDiv_Mul", "Mod_Mul", "Pow_Mul"),
    *("LShift_RShift", "RShift_LShift", "BitAnd_BitOr", "BitOr_BitAnd"),
)
OPERATOR = re.compile(
    "core/(AddNot|ExceptionReplacer|ZeroIterationForLoop|ReplaceAndWithOr"
    "|ReplaceOrWithAnd|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceContinueWithBreak"
    "|ReplaceBreakWithContinue|ReplaceUnaryOperator_Delete_Not|ReplaceUnaryOperator_USub_UAdd"
    rf"|Replace(Comparison|Binary)Operator_({'|'.join(REPLACEMENTS)}))\Z"
)

# What is changed, and the tests that are asked first: where all of them pass, so are others.
# Not limits.py, whose values the tests take from it, too.
NEAR = {
    "rules/plan.py": ("rules", "batch_api", "allotments", "caps", "partial"),
    "rules/changes.py": ("rules", "conditions", "allotments", "caps", "partial", "idempotency"),
    "selling/batch.py": ("batches", "write_path"),
    "selling/line.py": ("line", "batches", "write_path"),
    "rules/model.py": ("rules", "allotments", "caps", "openapi"),
    "rules/names.py": ("names",),
    "rules/keys.py": ("keys",),
    "rules/ids.py": ("ids",),
    "rules/errors.py": ("conditions", "batch_api", "bad_input"),
}
OTHERS = ("write_path", "batches", "allotments", "caps", "partial", "conditions", "idempotency")
OTHERS += ("holds", "batch_api", "events", "durability", "archive", "metrics", "storm", "model")


@dataclass(frozen=True)
class Mutant:
    file: str  # below ticketboss/
    line: int
    operator: str
    before: str
    after: str
    code: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}  {self.before}  ->  {self.after}"


def mutants(file: str) -> Iterator[Mutant]:
    """Make every mutant of a file that is not the same program."""
    code = (ROOT / "ticketboss" / file).read_text("utf-8")
    same = {_meaning(code)}
    for name in sorted(filter(OPERATOR.match, operator_names())):
        operator = get_operator(name)()
        positions = [p for n in ast_nodes(get_ast(code)) for p in operator.mutation_positions(n)]
        for occurrence, (begin, _) in enumerate(positions):
            changed = mutate_code(code, operator, occurrence)
            meaning = changed and _meaning(changed)
            if not changed or not meaning or meaning in same:
                continue
            same.add(meaning)
            pairs = zip(code.splitlines(), changed.splitlines(), strict=False)
            before, after = next((a.strip(), b.strip()) for a, b in pairs if a != b)
            yield Mutant(file, begin[0], name, before, after, changed)


def _meaning(code: str) -> str:
    """Return what tells two programs apart that differ in more than is left out, or nothing.

    Where it is nothing the code is no program: a star before an argument was taken for a factor.
    """
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return ""
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                setattr(node, name, ast.Constant(None))
        if isinstance(node, ast.Call):
            node.keywords = [each for each in node.keywords if each.arg not in MANNERS]
        if isinstance(node, ast.arguments):  # and a star among parameters, too
            node.args = [*node.posonlyargs, *node.args, *node.kwonlyargs]
            node.defaults += [default for default in node.kw_defaults if default]
            node.posonlyargs, node.kwonlyargs, node.kw_defaults = [], [], []
    return ast.dump(tree)


class Lane:
    """A copy of the checkout in which one mutant at a time is tested (lane.py)."""

    def __init__(self, folder: Path):
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*LEFT))
        self._process = subprocess.Popen(
            [PYTHON, "tests/mutation/lane.py"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def judge(self, file: str, code: str, groups: Sequence[tuple[Iterable[str], float]]) -> Any:
        """Return which group of tests notices that a file has other code; None: none of them."""
        assert self._process.stdin and self._process.stdout
        asked = {
            "file": f"ticketboss/{file}",
            "code": code,
            "groups": [
                ([f"tests/test_{subject}.py" for subject in subjects], seconds)
                for subjects, seconds in groups
            ],
        }
        print(json.dumps(asked), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", help="one of: " + ", ".join(NEAR))
    only = parser.parse_args().only
    files = [file for file in NEAR if only in (None, file)]
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    for each in (mutant for file in files for mutant in mutants(file)):
        waiting.put(each)
    count = waiting.qsize()
    noticed: Counter[int | None] = Counter()
    with tempfile.TemporaryDirectory(prefix="ticketboss-mutants-") as folder:
        lanes = [Lane(Path(folder) / str(number)) for number in range(LANES)]

        def work(lane: Lane) -> None:
            while True:
                try:
                    mutant = waiting.get_nowait()
                except queue.Empty:
                    return
                near = NEAR[mutant.file]
                others = [subject for subject in OTHERS if subject not in near]
                groups = [(near, NEAR_SECONDS), (others, OTHERS_SECONDS)]
                by = lane.judge(mutant.file, mutant.code, groups)
                noticed[by] += 1
                if by is None:
                    print(mutant, flush=True)

        threads = [threading.Thread(target=work, args=[lane], daemon=True) for lane in lanes]
        try:
            everything = dict.fromkeys(
                s for group in (*map(NEAR.get, files), OTHERS) for s in group
            )
            code = (ROOT / "ticketboss" / files[0]).read_text("utf-8")
            if lanes[0].judge(files[0], code, [(everything, OTHERS_SECONDS)]) is not None:
                sys.exit(f"mutants: without a change one fails: {' '.join(everything)}")
            print(f"{count} mutants of {', '.join(files)}", flush=True)
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except BaseException:
            for lane in lanes:
                lane.interrupt()
            raise
        finally:
            for lane in lanes:
                lane.stop()
    print(
        f"noticed by the near tests {noticed[0]}, by others {noticed[1]}, by none {noticed[None]}"
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
