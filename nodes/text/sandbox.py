"""Shell. Jinja's sandbox with a budget: what a template of somebody else's model may do, and how much of it.

Jinja's own sandbox keeps a template from our objects, and lets it take all time and memory there is. Here every loop,
call, filter, join and output is charged to the budget of its rendering, and what makes much out of little in one step
is charged beforehand. What cannot be charged well is not there: `str.format`, `%` on texts, `center`, `batch`, ...
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import FILTERS
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Cycler, Joiner, Namespace, _PassArg, pass_context
from jinja2.visitor import NodeTransformer

from nodes.text.budget import CALL_STEPS, Budget

BUDGET = "the budget"  # where a context keeps it: no template can name a variable with a space
RANGE_MAX = 10_000
INTEGER_MAX = 10**9  # of a product or a power; larger ones cost time by themselves
ARGUMENT_MAX = 10_000  # a width, an indent, a precision
NO_FILTERS = (
    *("batch", "slice", "center", "filesizeformat", "format", "pprint", "random", "striptags", "urlize", "wordwrap"),
    *("xmlattr", "wordcount"),
)
TEXT_METHODS = (
    *("strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "replace", "join"),
    *("startswith", "endswith", "removeprefix", "removesuffix", "find", "rfind", "index", "rindex", "count"),
    *("lower", "upper", "title", "capitalize"),
    *("isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "islower", "isupper"),
)
METHODS: dict[type, tuple[str, ...]] = {
    str: TEXT_METHODS,
    dict: ("items", "keys", "values", "get"),
    list: ("index", "count"),
    tuple: ("index", "count"),
}
CALLABLE = (Macro, Cycler, Joiner)


def budget_of(context: Context) -> Budget:
    """The budget of the rendering that this context belongs to."""
    found: Budget = context.parent[BUDGET]
    return found


def text_of(budget: Budget, value: Any) -> str:
    """A value as it is written out; what is not defined is nothing."""
    return str(value) if isinstance(value, Undefined) else budget.text(value)


class Charging(NodeTransformer):
    """Rewrites a template so that its loops, joins and containers pass through a charging filter."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise TemplateSyntaxError("recursive loops are not supported", node.lineno)
        self.generic_visit(node)
        node.iter = charged("turns", node.iter, nodes.Const(data_chars(node)))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return charged("joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return node if constant(node.items) else charged("built", node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return node if node.ctx != "load" or constant(node.items) else charged("built", node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return node if constant([pair.value for pair in node.items]) else charged("built", node)


def charged(name: str, node: nodes.Node, *arguments: nodes.Expr) -> nodes.Filter:
    """The node, passed through one of our filters."""
    assert isinstance(node, nodes.Expr)
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def constant(items: Sequence[nodes.Node]) -> bool:
    return all(isinstance(item, nodes.Const) for item in items)


def data_chars(node: nodes.Node) -> int:
    """How many characters a part of a template writes by itself."""
    return sum(len(data.data) for data in node.find_all(nodes.TemplateData))


class Generation(Extension):
    """`{% generation %}`: marks the assistant's part for training; here its content is all."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of one template."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, LoopControlExtension]
        )
        self.finalize = shown
        self.filters = {name: wrapped(name, made) for name, made in FILTERS.items() if name not in NO_FILTERS}
        self.filters |= OURS
        self.globals = {
            "range": limited_range,
            "dict": dict,
            "namespace": Namespace,
            "joiner": Joiner,
            "cycler": Cycler,
        }
        self.data_chars = 0

    def prepared(self, source: str) -> nodes.Template:
        """The rewritten template."""
        parsed: nodes.Template = Charging().visit(self.parse(source))
        self.data_chars = data_chars(parsed)
        return parsed

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(__context)
        budget.step(CALL_STEPS)
        owner = getattr(__obj, "__self__", None)
        if isinstance(__obj, CALLABLE):
            budget.make(__self.data_chars)
        elif type(owner) in METHODS and not isinstance(__obj, type):
            charge_method(budget, owner, __obj.__name__, args)
        elif __obj in (dict, Namespace):
            budget.build([*args, *kwargs.values()])
        elif (
            not getattr(__obj, "offered", False)
            and not isinstance(owner, LoopContext | Cycler)
            and __obj not in (*(Joiner, Cycler),)
        ):
            raise SecurityError("this cannot be called here")
        return super().call(__context, __obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = budget_of(context)
        if operator == "+":
            charge_sum(budget, left, right)
        elif operator == "%" and isinstance(left, str | bytes):
            raise SecurityError("% on a text is not supported")
        elif operator == "*":
            charge_product(budget, left, right)
        elif operator == "**" and not (abs(left) <= 1000 and abs(right) <= 10):
            raise SecurityError("a power is too large")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if getattr(value, "__name__", "") in ("format", "format_map") and isinstance(
            getattr(value, "__self__", None), str
        ):
            raise SecurityError("str.format is not supported")
        return None


def charge_sum(budget: Budget, left: Any, right: Any) -> None:
    if isinstance(left, str) and isinstance(right, str):
        budget.step()
        budget.make(len(left) + len(right))
    elif isinstance(left, list | tuple):
        budget.build([left, right])


def charge_product(budget: Budget, left: Any, right: Any) -> None:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, str | bytes | list | tuple) and isinstance(times, int):
            budget.make(len(value) * max(times, 0))
            if isinstance(value, list | tuple):
                budget.build(value, max(times, 0))
            return
    if isinstance(left, int) and isinstance(right, int) and abs(left) * abs(right) > INTEGER_MAX:
        raise SecurityError("a product is too large")


def charge_method(budget: Budget, owner: Any, name: str, args: Sequence[Any]) -> None:
    """A method of a plain value: some are not there, and some make much of little."""
    if name not in METHODS[type(owner)]:
        raise SecurityError(f"the method {name} is not supported")
    budget.handle(owner)
    if name in ("split", "rsplit", "splitlines"):
        separator = args[0] if args and isinstance(args[0], str) and args[0] else None
        budget.step(owner.count(separator) if separator else len(owner) // 8)
    elif name == "replace":
        charge_replace(budget, owner, *args)
    elif name == "join":
        charge_join(budget, owner, args[0] if args else ())


def charge_replace(budget: Budget, text: str, old: Any = "", new: Any = "", *_: Any) -> None:
    if isinstance(old, str) and isinstance(new, str):
        budget.make(len(text) + text.count(old) * len(new))


def charge_join(budget: Budget, separator: str, items: Any) -> None:
    if not isinstance(items, list | tuple):
        raise SecurityError("join wants a list")
    budget.handle(items)
    budget.make(sum(len(item) + len(separator) for item in items if isinstance(item, str)))


def limited_range(*args: int) -> range:
    """Numbers in a row, but not too many."""
    made = range(*args)
    if len(made) > RANGE_MAX:
        raise SecurityError(f"a range of more than {RANGE_MAX} numbers")
    return made


limited_range.offered = True  # type: ignore[attr-defined]


def wrapped(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
    """One of Jinja's filters, charged."""
    wants = _PassArg.from_obj(original)

    @pass_context
    def charging(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        budget = budget_of(context)
        for given in (value, *args, *kwargs.values()):
            budget.handle(given)
            if isinstance(given, int) and abs(given) > ARGUMENT_MAX and given is not value:
                raise SecurityError(f"an argument of the filter {name} is too large")
        charge = CHARGES.get(name)
        if charge is not None:
            charge(budget, value, *args, **kwargs)
        first = FIRST[wants](context) if wants is not None else ()
        return original(*first, value, *args, **kwargs)

    return charging


FIRST: dict[_PassArg, Callable[[Context], tuple[Any, ...]]] = {
    _PassArg.context: lambda context: (context,),
    _PassArg.eval_context: lambda context: (context.eval_ctx,),
    _PassArg.environment: lambda context: (context.environment,),
}


def charge_indent(budget: Budget, value: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    each = width if isinstance(width, int) else len(width)
    budget.make(len(value) + (value.count("\n") + 1) * each)


def charge_text(budget: Budget, value: Any, *_: Any, **__: Any) -> None:
    text_of(budget, value)


def charge_escape(budget: Budget, value: Any, *_: Any, **__: Any) -> None:
    budget.make(5 * len(text_of(budget, value)))


def charge_start(budget: Budget, value: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise SecurityError("sum adds numbers")


def charge_filter_replace(budget: Budget, value: Any, old: Any, new: Any, *_: Any) -> None:
    charge_replace(budget, text_of(budget, value), old, new)


CHARGES: dict[str, Callable[..., None]] = {
    "indent": charge_indent,
    "replace": charge_filter_replace,
    "sum": charge_start,
    **dict.fromkeys(("escape", "e", "forceescape", "urlencode"), charge_escape),
    **dict.fromkeys(("string", "upper", "lower", "title", "capitalize", "trim", "truncate", "safe"), charge_text),
}


@pass_context
def shown(context: Context, value: Any) -> Any:
    """Jinja's hook for each value that is written out."""
    return text_of(budget_of(context), value)


@pass_context
def turns(context: Context, values: Any, chars: int) -> Any:
    return budget_of(context).turns(values, chars)


@pass_context
def built(context: Context, value: Any) -> Any:
    return budget_of(context).build(value)


@pass_context
def joined(context: Context, values: list[Any]) -> str:
    """The operator `~`."""
    budget = budget_of(context)
    return "".join([text_of(budget, value) for value in values])


@pass_context
def join(context: Context, values: Any, separator: str = "", attribute: Any = None) -> str:
    """The filter `join`, whose own version has three ways to be long."""
    budget = budget_of(context)
    found = values if attribute is None else [context.environment.getitem(value, attribute) for value in values]
    texts = []
    for value in budget.turns(found, len(separator)):
        texts.append(text_of(budget, value))
    return separator.join(texts)


@pass_context
def tojson(
    context: Context,
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON as models were trained on it: not escaped for HTML."""
    budget = budget_of(context)
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("an indent of more than 16")
    budget.make(budget.written(value) * (1 + (indent or 0)))
    given = tuple(separators) if separators else None
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=given, sort_keys=sort_keys)


OURS: dict[str, Callable[..., Any]] = {
    "turns": turns,
    "built": built,
    "joined": joined,
    "join": join,
    "tojson": tojson,
}
