"""Shell. The command `wiremesh`: reads the command line, imports the command that was asked for, explains failures.

Strategy: nothing heavy is imported before it is known what to do, so `wiremesh --help` is quick. A mistake of the user
is one sentence and an exit code, never a traceback; WIREMESH_DEBUG=1 shows it all. The commands are beside this file.
"""

import argparse
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Sequence

from launch import VERSION
from launch.codes import MEANINGS, Complaint, Exit
from launch.collision import check_proto

SIM = "sim"  # has a command line of its own: mesh.simulation.command
# Which errors are the user's to mend, by name: to explain an error must import nothing, for imports may be what failed.
CODES = {
    "mesh.options.OptionRefused": Exit.SETTING,
    "mesh.security.KeyRefused": Exit.KEY,
    "mesh.security.GateOpen": Exit.KEY,
    "mesh.discovery.plan.JoinRefused": Exit.SETTING,
    "mesh.failures.Unavailable": Exit.UNAVAILABLE,
    "mesh.failures.Busy": Exit.UNAVAILABLE,
    "mesh.failures.MeshError": Exit.FAILED,
    "builtins.OSError": Exit.SETTING,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        check_proto()
        return _run(words)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return Exit.PIPE
    except Exception as error:  # The last place that can explain it; nothing of it is lost with WIREMESH_DEBUG.
        if os.environ.get("WIREMESH_DEBUG"):
            traceback.print_exc()
        code, text = _explain(error)
        print(f"wiremesh: {text}", file=sys.stderr)
        return code


def _run(words: list[str]) -> int:
    if words[:1] == [SIM]:
        return _simulate(words[1:])
    parser = _parser()
    if not words:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    arguments, strange = parser.parse_known_args(words)
    if strange:
        parser.error(f"unrecognized arguments: {' '.join(strange)}{_meant(strange[0], arguments.known, words[0])}")
    entry: Callable[[argparse.Namespace], int] = importlib.import_module(arguments.module).main
    code = entry(arguments)
    sys.stdout.flush()  # Here a reader that has gone can still be told from a mistake.
    return code


def _meant(word: str, known: Sequence[str], command: str) -> str:
    """What a slip of the finger may have been, and where all that there is can be seen."""
    from difflib import get_close_matches

    near = get_close_matches(word.partition("=")[0], known, n=1)
    guess = f" (is it {near[0]}?)" if near else ""
    return f"{guess}: 'wiremesh {command} --help' lists what there is"


def _simulate(words: list[str]) -> int:
    from mesh.simulation import command, stage
    from nodes.simulation.stage import STAGE as SERVING

    return command.main(words, (stage.STAGE, SERVING))


def _parser() -> argparse.ArgumentParser:
    from launch import flags
    from mesh.options import add_arguments

    parser = argparse.ArgumentParser(
        prog="wiremesh",
        description="A mesh of ZeroMQ actors that serves large language models.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"wiremesh {VERSION}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    keygen = _command(commands, "keygen", "make the key of a mesh")
    add_arguments(keygen, only=("mesh",))
    add_arguments(keygen, flags.KeygenFlags, flags.KEYGEN_HELP, "keygen")
    _serving_commands(commands)

    run = _command(commands, "run", "serve a component: MODULE:COMPONENT or FILE.py:COMPONENT")
    run.add_argument("target", metavar="MODULE:COMPONENT", help="what 'hello.run()' in that module would serve")
    add_arguments(run)

    call = _command(commands, "call", "call an endpoint; its items are printed as lines of JSON")
    call.add_argument("endpoint", metavar="ENDPOINT", help="namespace.component.endpoint")
    call.add_argument("payload", metavar="JSON", nargs="?", default="null", help="the request; '-' reads it from stdin")
    add_arguments(call, flags.CallFlags, flags.CALL_HELP, "call")
    add_arguments(call)

    nodes = _command(commands, "nodes", "what a mesh looks like: nodes, states, endpoints, load")
    add_arguments(nodes, flags.NodesFlags, flags.NODES_HELP, "nodes")
    add_arguments(nodes)

    commands.add_parser(SIM, help="simulate the mesh: run, replay, shrink, mutants", add_help=False)
    return parser


def _serving_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands that serve models, and the one that talks to them."""
    from launch import (
        flags_chat,
        flags_drain,
        flags_engines,
        flags_explain,
        flags_frontend,
        flags_pools,
        flags_router,
        flags_up,
        flags_worker,
    )
    from mesh.options import add_arguments

    up = _command(commands, "up", "serve a model: workers, frontends and routers, kept running", flags_up.UP_EPILOG)
    add_arguments(up, flags_up.UpFlags, flags_up.UP_HELP, "up")
    add_arguments(up, only=flags_up.MESH_FLAGS)
    up.add_argument("worker_flags", nargs="*", metavar="-- WORKER FLAGS", help=flags_up.UP_WORDS_HELP)

    frontend = _command(commands, "frontend", "answer HTTP: one node, OpenAI's API for every model of the mesh")
    add_arguments(frontend, flags_frontend.FrontendFlags, flags_frontend.FRONTEND_HELP, "frontend")
    add_arguments(frontend)

    worker = _command(commands, "worker", "serve a model: one node")
    add_arguments(worker, flags_worker.WorkerFlags, flags_worker.WORKER_HELP, "worker")
    add_arguments(worker)
    worker.add_argument("native_words", nargs="*", metavar="-- FLAGS", help=flags_worker.WORKER_WORDS_HELP)

    engines = _command(
        commands, "engines", "which engines this machine has, and how to install one", flags_engines.ENGINES_EPILOG
    )
    engines.add_argument("words", nargs="*", metavar="install NAME", help=flags_engines.ENGINES_WORDS_HELP)
    add_arguments(engines, flags_engines.EnginesFlags, flags_engines.ENGINES_HELP, "engines")

    router = _command(commands, "router", "say where requests should go: one node")
    add_arguments(router, flags_router.RouterFlags, flags_router.ROUTER_HELP, "router")
    add_arguments(router)

    pools = _command(commands, "pools", "say in which pool of workers requests should go, and to whom there: one node")
    add_arguments(pools, flags_pools.PoolsFlags, flags_pools.POOLS_HELP, "pools")
    add_arguments(pools)

    explain = _command(commands, "explain", "say why a request went where it went: candidates, caches, loads, costs")
    explain.add_argument("request", metavar="REQUEST", help=flags_explain.REQUEST_HELP)
    add_arguments(explain, flags_explain.ExplainFlags, flags_explain.EXPLAIN_HELP, "explain")
    add_arguments(explain)

    drain = _command(commands, "drain", "let a node leave: it takes no more work, and what runs there moves")
    drain.add_argument("node", metavar="NODE", help="its id, the beginning of its id, or its name")
    add_arguments(drain, flags_drain.DrainFlags, flags_drain.DRAIN_HELP, "drain")
    add_arguments(drain)

    chat = _command(commands, "chat", "talk to a model from the terminal", flags_chat.CHAT_EPILOG)
    add_arguments(chat, flags_chat.ChatFlags, flags_chat.CHAT_HELP, "chat")
    chat.add_argument("prompt", nargs="*", metavar="QUESTION", help=flags_chat.CHAT_WORDS_HELP)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str, epilog: str = ""
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(module=f"launch.{name}", known=parser._option_string_actions)
    return parser


def _epilog() -> str:
    codes = "\n".join(f"  {code.value:>3}  {text}" for code, text in MEANINGS.items())
    return (
        "Each flag can be given as a variable, named in brackets where the flag is described; the flag wins.\n"
        f"WIREMESH_DEBUG=1 shows tracebacks.\n\nexit codes:\n{codes}"
    )


def _explain(error: Exception) -> tuple[Exit, str]:
    """The exit code and the sentence for an error."""
    if isinstance(error, Complaint):
        return error.code, str(error)
    for kind in type(error).__mro__:
        code = CODES.get(f"{kind.__module__}.{kind.__name__}")
        if code is not None:
            return code, str(error)
    return Exit.INTERNAL, f"{type(error).__name__}: {error} (WIREMESH_DEBUG=1 shows where; please report it)"


def _silence_stdout() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
