"""An answer reaches neither the file system nor the interpreter."""

import json
import subprocess
import sys

import pytest

from dereason_utils.verify import verify
from dereason_utils.verify.algebra import parse
from dereason_utils.verify.lexer import NotMath

ATTACKS = [
    "__import__('os').system('touch {path}')",
    "open('{path}', 'w')",
    "exec(open('{path}', 'w'))",
    "().__class__.__base__.__subclasses__()",
    "Symbol('x').__class__",
    "sympify('open(1)')",
    "lambda: 0",
    "x if x else x",
    "[x for x in x]",
    "x.subs(x, x)",
    "f'{{open(1)}}'",
    "import os",
    r"\input{{{path}}}",
    r"\write18{{touch {path}}}",
    r"\openout\x={path}",
    r"\def\x{{\x}}\x",
    "5 __class__",
    "5 m.__class__",
    "5 m; open('{path}')",
    "'; touch {path} #",
    r"\includegraphics{{{path}}}",
    r"\csname input\endcsname {path}",
    "S(\"open('{path}', 'w')\")",
    "x.__class__.__mro__[1].__subclasses__()",
    "file://{path}",
    "$(touch {path})",
    "`touch {path}`",
    "../../../../{path}",
    '", "kind": "text", "gold": "{path}',
    "x\n{{}}\n",
    'O:8:"stdClass"',
    "\x80\x04\x95",
    "cos\nsystem\n(S'touch {path}'\ntR.",
]
TYPES = [
    "number",
    "quantity",
    "expression",
    "equation",
    "interval",
    "set",
    "tuple",
    "list",
    "matrix",
    "choice",
    "boolean",
    "text",
    "formula",
    None,
]
GOLDS = {"number": "1.5", "quantity": "5 m", "expression": "x^2", "equation": "y=2x", "interval": "[0,x)", "set": r"\{1,x\}", "tuple": "(1,x)", "list": "[1,x]",
         "matrix": "[[1,x],[2,3]]", "choice": "B", "boolean": "yes", "text": "dog", "formula": "H2O", None: "x^2"}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_a_wrong_answer_of_every_type(attack, tmp_path):
    target = tmp_path / "reached"
    answer = attack.format(path=target)
    for kind in TYPES:
        for response in (rf"\boxed{{{answer}}}", f"The answer is {answer}", rf"\boxed{{x^2+{answer}}}"):
            assert verify("Is it?", GOLDS[kind], response, kind).verdict == "incorrect"
    assert not target.exists()


# Runs the whole comparison, workers' part included, in one process that records what the interpreter is asked to do.
AUDIT = r"""
import json, sys
from dereason_utils.verify import rules, symbolic
from dereason_utils.verify.worker import _warm_up
_warm_up()
for gold in ("5 m", "x^2", "H2O", "1.5"):  # load what is loaded on first use
    rules.compare("", gold, "500 cm", rules.kind_of("", gold, None), symbolic.equal)
seen = []
watched = {"open", "import", "exec", "compile", "os.system", "subprocess.Popen", "os.exec", "os.fork", "socket.connect", "ctypes.dlopen", "pickle.find_class"}
sys.addaudithook(lambda event, args: seen.append([event, repr(args)[:200]]) if event in watched else None)
for attack in json.load(sys.stdin):
    for gold in ("5 m", "x^2", "y=x", "[0,x)", "(1,x)", "H2O", "1.5", "dog", "yes"):
        kind = rules.kind_of("", gold, None)
        rules.compare("", gold, attack, kind, symbolic.equal)
        rules.compare("", gold, "x^2+" + attack, kind, symbolic.equal)
        rules.kind_of("", attack, kind)
print(json.dumps(seen))
"""


def test_no_answer_opens_imports_or_executes_anything():
    attacks = [attack.format(path="/tmp/reached") for attack in ATTACKS]
    process = subprocess.run(
        [sys.executable, "-c", AUDIT], input=json.dumps(attacks), capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    # sympy loads parts of itself on first use: its own modules may be read, and nothing else.
    library = [
        event for event in json.loads(process.stdout) if "site-packages" in event[1] or event[0] == "import"
    ]
    assert [event for event in json.loads(process.stdout) if event not in library] == []
    imported = {event[1].split("'")[1].split(".")[0] for event in library if event[0] == "import"}
    assert imported <= {"sympy", "mpmath", "pint"}, imported


@pytest.mark.parametrize("attack", [a for a in ATTACKS if not a.startswith(("$(", "..", "[x"))])
def test_the_grammar_refuses_code(attack):
    with pytest.raises(NotMath):
        parse(attack.format(path="/tmp/reached"))
