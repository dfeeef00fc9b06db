"""`python -m tools`: see --help."""

import argparse
import os
import sys

from tools.roadmap import RoadmapError
from tools.subject import SubjectError

_EPILOG = """\
a first hour:
  pytest                                the roadmap's progress
  python -m tools show silu             what one item asks for
  python -m tools scaffold mine         an empty implementation of your own
  pytest --impl mine --item silu        your code against the specs
"""


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools",
        description="Tools around the roadmap's specs and implementations. Run them from the repository's root.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, help):
        return commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.".replace("?.", "?"))

    show = add("show", "what an item asks for: papers, public names, claims, bugs")
    show.add_argument("item", metavar="ITEM")
    show.add_argument("--impl", default="mine", metavar="PACKAGE", help="the package that you write; default: mine")
    add("next", "what to do next, from all runs of a package").add_argument("--impl", default="impl", metavar="PACKAGE")
    add("scaffold", "make an empty implementation to fill in").add_argument("folder", metavar="DIR")
    checklist = add("checklist", "does CHECKLIST.md agree with the last complete run?")
    checklist.add_argument("--update", action="store_true", help="write CHECKLIST.md and README's counts")
    golden = add("golden", "do the golden values still re-derive from their oracles?")
    golden.add_argument("--update", action="store_true", help="write the frozen arrays and their provenance")
    golden.add_argument("--installed", action="store_true", help="derive only where the oracles are installed")
    strength = add("strength", "which of the known bugs do the specs catch?")
    strength.add_argument("--new", action="store_true", help="only bugs that have no row in kills.json yet")
    strength.add_argument(
        "--recorded", action="store_true", help="run only some of the killing specs that kills.json names"
    )
    strength.add_argument("--mutants", metavar="ITEM", help="run automatic mutants of this item instead")
    strength.add_argument("--sample", type=int, default=60, metavar="N", help="at most so many mutants; default: 60")
    strength.add_argument("--seed", type=int, default=0, help="of the sample; default: 0")
    strength.add_argument("--jobs", type=int, metavar="N", help="runs side by side; default: one a core")
    add("lint", "does a spec rest on a vacuous oracle, a wide tolerance, a clock? who imports whom?")
    peers = add("peers", "do the specs accept other people's correct code?")
    peers.add_argument("--peer", action="append", default=[], metavar="NAME", help="only this peer (repeatable)")
    laws = add("laws", "which laws does each item state, and which do not apply?")
    claims = add("claims", "which claims does each item make, and which were lost?")
    claims.add_argument("--before", metavar="REV", help="compare with the claims of this revision")
    add("guards", "is every guard against false green missed when it is taken out?")
    diagnosis = add("diagnosis", "how often does a failure name the right bug?")
    processors = add("processors", "do golden values, specs and kills stand along other processors' code paths?")
    processors.add_argument("--specs", action="store_true", help="run the specs in each cell, not the golden check")
    processors.add_argument("--kills", action="store_true", help="ask the recorded killing specs in each cell instead")
    processors.add_argument("--product", action="store_true", help="every core with every capability and thread count")
    processors.add_argument("--cell", action="append", default=[], metavar="WORD", help="only cells so named")
    processors.add_argument("--jobs", type=int, metavar="N", help="cells side by side; default: one a core")
    shuffle = add("shuffle", "do the specs hold in any order, with any examples, on any number of workers?")
    shuffle.add_argument("--runs", type=int, default=20, metavar="N", help="default: 20")
    shuffle.add_argument("--seed", type=int, default=0, metavar="N", help="of the first run; default: 0")
    shuffle.add_argument("--impl", default="impl", metavar="PACKAGE", help="the implementation under test")
    bench = add("bench", "time our layers next to the libraries', same inputs, same run")
    bench.add_argument("--seconds", type=float, default=1.0, help="time a measurement; default: 1")
    bench.add_argument("--subject", action="append", default=[], choices=["impl", "fast"], help="only this one")
    bench.add_argument("--no-compile", action="store_true", help="time the eager forms alone, in far less time")
    lines = add("lines", "how many lines of logic does a reader of an item get through?")
    from tools import lines as rule

    lines.description, lines.formatter_class = rule.__doc__, argparse.RawDescriptionHelpFormatter
    lines.add_argument("--impl", default="impl", metavar="PACKAGE", help="the subject that is counted; default: impl")
    lines.add_argument("--before", metavar="REV", help="count a git revision as well, and show the difference")
    for sub in (golden, strength, peers, laws, claims, diagnosis, bench, processors, lines, shuffle):
        sub.add_argument("--item", action="append", default=[], metavar="ID", help="only this item (repeatable)")
    arguments = parser.parse_args(argv)
    try:
        status = _run(arguments)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        # `show … | head`: nobody reads on, and nothing is left to be written when this process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (RoadmapError, SubjectError) as error:
        print(error, file=sys.stderr)
        return 2


def _run(arguments) -> int:
    # Imported late: `--help` should not wait for torch.
    match arguments.command:
        case "show":
            from tools.show import show

            return show(arguments.item, arguments.impl)
        case "next":
            from tools.show import suggest

            return suggest(arguments.impl)
        case "scaffold":
            from tools.scaffold import main as run

            return run(arguments.folder)
        case "checklist":
            from tools.checklist import main as run

            return run(arguments.update)
        case "golden":
            from tools.golden import main as run

            return run(arguments.update, arguments.installed, arguments.item)
        case "strength" if arguments.mutants:
            from tools.mutants import main as run

            return run(arguments.mutants, arguments.sample, arguments.seed, arguments.jobs)
        case "strength":
            from tools.strength import main as run

            return run(arguments.item, arguments.jobs, arguments.recorded, arguments.new)
        case "lint":
            from tools.lint import main as run

            return run()
        case "peers":
            from tools.peers import main as run

            return run(arguments.peer, arguments.item)
        case "laws":
            from tools.law_matrix import main as run

            return run(arguments.item)
        case "claims":
            from tools.claims import main as run

            return run(arguments.before, arguments.item)
        case "guards":
            from tools.guards import main as run

            return run()
        case "diagnosis":
            from tools.diagnosis import main as run

            return run(arguments.item)
        case "processors":
            from tools.processors import main as run

            a = arguments
            return run(a.specs, a.kills, a.product, a.item, a.cell, a.jobs)
        case "shuffle":
            from tools.shuffle import main as run

            return run(arguments.runs, arguments.seed, arguments.item, arguments.impl)
        case "lines":
            from tools.lines import main as run

            return run(arguments.item, arguments.impl, arguments.before)
        case "bench":
            from tools.bench import main as run

            return run(arguments.item, arguments.seconds, arguments.subject, not arguments.no_compile)


if __name__ == "__main__":
    sys.exit(main())
