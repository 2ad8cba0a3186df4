"""Each exported name, counted: a docstring of one paragraph, a comment for each parameter, shapes
of tensors, an example in a chapter, a test.

A name is one of a module's `__all__`, or a public method, which is shown and tested with its class.
What it must have:
docstring: one paragraph; a constant has a comment instead, on its line or alone above it
docments:  a comment for each parameter (two on a line: the comment is the last one's), and for each
field of a dataclass
shapes:    where a parameter or what is returned is annotated as a Tensor, also in `forward`, the
comment gives a shape, as (B,3,H,W), or says scalar, any shape, same shape
example:   a use in a cell of a notebook that is seen, run and not exported
test:      a use in a cell that checks (assert, test_eq and its like), or in tests/

`python tests/test_names.py` prints the counts and what is missing.
"""
import ast
import io
import json
import re
import tokenize
from pathlib import Path
from types import SimpleNamespace

import pytest

from lowlight_nat import _FRONT

ROOT = Path(__file__).resolve().parents[1]
CHECKS = 'docstring docments shapes example test'.split()

AS_ANOTHER = re.compile(r'\b(scalars?|any shape|(same|its) shapes?|shapes? of)\b')
# B, 2h, dim/4, ...: one of these at least, so that (bright, dark) is no shape
AXIS = re.compile(r"\.\.\.|\.{0,3}[\w']{1,3}|(?=.*[\d*/+^])[\w'*/+^.-]+")

CHECKING = re.compile(
    r'(^|[;:])\s*(with )?(assert|test_\w+\(|fail\(|ExceptionExpected|expect_fail)|pytest\.raises|ExceptionExpected',
    re.M)


# --- what the modules offer ---

class Comments:
    "Comments of a source by line."
    def __init__(self, src):
        found = [o for o in tokenize.generate_tokens(io.StringIO(src).readline) if o.type == tokenize.COMMENT]
        self.said = {o.start[0]: o.string.lstrip('#| ').strip() for o in found}
        self.alone = {o.start[0] for o in found if o.line.strip().startswith('#')}
    def at(self, line, end=None):
        "The comment at the end of these lines, or alone above them."
        behind = [self.said[i] for i in range(end or line, line - 1, -1) if self.said.get(i)]
        above = self.said.get(line - 1, '') if line - 1 in self.alone else ''
        return behind[0] if behind else '' if above.startswith('%%') else above

def by_param(annotation):
    "What the commands say of a parameter inside `Param(...)`, which stands where its type does."
    is_param = isinstance(annotation, ast.Call) and ast.unparse(annotation.func) == 'Param' and annotation.args
    return ast.unparse(annotation.args[0]) if is_param else ''

def parameters(fn, comments, method):
    """Name, annotation and comment of each parameter of `fn`, and of what it returns. As in
    fastcore, a line's comment is its last parameter's."""
    a = fn.args
    args = [o for o in (*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg) if o]
    last = {o.lineno: o.arg for o in args}
    out = []
    returned = comments.at(fn.returns.lineno) if fn.returns else ''
    if fn.returns: last[fn.returns.lineno] = 'return'
    for o in args:
        # `# (B,3,H,W) to (B,d,h,w)` is of what goes in, too
        both = ' to ' in returned and o.lineno == fn.returns.lineno
        said = comments.at(o.lineno) if both or last[o.lineno] == o.arg else ''
        out.append((o.arg, ast.unparse(o.annotation) if o.annotation else '', by_param(o.annotation) or said))
    if fn.returns: out.append(('return', ast.unparse(fn.returns), returned))
    return out[1:] if method and 'staticmethod' not in decorators(fn) else out

def fields_of(cls, comments):
    "The same of a dataclass."
    return [(o.target.id, ast.unparse(o.annotation), comments.at(o.lineno, o.end_lineno))
            for o in cls.body if isinstance(o, ast.AnnAssign)]

def is_tensor(annotation): return bool(re.search(r'\bTensor\b', annotation))

def one_paragraph(doc): return bool(doc) and '\n\n' not in doc.strip()

def decorators(node): return [ast.unparse(o) for o in node.decorator_list]

def read_module(name, src):
    """The names that a module defines and exports, each with its docstring and parameters; and
    where it takes others from."""
    tree = ast.parse(src)
    comments = Comments(src)
    lists = [
        ast.literal_eval(o.value)
        for o in tree.body
        if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__'
    ]
    public = set(lists[0] if lists else [])
    names = {}
    taken = {}
    methods = {}   # of each class, with those of its bases: their comments stand there
    def add(key, kind, doc, params, extra=()):
        names[key] = SimpleNamespace(module=name, name=key, kind=kind, doc=doc, params=params,
                                     tensors=[*params, *extra])
    for o in tree.body:
        if isinstance(o, ast.ImportFrom) and (o.level or
                                              (o.module or '').startswith('lowlight_nat')):
            room = name.split('.')[:-o.level] if o.level else []
            module = '.'.join([*room, *(o.module or '').removeprefix('lowlight_nat').strip('.').split('.')])
            for i in o.names: taken[i.asname or i.name] = (module.strip('.'), i.name)
        elif isinstance(o, ast.ClassDef) and o.name in public:
            fns = {f.name: f for f in o.body if isinstance(f, ast.FunctionDef)}
            fields = fields_of(o, comments) if any('dataclass' in d for d in decorators(o)) else []
            init = parameters(fns['__init__'], comments, True) if '__init__' in fns else []
            add(o.name, 'class', ast.get_docstring(o), fields + init,
                parameters(fns['forward'], comments, True) if 'forward' in fns else ())
            methods[o.name] = set(fns).union(*(methods.get(ast.unparse(b), ()) for b in o.bases))
            inherited = set().union(*(methods.get(ast.unparse(b), ()) for b in o.bases))
            for f in fns.values():
                if f.name[0] != '_' and f.name not in inherited and ast.get_docstring(f):
                    add(f'{o.name}.{f.name}', 'method', ast.get_docstring(f), parameters(f, comments, True))
        elif isinstance(o, ast.FunctionDef) and o.name in public:
            add(o.name, 'function', ast.get_docstring(o), parameters(o, comments, False))
        elif isinstance(o, (ast.Assign, ast.AnnAssign)):
            for t in (o.targets if isinstance(o, ast.Assign) else [o.target]):
                for n in ast.walk(t):
                    if isinstance(n, ast.Name) and n.id in public:
                        add(n.id, 'constant', comments.at(o.lineno, o.end_lineno), [])
    return SimpleNamespace(name=name, names=names, public=public, taken=taken)

def is_shape(inside):
    "`B,3,H,W` or `n,`: one axis at least, so that `bright, dark` is none."
    first, *rest = [o.strip() for o in inside.split(',')]
    if rest == ['']: return bool(re.fullmatch(r'\w+', first))
    axes = (first, *rest)
    return bool(rest) and all(re.fullmatch(r"[\w'*/+^.-]+", o) for o in axes) and any(map(AXIS.fullmatch, axes))

def has_shape(said):
    """Does a comment give a shape, as (B,3,H,W) or (n,), or say that it is a number or shaped as
    another?"""
    return bool(AS_ANOTHER.search(said)) or '(...)' in said or any(map(is_shape, re.findall(r'\(([^()]*)\)', said)))

def missing_parameters(item): return [p for p, _, said in item.params if not said and p != 'return']
def missing_shapes(item):
    return [p for p, kind, said in item.tensors if is_tensor(kind) and not has_shape(said)]


# --- where they are used ---

def cells_of(nb): return [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
def is_run(src): return not re.search(r'^#\|\s*eval:\s*false', src, re.M)
def is_export(src): return bool(re.search(r'^#\|\s*exports?\b', src, re.M))
def is_hidden(src):
    return bool(re.search(r'^#\|\s*(hide|include:\s*false|echo:\s*false)\s*$', src, re.M))
def is_test(src): return bool(CHECKING.search(src))

def parsed(src):
    try: return ast.parse(re.sub(r'^[%!].*$', '', src, flags=re.M))
    except SyntaxError: return ast.parse('')

def imported(trees, modules):
    "What each name, and each alias of a module, of these cells stands for."
    names = {}
    aliases = {}
    for node in (n for t in trees for n in ast.walk(t)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'lowlight_nat':
            module = node.module.removeprefix('lowlight_nat').strip('.')
            for o in node.names:
                name = o.asname or o.name
                whole = f'{module}.{o.name}'.strip('.')
                if o.name == '*': names.update({n: (module, n) for n in getattr(modules.get(module), 'public', ())})
                elif not module and o.name in _FRONT: names[name] = (_FRONT[o.name], o.name)
                elif not module or whole in modules: aliases[name] = whole
                else: names[name] = (module, o.name)
        elif isinstance(node, ast.Import):
            for o in node.names:
                if o.name.startswith('lowlight_nat.') and o.asname:
                    aliases[o.asname] = o.name.removeprefix('lowlight_nat.')
    return names, aliases

def home(modules, module, name):
    "The module that defines a name, through those that hand it on."
    for _ in range(9):
        if module not in modules or name in modules[module].names: break
        module, name = modules[module].taken.get(name, (None, name))
    return module, name

def used(tree, names, aliases, modules):
    "The exported names that these statements use."
    out = set()
    for n in ast.walk(tree):
        if isinstance(n, ast.Name) and n.id in names: out.add(home(modules, *names[n.id]))
        elif isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id in aliases:
            out.add(home(modules, aliases[n.value.id], n.attr))
    return out

def uses(cells, modules, own=None):
    """For each cell that is run and exports nothing: its text, and the names it uses. `own` is the
    module that the notebook exports."""
    trees = [parsed(s) for s in cells]
    names, aliases = imported(trees, modules)
    if own in modules: names.update({n: (own, n) for n in modules[own].names if '.' not in n})
    for s, t in zip(cells, trees):
        if is_run(s) and not is_export(s):
            yield s, used(t, names, aliases, modules)

def default_exp(cells):
    return next((m[1] for s in cells if (m := re.search(r'^#\|\s*default_exp\s+(\S+)', s, re.M))),
                None)

def shown(modules, notebooks, tests):
    """Names with an example (a cell that the reader sees) and names with a test (a cell that
    checks, or a file of `tests/`)."""
    example = set()
    test = set()
    for nb in notebooks:
        cells = cells_of(nb)
        for src, found in uses(cells, modules, default_exp(cells)):
            if not is_hidden(src): example |= found
            if is_test(src): test |= found
    for src in tests:
        for _, found in uses([src], modules): test |= found
    return example, test

def check(modules, notebooks, tests):
    "Every exported name with what it lacks."
    example, test = shown(modules, notebooks, tests)
    out = {}
    for item in (i for m in modules.values() for i in m.names.values()):
        key = item.module, item.name.split('.')[0]
        out[f'{item.module}.{item.name}'] = dict(
            docstring=[] if one_paragraph(item.doc) else ['none of one paragraph'],
            docments=missing_parameters(item), shapes=missing_shapes(item),
            example=[] if key in example else ['none'],
            test=[] if key in test else ['none'])
    return out

def project():
    modules = {
        name: read_module(name, p.read_text(encoding='utf-8'))
        for p in sorted((ROOT/'lowlight_nat').rglob('*.py')) if p.name[0] != '_'
        for name in ['.'.join(p.relative_to(ROOT/'lowlight_nat').with_suffix('').parts)]
    }
    pages = [
        p for p in sorted((ROOT/'nbs').rglob('*.ipynb'))
        if not any(o[0] in '._' for o in p.relative_to(ROOT).parts)
    ]
    return modules, [json.loads(p.read_text(encoding='utf-8')) for p in pages], [
        p.read_text(encoding='utf-8')
        for p in sorted((ROOT/'tests').glob('test_*.py'))
        if p.name != 'test_names.py'
    ]

def report(found):
    "The counts, and what is missing."
    lines = [
        f'{len(found)} names; '
        + ', '.join(f'{sum(not o[k] for o in found.values())} with {k}' for k in CHECKS)
    ]
    return lines + [f'{k} {n}: {", ".join(o[k])}' for k in CHECKS for n, o in found.items() if o[k]]

def missing(found): return {f'{k} {n}' for k in CHECKS for n, o in found.items() if o[k]}


# --- the tests ---

@pytest.fixture(scope='module')
def found(): return check(*project())

def test_every_name(found):
    print('\n'.join(report(found)))
    assert len(found) > 500
    assert sorted(missing(found)) == []

MODULE = '''__all__ = ['LIMIT', 'Net', 'double']
LIMIT = 4   # rounds
class Net(nn.Module):
    "A net"
    def __init__(self,
                 ch:int=3): # channels
        super().__init__()
    def forward(self, x:Tensor) -> Tensor: # (B,3,H,W) to (B,3,H,W)
        return x
    def drop(self, p:float): # share dropped
        "Drop some"
def double(x:Tensor, # picture (B,3,H,W)
          ) -> Tensor: # (B,3,H,W)
    "Twice the picture"
'''
CELLS = ['#| default_exp made', '#| export\n' + MODULE, 'Net(); double(x, LIMIT)',
         '#| hide\nassert double(Net()(x), LIMIT)']

@pytest.mark.parametrize('old, new, lack', [
    ('', '', None), ('   # rounds', '', 'docstring made.LIMIT'), ('    "A net"\n', '', 'docstring made.Net'),
    ('"Twice the picture"', '"""Twice\n\n    the picture"""', 'docstring made.double'),
    (' # channels', '', 'docments made.Net'), (' # share dropped', '', 'docments made.Net.drop'),
    ('picture (B,3,H,W)', 'a picture (bright, as it were)', 'shapes made.double'),
    ('# (B,3,H,W) to (B,3,H,W)', '# picture to picture', 'shapes made.Net'),
    ('Net(); ', '', 'example made.Net'), ('assert double', 'double', 'test made.double')])
def test_the_checks_can_fail(old, new, lack):
    cells = [c.replace(old, new) for c in CELLS]
    module = read_module('made', MODULE.replace(old, new))
    found = missing(check({'made': module}, [dict(cells=[dict(cell_type='code', source=[c]) for c in cells])], ()))
    assert lack in found if lack else found == set() and len(module.names) == 4

if __name__ == '__main__':
    found = check(*project())
    print('\n'.join(report(found)))
